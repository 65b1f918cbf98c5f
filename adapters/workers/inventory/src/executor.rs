//! The business logic: reserve, release, take, restock. It decides in memory, for the whole batch, on locked rows.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use amends_pool::Pool;
use amends_protocol::{Exposure, Json, Reply};
use amends_worker::{
    Action, Answer, Locks, Participant, Settings, TransactionalExecutor, Work, store::Error,
};
use serde::Deserialize;
use uuid::Uuid;

use crate::{
    cache::StockCache,
    stock::{Books, Ledger, Move, Reserved, Restock, Status},
};

/// The inventory's executor.
#[derive(Debug, Default)]
pub struct Inventory {
    cache: StockCache,
    /// Products that were moved, and that the cache has not forgotten yet.
    moved: Mutex<BTreeSet<String>>,
}

impl Inventory {
    /// Creates an executor whose readers have this cache.
    pub fn with_cache(cache: StockCache) -> Self {
        Self { cache, moved: Mutex::default() }
    }

    fn moved(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn settle<Tx: Ledger>(
        &self,
        tx: &mut Tx,
        work: &[Work],
        locks: Locks,
    ) -> Result<Vec<Answer>, Error> {
        let (answers, moved) = settle(tx, work, locks).await?;
        if !matches!(self.cache, StockCache::Off) {
            self.moved().extend(moved);
        }
        Ok(answers)
    }
}

impl Participant for Inventory {
    fn over(_: Pool) -> Self {
        Self::default()
    }

    fn settings() -> Settings {
        crate::settings()
    }

    async fn expire_books(pool: &Pool, retention: Duration) -> Result<u64, Error> {
        crate::expire_books(pool, retention).await
    }
}

const EXPOSURE: &str = "stock_reserved";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reserve {
    lines: Vec<Line>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    product_id: String,
    quantity: i64,
}

#[derive(Deserialize)]
struct PutBack {
    reservation: Uuid,
    lines: Vec<Line>,
}

#[derive(Deserialize)]
struct Take {
    reservation: Uuid,
}

/// The parsed request of a piece of work.
enum Asked {
    Reserve(BTreeMap<String, i64>),
    Release { reservation: Uuid },
    Take { reservation: Uuid },
    Restock { reservation: Uuid, lines: BTreeMap<String, i64> },
    Nonsense(Answer),
}

impl Asked {
    fn read(work: &Work) -> Self {
        let step = work.command.step.as_str();
        match (work.action, step) {
            (Action::Execute, "reserve") => match work.command.payload.read::<Reserve>() {
                Ok(reserve) => merged(reserve.lines).map_or_else(Asked::Nonsense, Asked::Reserve),
                Err(_) => bad_payload("no lines of productId and quantity"),
            },
            (Action::Undo, "reserve") => Asked::Release { reservation: work.target() },
            (Action::Execute, "take") => match work.command.payload.read::<Take>() {
                Ok(Take { reservation }) => Asked::Take { reservation },
                Err(_) => bad_payload("no reservation"),
            },
            (Action::Execute, "restock") => match work.command.payload.read::<PutBack>() {
                Ok(PutBack { reservation, lines }) => {
                    merged(lines).map_or_else(Asked::Nonsense, |lines| Asked::Restock { reservation, lines })
                }
                Err(_) => bad_payload("no reservation and lines"),
            },
            (Action::Undo, "restock") => {
                Asked::Nonsense(Answer::failed_for_good("no_compensation", "what is back is in stock"))
            }
            (Action::Undo, "take") => Asked::Nonsense(Answer::failed_for_good(
                "no_compensation",
                "what has been taken has been shipped",
            )),
            _ => Asked::Nonsense(Answer::failed_for_good(
                "unknown_step",
                "inventory knows reserve, take and restock",
            )),
        }
    }
}

fn bad_payload(text: &str) -> Asked {
    Asked::Nonsense(Answer::failed_for_good("bad_payload", text))
}

/// Returns the quantities by product.
fn merged(lines: Vec<Line>) -> Result<BTreeMap<String, i64>, Answer> {
    let mut wanted = BTreeMap::new();
    for Line { product_id, quantity } in lines {
        let sum: &mut i64 = wanted.entry(product_id).or_default();
        *sum = (quantity > 0)
            .then(|| sum.checked_add(quantity))
            .flatten()
            .ok_or_else(|| Answer::failed_for_good("bad_payload", "a quantity is out of range"))?;
    }
    if wanted.is_empty() {
        return Err(Answer::failed_for_good("bad_payload", "no lines"));
    }
    Ok(wanted)
}

impl<Tx: Ledger> TransactionalExecutor<Tx> for Inventory {
    async fn run(&self, tx: &mut Tx, work: &[Work]) -> Result<Vec<Answer>, Error> {
        self.settle(tx, work, Locks::Wait).await
    }

