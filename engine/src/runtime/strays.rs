//! Replies that no saga here ordered. A success among them is a stray: an effect that no saga undoes, so it is stored
//! for an operator.

use std::collections::BTreeMap;

use amends_protocol::{
    Json,
    transport::{Inbound, Sink},
    wire,
};
use uuid::Uuid;

use super::{Engine, Error, outcome::BatchOutcome, replies::BatchReply};
use crate::{
    core::Nothing,
    port::{Clock, SagaStore, Stray},
};

/// Returns the replies that no saga here ordered: their saga does not exist here, or they match none of its commands.
pub(super) fn not_ordered<'a>(
    by_saga: &'a BTreeMap<Uuid, Vec<BatchReply>>,
    outcome: &'a BatchOutcome,
) -> impl Iterator<Item = &'a BatchReply> {
    let missing = outcome.missing.iter().filter_map(|id| by_saga.get(id)).flatten();
    let not_mine = outcome.ignored.iter().filter(|event| event.why == Nothing::NotMine);
    missing.chain(not_mine.filter_map(|event| by_saga.get(&event.saga_id)?.get(event.place)))
}

/// Returns the successes that no saga here ordered.
pub(super) fn not_ordered_strays(
    messages: &[Inbound],
    by_saga: &BTreeMap<Uuid, Vec<BatchReply>>,
    outcome: &BatchOutcome,
) -> Vec<Stray> {
    let successes = not_ordered(by_saga, outcome).filter(|received| received.succeeded);
    let strays = successes.filter_map(|BatchReply { message, .. }| {
        // It has already been parsed once.
        let reply = wire::reply(&messages[*message].bytes).ok()?;
        let whole = Json::of(&reply).unwrap_or_default();
        Some(Stray { saga_id: reply.saga_id, command_id: reply.command_id, reply: whole })
    });
    strays.collect()
}

/// Stores strays.
///
/// # Errors
/// The store's.
pub(super) async fn keep_strays<S: SagaStore, K: Sink, C: Clock>(
    engine: &Engine<S, K, C>,
    strays: Vec<Stray>,
) -> Result<(), Error> {
    if !strays.is_empty() {
        metrics::counter!("amends_engine_strays_total").increment(strays.len() as u64);
        engine.store.keep_strays(&strays).await?;
    }
    Ok(())
}
