//! The rows that an order writes in the engine's database on its way, by the engine's own SQL: births through
//! [`OrderStore::place`], steps through [`SagaStore::commit`], decided by the core from replies that no worker sent. One
//! connection, 500 at a time; only the calls of the store are timed.

use std::time::{Duration, Instant};

use amends_api::auth::DEV_SUBJECT;
use amends_engine::{
    core::{
        Change, CommandToSend, Decision, Definition, Event, Input, Needs, NewSaga, Occurrence, ReplyEvent,
        Saga, command, start, transition,
    },
    port::{SagaStore, Wants, Write},
};
use amends_orders::{NewOrder, OrderStore, Placed};
use amends_pool as pool;
use amends_postgres::PgSagaStore;
use amends_protocol::{Exposure, Json, Outcome, SLOTS, TokenKey, id};
use amends_workflows::order_fulfilment;
use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, Utc};
use serde_json::json;
use uuid::Uuid;

use crate::{args::Mix, load::shop::Shop};

const SAGAS: usize = 500;
const WARM_UP: usize = 10;
const LONG: Duration = Duration::from_secs(6);

/// Sagas a second of database time.
pub async fn measure(url: &str) -> Result<f64> {
    let pool = pool::connect(url, 1, "amends-bench")?;
    let workflows = amends_workflows::all(&Default::default());
    let definition = workflows.newest(order_fulfilment::NAME).context("no workflow")?.definition.clone();
    let ceiling = Ceiling {
        orders: OrderStore::new(pool.clone()),
        store: PgSagaStore::new(pool.clone()),
        shop: Shop::new(Mix::Fulfilled, 1),
        key: TokenKey::new([7; 32]),
        definition,
    };
    for n in 0..WARM_UP {
        ceiling.batch(n).await?;
    }
    let (mut took, mut batches) = (Duration::ZERO, 0);
    while took < LONG {
        took += ceiling.batch(WARM_UP + batches).await?;
        batches += 1;
    }
    pool.close().await;
    Ok((batches * SAGAS) as f64 / took.as_secs_f64())
}

struct Ceiling {
    orders: OrderStore,
    store: PgSagaStore,
    shop: Shop,
    key: TokenKey,
    definition: Definition,
}

impl Ceiling {
    /// Takes 500 orders from birth to end; returns the time spent in the store.
    async fn batch(&self, n: usize) -> Result<Duration> {
        let slot = u16::try_from(n % usize::from(SLOTS))?;
        let orders: Vec<NewOrder> = (0..SAGAS).map(|_| self.order(slot)).collect();
        let birth = |order: &NewOrder, now| start(&self.definition, order.saga.clone(), &order.data, now);
        let begun = Instant::now();
        let now = self.orders.now().await?;
        let placed = self.orders.place(now, &orders, birth).await?;
        let mut took = begun.elapsed();
        let mut under_way = Vec::with_capacity(SAGAS);
        for (order, placed) in orders.iter().zip(placed) {
            let Placed::New { change, .. } = placed else { bail!("an order was not placed") };
            under_way.push((order, change.saga, change.sends));
        }
        while under_way.iter().any(|(_, _, sends)| !sends.is_empty()) {
            let now = Utc::now();
            let decided = under_way.iter().map(|(order, saga, sends)| self.decide(order, saga, sends, now));
            let decided = decided.collect::<Result<Vec<_>>>()?;
            let writes: Vec<Write> = under_way
                .iter()
                .zip(&decided)
                .map(|((_, saga, _), change)| self.write(saga, change))
                .collect();
            let begun = Instant::now();
            let written = self.store.commit(&writes).await?.written;
            took += begun.elapsed();
            ensure!(written.len() == writes.len(), "somebody else wrote the same sagas");
            for (place, change) in under_way.iter_mut().zip(decided) {
                (place.1, place.2) = (change.saga, change.sends);
            }
        }
        ensure!(under_way.iter().all(|(_, saga, _)| !saga.live), "a saga did not end");
        Ok(took)
    }

    fn order(&self, slot: u16) -> NewOrder {
        let [id, saga] = [(); 2].map(|()| id::at_slot(Uuid::now_v7(), slot));
        let basket = self.shop.next();
        NewOrder {
            id,
            saga: NewSaga { id: saga, business_key: id.to_string(), trace: None },
            subject: DEV_SUBJECT.to_owned(),
            idempotency: Some((Uuid::new_v4().to_string(), basket.request.fingerprint)),
            customer_id: basket.request.customer_id.clone(),
            currency: basket.request.currency.clone(),
            total: basket.request.total(),
            lines: basket.lines.clone(),
            data: basket.data.clone(),
            personal: basket.personal.clone(),
        }
    }

    /// Applies a success of the one outstanding command.
    fn decide(
        &self,
        order: &NewOrder,
        saga: &Saga,
        sends: &[CommandToSend],
        now: DateTime<Utc>,
    ) -> Result<Change> {
        let [send] = sends else { bail!("one command at a time") };
        let input = Input { data: &order.data, personal: Some(&order.personal) };
        let command = command(&self.definition, saga, send, input, 0, &self.key);
        let mut reply = command.reply(Outcome::Succeeded, now);
        let (result, exposure) = success(&command.step, order);
        (reply.result, reply.exposure) = (result.map(Json::from), exposure);
        let event = Event::Replied(ReplyEvent::from(reply));
        match transition(&self.definition, saga, &Occurrence { event, at: now, jitter: 500 }) {
            Decision::Changed(change) => Ok(*change),
            other => bail!("a yes changes nothing: {other:?}"),
        }
    }

    fn write(&self, saga: &Saga, change: &Change) -> Write {
        let needs = change.sends.iter().map(|send| self.definition.steps[send.step].needs).max();
        Write {
            read_revision: saga.revision,
            saga: change.saga.clone(),
            entries: vec![change.entry.clone()],
            wants: Wants { data: needs >= Some(Needs::Input), personal: needs >= Some(Needs::Personal) },
        }
    }
}

/// The result and exposure that the real workers report.
fn success(step: &str, order: &NewOrder) -> (Option<serde_json::Value>, Vec<Exposure>) {
    match step {
        "reserve" => (None, vec![Exposure::new("stock_reserved", "product-0001", 2)]),
        "pay" => (
            Some(json!({ "chargeId": Uuid::new_v4() })),
            vec![Exposure::new("money_captured", order.currency.clone(), order.total)],
        ),
        "ship" => (
            Some(json!({ "trackingNumber": format!("AM{:016X}", order.id.as_u128() as u64) })),
            vec![Exposure::new("label_bought", "label", 1)],
        ),
        _ => (None, vec![Exposure::new("stock_reserved", "product-0001", -2)]),
    }
}