    async fn run_past(&self, tx: &mut Tx, work: &[Work]) -> Result<Vec<Answer>, Error> {
        self.settle(tx, work, Locks::PassOver).await
    }

    async fn committed(&self, replies: &[&Reply]) {
        if matches!(self.cache, StockCache::Off) {
            return;
        }
        let moved = std::mem::take(&mut *self.moved());
        // A reply that is sent again may be the first that arrives.
        let exposed = replies.iter().flat_map(|reply| &reply.exposure).map(|exposure| exposure.unit.as_str());
        let products: BTreeSet<&str> = moved.iter().map(String::as_str).chain(exposed).collect();
        self.cache.forget(&products.into_iter().collect::<Vec<_>>()).await;
    }
}

/// Does a batch's work; returns the answers, and the products that were moved.
async fn settle<Tx: Ledger>(
    tx: &mut Tx,
    work: &[Work],
    locks: Locks,
) -> Result<(Vec<Answer>, Vec<String>), Error> {
    let asked: Vec<Asked> = work.iter().map(Asked::read).collect();
    let (mut reservations, mut products) = (BTreeSet::new(), BTreeSet::new());
    let mut restocked = BTreeSet::new();
    for asked in &asked {
        match asked {
            Asked::Reserve(wanted) => products.extend(wanted.keys().cloned()),
            Asked::Release { reservation } | Asked::Take { reservation } => {
                reservations.insert(*reservation);
            }
            Asked::Restock { reservation, .. } => {
                reservations.insert(*reservation);
                restocked.insert(*reservation);
            }
            Asked::Nonsense(_) => {}
        }
    }
    let mut books = tx.open(&reservations, products, locks).await?;
    if !restocked.is_empty() {
        books.returned = tx.returned(&restocked).await?;
    }
    let answers = work.iter().zip(asked).map(|(work, asked)| books.act(work, asked)).collect();
    tx.write(&books).await?;
    Ok((answers, books.moves.into_iter().map(|moved| moved.product_id).collect()))
}

impl Books {
    /// Returns whether another transaction holds what this request needs.
    fn is_passed_over(&self, asked: &Asked) -> bool {
        match asked {
            Asked::Reserve(wanted) => {
                wanted.keys().any(|product| self.passed_over.products.contains(product))
            }
            Asked::Release { reservation }
            | Asked::Take { reservation }
            | Asked::Restock { reservation, .. } => {
                let mut lines = self.reservations.get(reservation).into_iter().flat_map(BTreeMap::keys);
                self.passed_over.reservations.contains(reservation)
                    || lines.any(|product| self.passed_over.products.contains(product))
            }
            Asked::Nonsense(_) => false,
        }
    }

    fn act(&mut self, work: &Work, asked: Asked) -> Answer {
        if self.is_passed_over(&asked) {
            return Answer::PassedOver;
        }
        match asked {
            Asked::Reserve(wanted) => self.reserve(work, &wanted),
            Asked::Release { reservation } => self.release(work, reservation),
            Asked::Take { reservation } => self.take(work, reservation),
            Asked::Restock { reservation, lines } => self.restock(work, reservation, &lines),
            Asked::Nonsense(answer) => answer,
        }
    }

    /// Reserves all lines or none.
    fn reserve(&mut self, work: &Work, wanted: &BTreeMap<String, i64>) -> Answer {
        for (product, quantity) in wanted {
            match self.stock.get(product) {
                None => return Answer::refused("unknown_product", &format!("no product {product}")),
                Some(stock) if stock.on_hand - stock.reserved < *quantity => {
                    return Answer::refused("out_of_stock", &format!("not enough of {product}"));
                }
                Some(_) => {}
            }
        }
        let mut lines = BTreeMap::new();
        let mut held = Vec::with_capacity(wanted.len());
        for (product, &quantity) in wanted {
            if let Some(stock) = self.stock.get_mut(product) {
                stock.reserved += quantity;
            }
            let saga_id = work.command.saga_id;
            lines.insert(product.clone(), Reserved { saga_id, quantity, status: Status::Held });
            held.push(Exposure::new(EXPOSURE, product, quantity));
            self.moved(work, product, "reserved", quantity);
        }
        self.reservations.insert(work.command.command_id, lines);
        Answer::succeeded(None, held)
    }

