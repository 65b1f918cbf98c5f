//! Sends commands again that a slot's former owner may have committed and not sent. The timers would do so too, some
//! seconds later, at `wake_at`.

use std::{collections::HashMap, sync::Arc, time::Duration};

use amends_protocol::transport::{Assignment, Sink};
use chrono::TimeDelta;

use super::{
    Engine, Error,
    dispatch::Outgoing,
    traces::{Causes, ENGINE},
};
use crate::{
    core::outstanding,
    port::{Clock, SagaStore},
};

/// How far back a former owner's commands are sent again.
const IN_FLIGHT_WITHIN: Duration = Duration::from_secs(30);
const RECOVERY_BATCH: u32 = 500;

/// The assignment that has been recovered.
#[derive(Debug, Default)]
pub struct Recovery {
    done: Assignment,
}

impl Recovery {
    /// If slots were gained and their partitions are drained, sends again what was issued recently and has no answer;
    /// returns the number of sagas concerned. Changes no row.
    ///
    /// # Errors
    /// Store or transport; the next call starts over.
    pub async fn run_once<S: SagaStore, K: Sink, C: Clock>(
        &mut self,
        engine: &Engine<S, K, C>,
    ) -> Result<usize, Error> {
        let (assignment, drained) = engine.ownership.now();
        // Slots lost since then had another owner.
        if assignment.count == self.done.count {
            self.done.partitions.retain(|p| assignment.partitions.binary_search(p).is_ok());
        } else {
            self.done = Assignment::default();
        }
        if !drained || assignment == self.done {
            return Ok(0);
        }
        // After a long failure to send to a participant, the timers send the waiting commands, ordered by promise. Sent
        // from here, the newest would go first.
        let now = engine.clock.monotonic();
        let was_unsent = |participant| engine.budget.was_unsent(participant, now, IN_FLIGHT_WITHIN);
        let gained: Vec<u16> = (0..amends_protocol::SLOTS)
            .filter(|&slot| assignment.owns(slot) && !self.done.owns(slot))
            .collect();
        let (mut sent, mut after) = (0, None);
        while !gained.is_empty() {
            let loaded = engine.store.in_flight(&gained, IN_FLIGHT_WITHIN, after, RECOVERY_BATCH).await?;
            let Some(last) = loaded.sagas.iter().map(|s| s.id).max() else { break };
            after = Some(last);
            let since = loaded.now - TimeDelta::from_std(IN_FLIGHT_WITHIN).unwrap_or_default();
            let mut waiting: HashMap<_, _> = HashMap::new();
            for saga in loaded.sagas {
                let definition = engine.catalog.get(&saga.workflow, saga.workflow_version);
                let Some(definition) = definition else { continue };
                let mut sends = outstanding(definition, &saga, since);
                sends.retain(|send| !was_unsent(definition.steps[send.step].participant));
                if !sends.is_empty() {
                    waiting.insert(saga.id, (saga, sends));
                }
            }
            let mut ids: Vec<_> = waiting.keys().copied().collect();
            ids.sort_unstable();
            let inputs = if ids.is_empty() { Vec::new() } else { engine.store.inputs(&ids).await? };
            let outgoing: Vec<Outgoing> = inputs
                .into_iter()
                .filter_map(|inputs| {
                    let (saga, sends) = waiting.remove(&inputs.saga_id)?;
                    Some(Outgoing { saga: Arc::new(saga), sends, inputs })
                })
                .collect();
            sent += outgoing.len();
            // One participant's commands that cannot be sent are left to the timers.
            engine.dispatch(outgoing, &Causes::none(ENGINE)).await?.all()?;
        }
        self.done = assignment;
        if sent > 0 {
            metrics::counter!("amends_engine_recovered_total").increment(sent as u64);
            tracing::info!(sagas = sent, "commands that a former owner may not have sent were sent again");
        }
        Ok(sent)
    }
}
