//! One event that came through a door: a cancellation, an operator's action.

use std::{collections::BTreeMap, sync::Arc};

use amends_protocol::transport::Sink;
use uuid::Uuid;

use super::{Engine, Error};
use crate::{
    core::{Event, Illegal, Saga},
    port::{self, Clock, SagaStore},
};

/// What became of it.
#[derive(Debug)]
pub enum Applied {
    /// Done (or done already): the saga's row.
    Done(Box<Saga>),
    /// Not possible now: the saga's row, unchanged.
    Illegal(Box<Saga>, Illegal),
    /// No such saga.
    Missing,
}

/// Decides an event, whoever owns the saga; the row's revision settles who was first. The commands that
/// follow are sent before this ends, or, if that fails, when they are due.
///
/// # Errors
/// The store's: whether it happened is then unknown, and asking again is safe. [`port::Error::Data`]: it did
/// not happen, because the event cannot be stored.
pub async fn apply<S: SagaStore, K: Sink, C: Clock>(
    engine: &Engine<S, K, C>,
    saga_id: Uuid,
    event: Event,
) -> Result<Applied, Error> {
    let mut outcome = engine.decide(BTreeMap::from([(saga_id, vec![event])]), None).await?;
    if let Err(error) = engine.dispatch(std::mem::take(&mut outcome.outgoing)).await {
        tracing::warn!(saga = %saga_id, %error, "committed, not sent: it will be sent when it is due");
    }
    // The saga is well: it is the request that cannot be stored.
    if let Some(poison) = outcome.poisoned.pop() {
        return Err(port::Error::Data(poison.why).into());
    }
    if let Some(passed_over) = outcome.passed_over.pop() {
        return Err(Error::PassedOver(saga_id, passed_over.why));
    }
    let row = outcome.rows.pop().map(|saga| Box::new(Arc::unwrap_or_clone(saga)));
    Ok(match (row, outcome.illegal.pop()) {
        (Some(saga), Some((_, illegal))) => Applied::Illegal(saga, illegal),
        (Some(saga), None) => Applied::Done(saga),
        (None, _) => Applied::Missing,
    })
}
