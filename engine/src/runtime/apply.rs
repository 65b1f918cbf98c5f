//! Applies one event from outside: a cancellation or an operator's action.

use std::{collections::BTreeMap, sync::Arc};

use amends_protocol::transport::Sink;
use uuid::Uuid;

use super::{
    Engine, Error,
    outcome::BatchOutcome,
    traces::{Asked, Causes},
};
use crate::{
    core::{Event, Illegal, Saga},
    port::{self, Clock, Deferral, SagaStore},
};

/// The result of the event.
#[derive(Debug)]
pub enum Applied {
    /// The event is applied, now or by an earlier request: the saga's row.
    Done(Box<Saga>),
    /// The event is not possible now: the saga's row, unchanged.
    Illegal(Box<Saga>, Illegal),
    /// There is no such saga.
    Missing,
}

/// Decides an event, whichever engine owns the saga; the row's revision fences concurrent writers. The resulting
/// commands are sent before this returns or, if sending fails, when they are due.
///
/// # Errors
/// The store's error: it is then unknown whether the event was applied, and a retry is safe. [`port::Error::Data`]: the
/// event was not applied, because it cannot be stored.
pub async fn apply<S: SagaStore, K: Sink, C: Clock>(
    engine: &Engine<S, K, C>,
    saga_id: Uuid,
    event: Event,
) -> Result<Applied, Error> {
    let asked = Asked::now(&event);
    let outcome = engine.decide(BTreeMap::from([(saga_id, vec![event])]), None).await?;
    applied(engine, saga_id, outcome, asked).await
}

/// Decides an event only if the saga still has this revision: `None` if it has another. Otherwise like [`apply`].
///
/// # Errors
/// As for [`apply`].
pub async fn apply_at<S: SagaStore, K: Sink, C: Clock>(
    engine: &Engine<S, K, C>,
    saga_id: Uuid,
    revision: u32,
    event: Event,
) -> Result<Option<Applied>, Error> {
    let read = engine.store.load(&[saga_id]).await?;
    if read.sagas.iter().any(|saga| saga.revision != revision) {
        return Ok(None);
    }
    let asked = Asked::now(&event);
    // One round: the write is fenced by the revision that was read.
    match engine.decide_within(1, BTreeMap::from([(saga_id, vec![event])]), Some(read)).await {
        Ok(outcome) => applied(engine, saga_id, outcome, asked).await.map(Some),
        Err(Error::Contended) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sends the commands of the decision, and says what it was.
async fn applied<S: SagaStore, K: Sink, C: Clock>(
    engine: &Engine<S, K, C>,
    saga_id: Uuid,
    mut outcome: BatchOutcome,
    asked: Asked,
) -> Result<Applied, Error> {
    let causes = Causes::asked(asked, outcome.rows.last());
    let sent = engine.dispatch(std::mem::take(&mut outcome.outgoing), &causes).await;
    if let Err(error) = sent.and_then(|not_sent| Ok(not_sent.any()?)) {
        let trace = outcome.rows.last().map(|saga| saga.trace().trace_id_hex());
        tracing::warn!(saga = %saga_id, trace, %error, "commands are committed but could not be sent; they are sent when due");
    }
    causes.end(|_| true);
    // The saga itself is sound: the request cannot be stored.
    if let Some(poison) = outcome.poisoned.pop() {
        return Err(port::Error::Data(poison.why).into());
    }
    if let Some(passed_over) = outcome.passed_over.pop() {
        if passed_over.why == Deferral::Unreachable {
            // It may have been written.
            return Err(port::Error::Unavailable(passed_over.why.to_string()).into());
        }
        return Err(Error::PassedOver(saga_id, passed_over.why));
    }
    let row = outcome.rows.pop().map(|saga| Box::new(Arc::unwrap_or_clone(saga)));
    Ok(match (row, outcome.illegal.pop()) {
        (Some(saga), Some((_, illegal))) => Applied::Illegal(saga, illegal),
        (Some(saga), None) => Applied::Done(saga),
        (None, _) => Applied::Missing,
    })
}
