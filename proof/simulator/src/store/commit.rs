//! The commit of a batch of decisions: home by home, each row only if it still has the revision that was read.

use amends_engine::{
    core::{Resolution, Retry, SagaOutcome},
    port::FailedPart,
};

use super::*;

impl WorldState {
    /// Commits each home's part of a batch by itself.
    pub(super) fn commit(&mut self, process: usize, epoch: u32, batch: u64, writes: &[Write]) -> Committed {
        let mut committed = Committed::default();
        for home in 0..HOMES {
            let own: Vec<Write> =
                writes.iter().filter(|w| id::slot(w.saga.id) % HOMES == home).cloned().collect();
            match self.commit_home(process, epoch, &own) {
                Ok((written, locked)) => {
                    committed.written.extend(written);
                    committed.locked.extend(locked);
                }
                Err(error) => {
                    let sagas = own.iter().map(|write| write.saga.id).collect();
                    committed.failed.push(FailedPart { sagas, error });
                }
            }
        }
        self.store.batches.insert(batch, committed.clone());
        self.store.watchers.wake();
        committed
    }

    fn commit_home(
        &mut self,
        process: usize,
        epoch: u32,
        writes: &[Write],
    ) -> Result<(Vec<Inputs>, Vec<Uuid>), Error> {
        if writes.iter().any(|write| self.is_away(write.saga.id)) {
            return Err(Error::Unavailable("its home is away".to_owned()));
        }
        self.is_epoch(epoch)?;
        let bodies: Vec<Vec<String>> =
            writes.iter().map(|w| w.entries.iter().map(|entry| entry.body(epoch)).collect()).collect();
        for (write, bodies) in writes.iter().zip(&bodies) {
            check(write, bodies).map_err(|why| Error::Data(format!("{}: {why}", write.saga.id)))?;
        }
        let (mut answer, mut locked) = (Vec::new(), Vec::new());
        for (write, bodies) in writes.iter().zip(bodies) {
            if self.is_held(write.saga.id) {
                self.note(process, || format!("{} is held, and passed over", short(write.saga.id)));
                locked.push(write.saga.id);
                continue;
            }
            let Some(stored) = self.store.sagas.get_mut(&write.saga.id) else { continue };
            if stored.saga.revision != write.read_revision {
                self.coverage.stale_writes += 1;
                continue;
            }
            if let Some(was) = stored.saga.outcome.filter(|was| write.saga.outcome != Some(*was)) {
                let now = write.saga.outcome;
                self.violations.push(format!("one_outcome: {} was {was:?}, is {now:?}", write.saga.id));
            }
            self.violations.extend(write.entries.iter().filter_map(|e| not_as_seen(&stored.saga, e)));
            stored.saga = write.saga.clone();
            self.store.changed_at = self.now;
            for (entry, body) in write.entries.iter().zip(bodies) {
                stored.updated_at = entry.occurrence.at;
                stored.entries.push((entry.revision, entry.occurrence.at, body));
            }
            let data = if write.wants.data { stored.data.clone() } else { Json::null() };
            let personal = stored.personal.clone().filter(|_| write.wants.personal);
            answer.push(Inputs { saga_id: write.saga.id, data, personal });
            self.note_write(process, write);
        }
        Ok((answer, locked))
    }

    fn note_write(&mut self, process: usize, write: &Write) {
        for entry in &write.entries {
            self.note(process, || {
                let did = &entry.did;
                let of = match &entry.occurrence.event {
                    Event::Replied(r) => format!("{} {} ", r.step, r.kind.as_str()),
                    _ => String::new(),
                };
                let mut line = format!(
                    "{} {:>2} {of}{}",
                    short(write.saga.id),
                    entry.revision,
                    entry.occurrence.event.name()
                );
                for sent in &did.sent {
                    line += &format!(" -> {sent}");
                }
                let extra = [
                    did.label.as_ref().map(|l| format!(" [{l}]")),
                    did.parked.as_ref().map(|p| format!(" parked: {}", p.code)),
                    did.incident.as_ref().map(|i| format!(" incident: {i}")),
                    did.noted.map(|n| format!(" noted: {}", n.as_str())),
                    did.ended.map(|e: SagaOutcome| format!(" ended {e:?}")),
                ];
                extra.into_iter().flatten().for_each(|e| line += &e);
                line
            });
        }
    }
}

/// Returns whether an operator settled by this entry a state other than the one that they saw.
fn not_as_seen(before: &Saga, entry: &Entry) -> Option<String> {
    let (Event::Resolved(Resolution { seen, .. }) | Event::RetryRequested(Retry { seen, .. })) =
        &entry.occurrence.event
    else {
        return None;
    };
    let definition = crate::processes::definition(before)?;
    let mut parked = before.state.commands.iter().filter_map(|c| c.parked_id(before.id, &definition));
    let waits = match seen.command_id {
        Some(id) => parked.any(|parked| parked == id),
        None => before.state.poisoned.is_some(),
    };
    let same = before.revision == seen.revision && entry.revision == seen.revision + 1;
    let (id, name) = (before.id, entry.occurrence.event.name());
    (!same || !waits).then(|| format!("operator: {id} was {name} at {}, seen at {seen:?}", before.revision))
}

/// Refuses what the store cannot store: U+0000 in a column, and a value that stands for a violated constraint.
fn check(write: &Write, bodies: &[String]) -> Result<(), &'static str> {
    let saga = &write.saga;
    let mut columns =
        [saga.label.as_str(), saga.step.as_str()].into_iter().chain(saga.heading_for.as_deref());
    if columns.any(|text| text.contains('\0')) {
        return Err("U+0000 cannot be stored");
    }
    if bodies.iter().any(|b| b.contains(crate::bus::UNSTORABLE)) {
        return Err("a number out of range");
    }
    Ok(())
}
