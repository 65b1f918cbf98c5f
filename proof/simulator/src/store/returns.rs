//! Returns and refunds of orders: each is added in one transaction, under the lock of its order's row.

use amends_engine::core::{NewSaga, start};
use amends_protocol::id;
use amends_workflows::{
    order_fulfilment::{FULFILLED, OrderInput},
    order_ledger::{EntryKind, Ledger, LedgerEntry, Pieces, RefundOf, Refusal, Standing},
    order_refund, order_return,
};

use super::*;

/// What is to come back of an order, or to be paid back.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// Pieces come back; `None`: all that are left.
    Return(Option<Vec<Pieces>>),
    /// Money is paid back.
    Refund(RefundOf),
}

/// A return or a refund, as the order's ledger has it.
#[derive(Debug, Clone)]
pub struct AddedSaga {
    /// Its saga.
    pub saga_id: Uuid,
    /// Return or refund.
    pub kind: EntryKind,
    /// What is paid back.
    pub amount: i64,
    /// The pieces.
    pub lines: Vec<order_return::BackLine>,
    /// The request that added it.
    pub request: u64,
}

/// The result of adding one.
#[derive(Debug, Clone)]
pub enum Addition {
    /// It is new.
    Done(Box<Change>),
    /// The same request has added one before.
    Known(Uuid),
    /// It is not possible.
    Refused(Refusal),
    /// This program does not know the workflow, or there is no such order.
    Impossible,
}

impl Store {
    /// Returns an order's ledger.
    pub fn ledger(&self, order: Uuid) -> Option<Ledger> {
        let fulfilment = self.sagas.get(self.orders.get(&order)?)?;
        let input: OrderInput = fulfilment.data.read().ok()?;
        let added = self.added.get(&order).map(Vec::as_slice).unwrap_or_default();
        let entry = |added: &AddedSaga| {
            let saga = &self.sagas.get(&added.saga_id)?.saga;
            Some(LedgerEntry {
                saga_id: added.saga_id,
                kind: added.kind,
                amount: added.amount,
                lines: added.lines.clone(),
                standing: Standing::of(&saga.step, saga.outcome),
            })
        };
        let newest = added.iter().rev().find(|added| added.kind == EntryKind::Return);
        let carries = newest.and_then(|newest| self.sagas.get(&newest.saga_id)).unwrap_or(fulfilment);
        let timeline = fulfilment.timeline();
        let fulfilled = timeline.iter().find(|entry| entry.did.label.as_deref() == Some(FULFILLED));
        Some(Ledger {
            fulfilment: fulfilment.saga.id,
            status: carries.saga.label.clone(),
            currency: input.currency,
            lines: input.lines,
            fulfilled_at: fulfilled.map(|entry| entry.occurrence.at),
            entries: added.iter().filter_map(entry).collect(),
        })
    }
}

impl WorldState {
    /// Adds a return or refund to an order.
    pub(super) fn add_to_order(
        &mut self,
        epoch: u32,
        catalog: &amends_engine::core::Catalog,
        order: Uuid,
        request: u64,
        wanted: &Wanted,
    ) -> Result<Addition, Error> {
        self.is_epoch(epoch)?;
        let added = self.store.added.get(&order).map(Vec::as_slice).unwrap_or_default();
        if let Some(known) = added.iter().find(|added| added.request == request) {
            return Ok(Addition::Known(known.saga_id));
        }
        let Some(ledger) = self.store.ledger(order) else { return Ok(Addition::Impossible) };
        let now = self.store_now();
        let planned = match wanted {
            Wanted::Return(pieces) => ledger.plan_return(pieces.as_deref(), now).map(|input| {
                let data = Json::of(&input).unwrap_or_default();
                (EntryKind::Return, order_return::NAME, input.amount, input.lines, data)
            }),
            Wanted::Refund(of) => ledger.plan_refund(of).map(|input| {
                let data = Json::of(&input).unwrap_or_default();
                (EntryKind::Refund, order_refund::NAME, input.amount, input.lines, data)
            }),
        };
        let (kind, name, amount, lines, data) = match planned {
            Ok(planned) => planned,
            Err(refusal) => return Ok(Addition::Refused(refusal)),
        };
        let named = catalog.iter().filter(|d| d.name == name);
        let Some(definition) = named.max_by_key(|d| d.version) else { return Ok(Addition::Impossible) };
        let saga_id = id::at_slot(self.uuid(), id::slot(order));
        let change = start(
            definition,
            NewSaga { id: saga_id, business_key: order.to_string(), trace: None },
            &data,
            now,
        );
        self.store.create(&change, &Json::null());
        self.store.changed_at = self.now;
        let added = AddedSaga { saga_id, kind, amount, lines, request };
        self.store.added.entry(order).or_default().push(added);
        Ok(Addition::Done(Box::new(change)))
    }
}

impl SimStore {
    /// Adds a return or refund to an order.
    ///
    /// # Errors
    /// The database's; it may have been added.
    pub async fn add_to_order(
        &self,
        catalog: amends_engine::core::Catalog,
        order: Uuid,
        request: u64,
        wanted: Wanted,
    ) -> Result<Addition, Error> {
        let epoch = self.started_in();
        let add = move |s: &mut WorldState| s.add_to_order(epoch, &catalog, order, request, &wanted);
        let ask = self.0.ask(Site::Store, Some(Fault::StoreAnswerLost), "add to an order", add);
        let added = ask.await.map_err(|_| Error::Unavailable("no answer".to_owned()))??;
        if let Addition::Done(change) = &added {
            let Saga { id, slot, revision, .. } = change.saga;
            self.acknowledged([(id, slot, revision)].into_iter());
        }
        Ok(added)
    }
}
