//! Takes replies that could not be judged when they came: a row was held by another transaction, or the engine that
//! received them did not know the saga's workflow or the format of its row. An engine that can judge them does.
//!
//! A reply is forgotten after what it led to is committed and sent, so it may be judged twice; the second time it is a
//! duplicate.

use std::{collections::BTreeSet, time::Duration};

use amends_protocol::transport::Sink;

use super::{
    Engine, Error,
    replies::{self, Taken},
};
use crate::port::{Clock, DeferredScan, SagaStore};

/// Most replies of a batch.
pub const DEFERRED_BATCH: u32 = 500;
/// Rest between two looks.
pub const DEFERRED_POLL: Duration = Duration::from_millis(250);
/// What is of another engine's slot has waited for so long: that engine cannot judge it, or is not there.
const DEFERRED_ABROAD: Duration = Duration::from_secs(1);

/// Takes one batch; returns the number of replies read. Fewer than [`DEFERRED_BATCH`]: the caller may rest.
///
/// # Errors
/// Store or transport; the replies stay.
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
    let again = replies::take(engine, &messages, Taken::Again).await?;
    let again: BTreeSet<_> = again.iter().map(|reply| reply.id()).collect();
    ids.retain(|id| !again.contains(id));
    engine.store.forget_deferred(&ids).await?;
    metrics::counter!("amends_engine_deferred_replies_judged_total").increment(ids.len() as u64);
    Ok(count)
}
