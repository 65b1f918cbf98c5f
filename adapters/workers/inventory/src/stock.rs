//! Tables `stock`, `reservations` and `moves`: read and locked once per batch, written once per batch.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
};

use amends_pool::Connection;
use amends_worker::{Locks, PgTx, store::Error};
use sqlx::{FromRow, Postgres, postgres::PgArguments, query::Query};
use uuid::Uuid;

/// Part of a statement that appends to the ledger. The lock makes the order of the numbers the order of the commits, so
/// that a reader past a number misses no late commit.
macro_rules! appended {
    () => {
        "locked AS MATERIALIZED (SELECT pg_advisory_xact_lock($1)), appended AS (
            INSERT INTO moves (product_id, kind, quantity, command_id)
            SELECT m.product_id, m.kind, m.quantity, m.command_id
            FROM (SELECT count(*) FROM locked) AS held,
                 UNNEST($2::text[], $3::text[], $4::int8[], $5::uuid[]) AS m (product_id, kind, quantity, command_id))"
    };
}

/// The stock of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stock {
    /// Quantity in the warehouse, reserved or not.
    pub on_hand: i64,
    /// Reserved part of it.
    pub reserved: i64,
    /// Quantity shipped to customers.
    pub shipped: i64,
}

/// What a reserve command holds of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserved {
    /// The saga.
    pub saga_id: Uuid,
    /// The quantity.
    pub quantity: i64,
    /// The status.
    pub status: Status,
}

/// Status of a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The stock is reserved.
    Held,
    /// The stock was given back.
    Released,
    /// The stock was shipped.
    Taken,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Status::Held => "held",
            Status::Released => "released",
            Status::Taken => "taken",
        }
    }

    fn of(word: &str) -> Result<Self, Error> {
        [Status::Held, Status::Released, Status::Taken]
            .into_iter()
            .find(|s| s.as_str() == word)
            .ok_or_else(|| Error::Unavailable(format!("reservation status {word} is not known")))
    }
}

/// A line of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The product.
    pub product_id: String,
    /// `reserved`, `released`, `taken`, `returned`, `adjusted`.
    pub kind: &'static str,
    /// The quantity.
    pub quantity: i64,
    /// The command that moved it; `None` for an adjustment.
    pub command_id: Option<Uuid>,
}

/// The locked rows of a batch: reservations first, then stock, both in the order of their keys, in every process.
#[derive(Debug, Default)]
pub struct Books {
    /// By product.
    pub stock: BTreeMap<String, Stock>,
    /// By command and product.
    pub reservations: BTreeMap<Uuid, BTreeMap<String, Reserved>>,
    /// How many pieces of what a reservation took came back, by reservation and product.
    pub returned: Returned,
    /// The restocks of this batch.
    pub restocks: Vec<Restock>,
    /// The moves of this batch.
    pub moves: Vec<Move>,
    /// Rows that other transactions hold; nothing is known about them here.
    pub passed_over: PassedOver,
}

/// Number of pieces that came back, by reservation and product.
pub type Returned = BTreeMap<(Uuid, String), i64>;

/// Pieces that came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restock {
    /// The command that had reserved them.
    pub reservation: Uuid,
    /// The product.
    pub product_id: String,
    /// The command that puts them back into stock.
    pub command_id: Uuid,
    /// Number of pieces.
    pub quantity: i64,
}

/// Rows that other transactions hold.
#[derive(Debug, Default)]
pub struct PassedOver {
    /// Reservations, by their commands.
    pub reservations: BTreeSet<Uuid>,
    /// Products.
    pub products: BTreeSet<String>,
}

/// A transaction that can open and write the books.
pub trait Ledger: Send {
    /// Reads and locks these reservations, their products, and the products to be reserved.
    fn open(
        &mut self,
        reservations: &BTreeSet<Uuid>,
        products: BTreeSet<String>,
        locks: Locks,
    ) -> impl Future<Output = Result<Books, Error>> + Send;

    /// Reads what came back of these reservations, which are locked.
    fn returned(
        &mut self,
        reservations: &BTreeSet<Uuid>,
    ) -> impl Future<Output = Result<Returned, Error>> + Send;

    /// Writes the moves.
    fn write(&mut self, books: &Books) -> impl Future<Output = Result<(), Error>> + Send;
}

impl Ledger for PgTx {
    async fn open(
        &mut self,
        reservations: &BTreeSet<Uuid>,
        products: BTreeSet<String>,
        locks: Locks,
    ) -> Result<Books, Error> {
        Books::open(self, reservations, products, locks).await
    }

    async fn returned(&mut self, reservations: &BTreeSet<Uuid>) -> Result<Returned, Error> {
        let keys: Vec<Uuid> = reservations.iter().copied().collect();
        let rows: Vec<(Uuid, String, i64)> = sqlx::query_as(
            "SELECT reservation, product_id, sum(quantity)::int8 FROM restocks
             WHERE reservation = ANY($1) GROUP BY reservation, product_id",
        )
        .bind(keys)
        .fetch_all(&mut **self)
        .await?;
        Ok(rows.into_iter().map(|(key, product, n)| ((key, product), n)).collect())
    }

