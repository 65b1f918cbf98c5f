//! Sagas started in batches: what the api does behind its door, without HTTP.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use amends_api::{auth::DEV_SUBJECT, clock::TokioClock};
use amends_batch::BirthSlots;
use amends_engine::{
    core::{Actor, Definition, Event, NewSaga, start},
    port::Inputs,
    runtime::{
        Engine,
        apply::{Applied, apply},
    },
};
use amends_kafka::KafkaSink;
use amends_orders::{NewOrder, OrderStore, Placed};
use amends_postgres::{Birth, PgSagaStore};
use amends_protocol::{Json, id};
use amends_workflows::order_fulfilment::{CANCELLED, FULFILLED};
use anyhow::{Context, Result};
use chrono::Utc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    ledger::Ledger,
    pace::Pacer,
    shop::{Basket, Kind, Shop},
};
use crate::roles::three_steps;

/// Maximum number of sagas in a transaction, as at the api's door.
const BATCH: usize = 500;

type PgEngine = Engine<PgSagaStore, KafkaSink, TokioClock>;

/// Starts sagas in batches.
pub struct Births {
    /// To send first commands, and to cancel.
    pub engine: Arc<PgEngine>,
    /// Where orders are stored; `None` for the three-step workflow, which has no orders.
    pub orders: Option<OrderStore>,
    /// The workflow.
    pub definition: Definition,
    /// Chooses the slot of the next batch.
    pub slots: Mutex<BirthSlots>,
}

impl Births {
    /// Starts one batch after the other until it is stopped.
    pub async fn run(&self, shop: Shop, mut pacer: Pacer, ledger: Arc<Ledger>, stop: CancellationToken) {
        loop {
            let starts = tokio::select! {
                starts = pacer.next(BATCH) => starts,
                () = stop.cancelled() => return,
            };
            let slot = self.slots.lock().unwrap_or_else(PoisonError::into_inner).choose();
            let ids: Vec<Uuid> = starts.iter().map(|_| id::at_slot(Uuid::now_v7(), slot)).collect();
            for (id, from) in ids.iter().zip(starts) {
                ledger.begin(*id, from);
            }
            let born = match &self.orders {
                Some(orders) => self.place(orders, &shop, &ids, &ledger).await,
                None => self.create(&ids, &ledger).await,
            };
            if let Err(error) = born {
                ledger.end(ids, Instant::now());
                ledger.failed(format!("{error:#}"));
            }
        }
    }

    async fn create(&self, ids: &[Uuid], ledger: &Ledger) -> Result<()> {
        let data = Json::of(&serde_json::json!({ "basket": "b-1001", "amount": 2500, "currency": "EUR" }))?;
        let now = Utc::now();
        let new = |id: &Uuid| NewSaga { id: *id, business_key: id.to_string(), trace: None };
        let changes: Vec<_> = ids.iter().map(|id| start(&self.definition, new(id), &data, now)).collect();
        let births: Vec<_> = changes.iter().map(|change| Birth { change, personal: None }).collect();
        self.engine.store.create(&births).await.context("creating sagas")?;
        ids.iter().for_each(|_| ledger.promise(three_steps::DONE));
        let births = changes.into_iter().map(|change| {
            let inputs = Inputs { saga_id: change.saga.id, data: data.clone(), personal: None };
            (change.saga, change.sends, inputs)
        });
        self.engine.send(births.collect()).await.context("sending first commands")
    }

    async fn place(
        &self,
        orders: &OrderStore,
        shop: &Shop,
        ids: &[Uuid],
        ledger: &Arc<Ledger>,
    ) -> Result<()> {
        let baskets: Vec<_> = ids.iter().map(|_| shop.next()).collect();
        let new: Vec<NewOrder> = ids.iter().zip(&baskets).map(|(id, basket)| order(*id, basket)).collect();
        let birth = |order: &NewOrder, now| start(&self.definition, order.saga.clone(), &order.data, now);
        let now = orders.now().await.context("the database's time")?;
        let placed = orders.place(now, &new, birth).await.context("placing orders")?;
        let mut births = Vec::with_capacity(new.len());
        for (order, placed) in new.into_iter().zip(placed) {
            let Placed::New { change, .. } = placed else { anyhow::bail!("an order was not placed") };
            let inputs = Inputs { saga_id: order.saga.id, data: order.data, personal: Some(order.personal) };
            births.push((change.saga, change.sends, inputs));
        }
        self.engine.send(births).await.context("sending first commands")?;
        for (id, basket) in ids.iter().zip(&baskets) {
            match basket.kind.label() {
                Some(label) => ledger.promise(label),
                None => self.cancel(*id, ledger),
            }
        }
        Ok(())
    }

    fn cancel(&self, id: Uuid, ledger: &Arc<Ledger>) {
        let (engine, ledger) = (Arc::clone(&self.engine), Arc::clone(ledger));
        tokio::spawn(async move {
            let event = Event::CancelRequested(Actor::new(DEV_SUBJECT, ""));
            match apply(&*engine, id, event).await {
                Ok(Applied::Done(_)) => ledger.promise(CANCELLED),
                Ok(Applied::Illegal(..)) => ledger.promise(FULFILLED),
                Ok(Applied::Missing) => ledger.failed("a cancelled saga is missing".to_owned()),
                Err(error) => ledger.failed(format!("cancelling: {error}")),
            }
        });
    }
}

/// A basket as an order of the store. An order that will be cancelled would otherwise be fulfilled.
fn order(saga_id: Uuid, basket: &Basket) -> NewOrder {
    debug_assert!(basket.kind != Kind::Cancelled || basket.request.payment.method == "card_approved");
    let id = id::at_slot(Uuid::now_v7(), id::slot(saga_id));
    NewOrder {
        id,
        saga: NewSaga { id: saga_id, business_key: id.to_string(), trace: None },
        subject: DEV_SUBJECT.to_owned(),
        idempotency: None,
        customer_id: basket.request.customer_id.clone(),
        currency: basket.request.currency.clone(),
        total: basket.request.total(),
        lines: basket.lines.clone(),
        data: basket.data.clone(),
        personal: basket.personal.clone(),
    }
}
