//! Processes replies that could not be judged on arrival: another transaction held the row, or the receiving engine did
//! not know the saga's workflow or the format of its row. An engine that can judge them takes them from the store.
//!
//! A reply is deleted after its effects are committed, so it may be judged twice; the second time it is a duplicate.

use std::{collections::BTreeSet, time::Duration};

use amends_protocol::transport::Sink;

use super::{
    Engine, Error,
    replies::{self, Settled, Taken},
};
use crate::port::{Clock, DeferredScan, SagaStore};

/// Maximum number of replies in a batch.
pub const DEFERRED_BATCH: u32 = 500;
/// Interval between two reads.
pub const DEFERRED_POLL: Duration = Duration::from_millis(250);
/// How long a reply of another engine's slot waits before this engine takes it: its owner cannot judge it, or is away.
const DEFERRED_ABROAD: Duration = Duration::from_secs(1);

/// Processes one batch; returns the number of replies read. If it is below [`DEFERRED_BATCH`], the caller may rest.
///
/// # Errors
/// Store or transport; the replies stay in the store.
pub async fn run_once<S: SagaStore, K: Sink, C: Clock>(engine: &Engine<S, K, C>) -> Result<usize, Error> {
    let scan = DeferredScan {
        known: engine.known(),
        slots: engine.ownership.slots(),
        abroad: DEFERRED_ABROAD,
        limit: DEFERRED_BATCH,
    };
    let found = engine.store.deferred(&scan).await?;
    if found.is_empty() {
        return Ok(0);
    }
    let (mut ids, messages): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    let count = ids.len();
    let Settled { deferred, odd } = replies::take(engine, &messages, Taken::Again).await?;
    let again: BTreeSet<_> = deferred.iter().map(|reply| reply.id()).collect();
    ids.retain(|id| !again.contains(id));
    engine.store.forget_deferred(&ids).await?;
    metrics::counter!("amends_engine_deferred_replies_judged_total").increment(ids.len() as u64);
    odd.note(engine).await;
    Ok(count)
}
