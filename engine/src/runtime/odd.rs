//! Odd replies: those that are ignored or dead-lettered. Each is counted, logged, and noted beside its saga, so that an
//! operator who investigates the saga sees it.
//!
//! The notes decide nothing. They are written after the batch is settled, with one statement per batch that has any; a
//! note that fails is counted and logged, and lost. A process that dies at that moment loses it too.

use std::collections::BTreeMap;

use amends_protocol::{Reply, transport::Inbound, wire};
use serde::Deserialize;
use uuid::Uuid;

use super::Engine;
use crate::port::{OddReason, OddReplies, OddReply, SagaStore};

/// Maximum number of log lines per batch: after a broker has delivered everything again, each saga has a duplicate.
const ODD_LINES: usize = 20;

/// The odd replies of a batch, by saga and reason.
#[derive(Debug, Default)]
pub(super) struct OddBatch {
    by_saga: BTreeMap<(Uuid, OddReason), (u32, OddReply)>,
    /// Unreadable messages that name no saga.
    nameless: u32,
}

/// The part that is read of a message that is not a valid reply.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    saga_id: Uuid,
}

impl OddBatch {
    /// Adds a reply that changes nothing.
    pub fn add(&mut self, reason: OddReason, message: &Inbound, reply: &Reply) {
        self.count(reply.saga_id, reason, OddReply::of(message, reply));
    }

    /// Adds a message that was parsed before and changes nothing.
    pub fn add_again(&mut self, reason: OddReason, message: &Inbound) {
        if let Ok(reply) = wire::reply(&message.bytes) {
            self.add(reason, message, &reply);
        }
    }

    /// Adds an unreadable message, if it names a saga.
    pub fn add_unreadable(&mut self, message: &Inbound) {
        match wire::read::<Named>(&message.bytes) {
            Ok(Named { saga_id }) => {
                self.count(saga_id, OddReason::Unreadable, OddReply::unreadable(message));
            }
            Err(_) => self.nameless += 1,
        }
    }

    fn count(&mut self, saga_id: Uuid, reason: OddReason, last: OddReply) {
        let count = self.by_saga.get(&(saga_id, reason)).map_or(1, |(count, _)| count + 1);
        self.by_saga.insert((saga_id, reason), (count, last));
    }

    /// Counts the replies, logs them, and stores them. Their batch is settled, whether or not that succeeds.
    pub async fn note<S: SagaStore, K, C>(self, engine: &Engine<S, K, C>) {
        count_metric(OddReason::Unreadable, self.nameless);
        if self.by_saga.is_empty() {
            return;
        }
        self.log();
        let odd: Vec<OddReplies> = (self.by_saga.into_iter())
            .map(|((saga_id, reason), (count, last))| OddReplies { saga_id, reason, count, last })
            .collect();
        odd.iter().for_each(|replies| count_metric(replies.reason, replies.count));
        if let Err(error) = engine.store.note_odd(&odd).await {
            metrics::counter!("amends_engine_odd_notes_lost_total").increment(odd.len() as u64);
            tracing::warn!(%error, notes = odd.len(), "odd replies are not noted beside their sagas");
        }
    }

    fn log(&self) {
        for ((saga, reason), (count, last)) in self.by_saga.iter().take(ODD_LINES) {
            let (reason, partition, offset) = (reason.as_str(), last.partition, last.offset);
            tracing::info!(%saga, reason, count, partition, offset, "replies changed nothing");
        }
        if self.by_saga.len() > ODD_LINES {
            let more = self.by_saga.len() - ODD_LINES;
            tracing::info!(more, "replies of other sagas changed nothing");
        }
    }
}

fn count_metric(reason: OddReason, count: u32) {
    if count > 0 {
        metrics::counter!("amends_engine_odd_replies_total", "reason" => reason.as_str())
            .increment(u64::from(count));
    }
}
