//! Writes a batch of decisions: an event that cannot be stored does not stop the others, and nor does a part of the store
//! that fails.

use std::collections::BTreeSet;

use amends_protocol::{
    halving::{Halved, Parts, halve},
    transport::Sink,
};
use uuid::Uuid;

use super::{Engine, Error};
use crate::port::{self, Clock, Committed, FailedPart, Inputs, SagaStore, Write};

/// Result of a batch of writes.
#[derive(Default)]
pub(super) struct Wrote {
    pub written: Vec<Inputs>,
    /// Sagas whose events cannot be stored, and why.
    pub refused: Vec<(Uuid, String)>,
    /// Sagas that another transaction holds.
    pub locked: Vec<Uuid>,
    /// Sagas whose part of the store has failed.
    pub unreachable: Vec<Uuid>,
}

impl Wrote {
    fn append(&mut self, other: Self) {
        let Self { written, refused, locked, unreachable } = other;
        self.written.extend(written);
        self.refused.extend(refused);
        self.locked.extend(locked);
        self.unreachable.extend(unreachable);
    }
}

impl<S: SagaStore, K: Sink, C: Clock> Engine<S, K, C> {
    /// Writes what belongs together in one transaction. An event that cannot be stored is found by halving, so that it
    /// does not stop the rest; nor does a part of the store that does not answer.
    pub(super) async fn write(&self, writes: &[Write]) -> Result<Wrote, Error> {
        let mut wrote = Wrote::default();
        let mut parts = Parts::of(writes);
        while let Some(part) = parts.next() {
            let began = self.clock.monotonic();
            match self.store.commit(part).await {
                Ok(Committed { written, locked, failed }) => {
                    wrote.append(Wrote { written, locked, ..Wrote::default() });
                    for failed in failed {
                        wrote.append(self.write_failed(part, failed).await);
                    }
                }
                Err(port::Error::Data(why)) => {
                    wrote.refused.extend(parts.halve(part).map(|alone| (alone.saga.id, why)));
                }
                Err(other) => return Err(other.into()),
            }
            let took = self.clock.monotonic().saturating_sub(began);
            metrics::histogram!("amends_engine_commit_seconds").record(took.as_secs_f64());
        }
        Ok(wrote)
    }

    /// Writes what can be written of a part of the store that has failed.
    async fn write_failed(&self, batch: &[Write], FailedPart { sagas, error }: FailedPart) -> Wrote {
        let port::Error::Data(why) = error else {
            tracing::warn!(%error, sagas = sagas.len(), "a part of the store has failed; its sagas wait");
            return Wrote { unreachable: sagas, ..Wrote::default() };
        };
        let own: BTreeSet<Uuid> = sagas.into_iter().collect();
        let own: Vec<Write> = batch.iter().filter(|write| own.contains(&write.saga.id)).cloned().collect();
        let halves = match halve(&own) {
            None => return Wrote::default(),
            Some(Halved::Alone(alone)) => {
                return Wrote { refused: vec![(alone.saga.id, why)], ..Wrote::default() };
            }
            Some(Halved::Halves(first, second)) => [first, second],
        };
        let mut wrote = Wrote::default();
        for half in halves {
            match Box::pin(self.write(half)).await {
                Ok(more) => wrote.append(more),
                Err(error) => {
                    tracing::warn!(%error, "a part of the store has failed; its sagas wait");
                    wrote.unreachable.extend(half.iter().map(|write| write.saga.id));
                }
            }
        }
        wrote
    }
}