    async fn write(&mut self, books: &Books) -> Result<(), Error> {
        books.write(self).await
    }
}

#[derive(FromRow)]
struct ReservationRow {
    command_id: Uuid,
    product_id: String,
    saga_id: Uuid,
    quantity: i64,
    status: String,
}

#[derive(FromRow)]
struct StockRow {
    product_id: String,
    on_hand: i64,
    reserved: i64,
    shipped: i64,
}

impl StockRow {
    fn read(self) -> (String, Stock) {
        let Self { product_id, on_hand, reserved, shipped } = self;
        (product_id, Stock { on_hand, reserved, shipped })
    }
}

impl Books {
    /// Reads and locks these reservations, their products, and the products to be reserved.
    async fn open(
        db: &mut Connection,
        reservations: &BTreeSet<Uuid>,
        products: BTreeSet<String>,
        locks: Locks,
    ) -> Result<Self, Error> {
        let mut books = Self::default();
        let mut products = products;
        if !reservations.is_empty() {
            books.open_reservations(db, reservations, locks).await?;
            products.extend(books.reservations.values().flat_map(|lines| lines.keys().cloned()));
        }
        if !products.is_empty() {
            books.open_stock(db, products, locks).await?;
        }
        Ok(books)
    }

    async fn open_reservations(
        &mut self,
        db: &mut Connection,
        reservations: &BTreeSet<Uuid>,
        locks: Locks,
    ) -> Result<(), Error> {
        let keys: Vec<Uuid> = reservations.iter().copied().collect();
        let rows: Vec<ReservationRow> = sqlx::query_as(match locks {
            Locks::Wait => {
                "SELECT command_id, product_id, saga_id, quantity, status FROM reservations
                 WHERE command_id = ANY($1) ORDER BY command_id, product_id FOR UPDATE"
            }
            Locks::PassOver => {
                "SELECT command_id, product_id, saga_id, quantity, status FROM reservations
                 WHERE command_id = ANY($1) ORDER BY command_id, product_id FOR UPDATE SKIP LOCKED"
            }
        })
        .bind(&keys)
        .fetch_all(&mut *db)
        .await?;
        for ReservationRow { command_id, product_id, saga_id, quantity, status } in rows {
            let status = Status::of(&status)?;
            let lines = self.reservations.entry(command_id).or_default();
            lines.insert(product_id, Reserved { saga_id, quantity, status });
        }
        if locks == Locks::PassOver {
            let all: Vec<(Uuid, String)> =
                sqlx::query_as("SELECT command_id, product_id FROM reservations WHERE command_id = ANY($1)")
                    .bind(&keys)
                    .fetch_all(&mut *db)
                    .await?;
            let is_locked = |(key, product): &(Uuid, String)| {
                !self.reservations.get(key).is_some_and(|lines| lines.contains_key(product))
            };
            self.passed_over.reservations =
                all.iter().filter(|line| is_locked(line)).map(|(key, _)| *key).collect();
            self.reservations.retain(|key, _| !self.passed_over.reservations.contains(key));
        }
        Ok(())
    }

    async fn open_stock(
        &mut self,
        db: &mut Connection,
        products: BTreeSet<String>,
        locks: Locks,
    ) -> Result<(), Error> {
        let mut wanted: Vec<String> = products.into_iter().collect();
        if locks == Locks::Wait {
            let rows: Vec<StockRow> = sqlx::query_as(
                "SELECT product_id, on_hand, reserved, shipped FROM stock
                 WHERE product_id = ANY($1) ORDER BY product_id FOR UPDATE",
            )
            .bind(&wanted)
            .fetch_all(&mut *db)
            .await?;
            self.stock.extend(rows.into_iter().map(StockRow::read));
            return Ok(());
        }
        // Other workers hold a product for milliseconds, which is no reason to pass over commands that need it.
        for pause in [0.0, 0.02, 0.08] {
            let rows: Vec<StockRow> = sqlx::query_as(
                "SELECT product_id, on_hand, reserved, shipped FROM stock, (SELECT pg_sleep($2)) AS paused
                 WHERE product_id = ANY($1) ORDER BY product_id FOR UPDATE OF stock SKIP LOCKED",
            )
            .bind(&wanted)
            .bind(pause)
            .fetch_all(&mut *db)
            .await?;
            self.stock.extend(rows.into_iter().map(StockRow::read));
            wanted.retain(|product| !self.stock.contains_key(product));
            if wanted.is_empty() {
                return Ok(());
            }
        }
        // A product that does not exist is held by no transaction.
        let held: Vec<String> = sqlx::query_scalar("SELECT product_id FROM stock WHERE product_id = ANY($1)")
            .bind(&wanted)
            .fetch_all(&mut *db)
            .await?;
        self.passed_over.products = held.into_iter().collect();
        Ok(())
    }