    fn release(&mut self, work: &Work, reservation: Uuid) -> Answer {
        let lines = match self.held(reservation) {
            Ok(lines) => lines,
            // A release by this very command would have been answered from its row; so another command released it.
            Err(Status::Released) => return Answer::succeeded(None, Vec::new()),
            Err(_) => return Answer::refused("already_taken", "the reserved stock has been shipped"),
        };
        let mut given_back = Vec::with_capacity(lines.len());
        for (product, quantity) in lines {
            if let Some(stock) = self.stock.get_mut(&product) {
                stock.reserved -= quantity;
            }
            self.moved(work, &product, "released", quantity);
            given_back.push(Exposure::new(EXPOSURE, product, -quantity));
        }
        self.mark(reservation, Status::Released);
        Answer::succeeded(None, given_back)
    }

    fn take(&mut self, work: &Work, reservation: Uuid) -> Answer {
        let lines = match self.held(reservation) {
            Ok(lines) => lines,
            Err(Status::Taken) => {
                return Answer::refused("already_taken", "another command took this reservation");
            }
            Err(_) => return Answer::refused("not_reserved", "there is no such reservation any more"),
        };
        let mut shipped = Vec::with_capacity(lines.len());
        for (product, quantity) in lines {
            if let Some(stock) = self.stock.get_mut(&product) {
                stock.on_hand -= quantity;
                stock.reserved -= quantity;
                stock.shipped += quantity;
            }
            self.moved(work, &product, "taken", quantity);
            shipped.push(Exposure::new(EXPOSURE, product, -quantity));
        }
        self.mark(reservation, Status::Taken);
        Answer::succeeded(Json::of(&serde_json::json!({ "reservation": reservation })).ok(), shipped)
    }

    /// Puts pieces back into stock that a reservation took: never more than it took. Until it has taken them, the answer
    /// is a failure for now.
    fn restock(&mut self, work: &Work, reservation: Uuid, lines: &BTreeMap<String, i64>) -> Answer {
        let not_yet = || Answer::failed_for_now("not_taken", "the reserved stock is not shipped yet");
        let Some(taken) = self.reservations.get(&reservation) else { return not_yet() };
        for (product, quantity) in lines {
            let back = self.returned.get(&(reservation, product.clone())).copied().unwrap_or(0);
            match taken.get(product) {
                Some(line) if line.status == Status::Held => return not_yet(),
                Some(line) if line.status == Status::Taken && back + quantity <= line.quantity => {}
                _ => return Answer::refused("not_shipped", &format!("not as much of {product} was shipped")),
            }
        }
        let mut back = Vec::with_capacity(lines.len());
        for (product, &quantity) in lines {
            if let Some(stock) = self.stock.get_mut(product) {
                stock.on_hand += quantity;
                stock.shipped -= quantity;
            }
            *self.returned.entry((reservation, product.clone())).or_default() += quantity;
            self.restocks.push(Restock {
                reservation,
                product_id: product.clone(),
                command_id: work.command.command_id,
                quantity,
            });
            self.moved(work, product, "returned", quantity);
            back.push(Exposure::new("stock_returned", product, quantity));
        }
        Answer::succeeded(Json::of(&serde_json::json!({ "reservation": reservation })).ok(), back)
    }

    /// Returns the lines that a reservation holds, or else its status.
    fn held(&self, reservation: Uuid) -> Result<Vec<(String, i64)>, Status> {
        let lines = self.reservations.get(&reservation).ok_or(Status::Released)?;
        match lines.values().find(|line| line.status != Status::Held) {
            Some(line) => Err(line.status),
            None => Ok(lines.iter().map(|(product, line)| (product.clone(), line.quantity)).collect()),
        }
    }

    fn mark(&mut self, reservation: Uuid, status: Status) {
        for line in self.reservations.get_mut(&reservation).into_iter().flat_map(BTreeMap::values_mut) {
            line.status = status;
        }
    }

    fn moved(&mut self, work: &Work, product: &str, kind: &'static str, quantity: i64) {
        let command_id = work.command.command_id;
        self.moves.push(Move {
            product_id: product.to_owned(),
            kind,
            quantity,
            command_id: Some(command_id),
        });
    }
}