    /// Writes the moves of the ledger.
    async fn write(&self, db: &mut Connection) -> Result<(), Error> {
        if self.moves.is_empty() {
            return Ok(());
        }
        self.write_restocks(db).await?;
        let moved: BTreeSet<&str> = self.moves.iter().map(|m| m.product_id.as_str()).collect();
        let stock: Vec<(&str, &Stock)> =
            moved.iter().filter_map(|p| self.stock.get_key_value(*p)).map(|(p, s)| (p.as_str(), s)).collect();
        let lines: Vec<(Uuid, &String, &Reserved)> = (self.reservations.iter())
            .flat_map(|(id, lines)| lines.iter().map(|(p, r)| (*id, p, r)))
            .collect();
        let written = sqlx::query(concat!(
            "WITH ",
            appended!(),
            ", kept AS (
                INSERT INTO reservations (command_id, product_id, saga_id, quantity, status)
                SELECT * FROM UNNEST($6::uuid[], $7::text[], $8::uuid[], $9::int8[], $10::text[])
                ON CONFLICT (command_id, product_id) DO UPDATE SET status = excluded.status
                WHERE reservations.status <> excluded.status)
             UPDATE stock AS s SET on_hand = n.on_hand, reserved = n.reserved, shipped = n.shipped
             FROM UNNEST($11::text[], $12::int8[], $13::int8[], $14::int8[])
                  AS n (product_id, on_hand, reserved, shipped)
             WHERE s.product_id = n.product_id"
        ));
        bind(written, &self.moves)
            .bind(lines.iter().map(|(id, ..)| *id).collect::<Vec<_>>())
            .bind(lines.iter().map(|(_, p, _)| p.as_str()).collect::<Vec<_>>())
            .bind(lines.iter().map(|(.., r)| r.saga_id).collect::<Vec<_>>())
            .bind(lines.iter().map(|(.., r)| r.quantity).collect::<Vec<_>>())
            .bind(lines.iter().map(|(.., r)| r.status.as_str()).collect::<Vec<_>>())
            .bind(stock.iter().map(|(p, _)| *p).collect::<Vec<_>>())
            .bind(stock.iter().map(|(_, s)| s.on_hand).collect::<Vec<_>>())
            .bind(stock.iter().map(|(_, s)| s.reserved).collect::<Vec<_>>())
            .bind(stock.iter().map(|(_, s)| s.shipped).collect::<Vec<_>>())
            .execute(&mut *db)
            .await?;
        Ok(())
    }
}

impl Books {
    async fn write_restocks(&self, db: &mut Connection) -> Result<(), Error> {
        if self.restocks.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "INSERT INTO restocks (reservation, product_id, command_id, quantity)
             SELECT * FROM UNNEST($1::uuid[], $2::text[], $3::uuid[], $4::int8[])",
        )
        .bind(self.restocks.iter().map(|r| r.reservation).collect::<Vec<_>>())
        .bind(self.restocks.iter().map(|r| r.product_id.as_str()).collect::<Vec<_>>())
        .bind(self.restocks.iter().map(|r| r.command_id).collect::<Vec<_>>())
        .bind(self.restocks.iter().map(|r| r.quantity).collect::<Vec<_>>())
        .execute(db)
        .await?;
        Ok(())
    }
}

/// The advisory lock of those who append to the ledger.
const LEDGER: i64 = 0x6c65_6467_6572;

/// Binds the parameters of the ledger's statement.
fn bind<'q>(query: Query<'q, Postgres, PgArguments>, moves: &'q [Move]) -> Query<'q, Postgres, PgArguments> {
    query
        .bind(LEDGER)
        .bind(moves.iter().map(|m| m.product_id.as_str()).collect::<Vec<_>>())
        .bind(moves.iter().map(|m| m.kind).collect::<Vec<_>>())
        .bind(moves.iter().map(|m| m.quantity).collect::<Vec<_>>())
        .bind(moves.iter().map(|m| m.command_id).collect::<Vec<_>>())
}

/// Appends a change by hand to the ledger.
pub(crate) async fn append_by_hand(
    db: &mut Connection,
    product_id: &str,
    quantity: i64,
    reason: Option<&str>,
    by: Option<&str>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "WITH locked AS MATERIALIZED (SELECT pg_advisory_xact_lock($1))
         INSERT INTO moves (product_id, kind, quantity, reason, made_by)
         SELECT $2, 'adjusted', $3, $4, $5 FROM (SELECT count(*) FROM locked) AS held",
    )
    .bind(LEDGER)
    .bind(product_id)
    .bind(quantity)
    .bind(reason)
    .bind(by)
    .execute(db)
    .await?;
    Ok(())
}
