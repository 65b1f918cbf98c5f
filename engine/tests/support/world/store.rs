//! The store: sagas in memory, in parts that may not answer.

use std::collections::BTreeMap;
use std::time::Duration;

use amends_engine::core::{Entry, Event, Known, Requires, Saga};
use amends_engine::port::{
    self, Committed, DeferredId, DeferredReply, DeferredScan, DueScan, FailedPart, Inputs, Loaded,
    OddReplies, SagaStore, Stray, Unreadable, Write,
};
use amends_protocol::transport::Inbound;
use amends_protocol::{Json, id};
use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{World, WorldState, input};

impl World {
    fn loaded(&self, wanted: impl Fn(&Saga) -> bool) -> Loaded {
        let mut state = self.state();
        let newer = &state.newer;
        let (unreadable, sagas): (Vec<Saga>, Vec<Saga>) = (state.sagas.values())
            .map(|(saga, _)| saga.clone())
            .filter(|saga| wanted(saga))
            .partition(|saga| newer.contains(&saga.id));
        let unreadable = unreadable.iter().map(|saga| Unreadable {
            saga_id: saga.id,
            slot: saga.slot,
            requires: Requires { core_version: 99, ..Requires::of(saga) },
        });
        let unreadable = unreadable.collect();
        let now = state.now;
        state.now = now + state.reading_takes;
        Loaded { sagas, unreadable, unreachable: Vec::new(), now }
    }
}

impl WorldState {
    fn part(&self, slot: u16) -> u16 {
        slot % self.parts.max(1)
    }

    fn fails(&mut self) -> Result<(), port::Error> {
        self.store_fails.pop_front().map_or(Ok(()), Err)
    }

    fn write_part(&mut self, writes: &[&Write], committed: &mut Committed) {
        for write in writes {
            if self.locked.contains(&write.saga.id) {
                committed.locked.push(write.saga.id);
                continue;
            }
            let (saga, entries) = self.sagas.get_mut(&write.saga.id).unwrap();
            if saga.revision == write.read_revision {
                *saga = write.saga.clone();
                entries.extend(write.entries.clone());
                let data = if write.wants.data { input() } else { Json::null() };
                committed.written.push(Inputs { saga_id: write.saga.id, data, personal: None });
            }
        }
    }
}

impl SagaStore for World {
    async fn now(&self) -> Result<DateTime<Utc>, port::Error> {
        // The time is usually known without a query.
        Ok(self.state().now)
    }

    async fn epoch(&self) -> Result<u32, port::Error> {
        self.state().fails()?;
        self.state().log.push("epoch".to_owned());
        Ok(self.state().epoch)
    }

    async fn begin_epoch_after(&self, lost: u32) -> Result<(), port::Error> {
        let mut state = self.state();
        state.fails()?;
        state.log.push(format!("begin epoch after {lost}"));
        state.epoch = state.epoch.max(lost + 1);
        Ok(())
    }

    async fn load(&self, ids: &[Uuid]) -> Result<Loaded, port::Error> {
        self.state().fails()?;
        self.state().reads.extend(ids);
        let (away, asked): (Vec<Uuid>, Vec<Uuid>) = {
            let state = self.state();
            ids.iter().partition(|id| state.away.contains(&state.part(id::slot(**id))))
        };
        Ok(Loaded { unreachable: away, ..self.loaded(|s| asked.contains(&s.id)) })
    }

    async fn due(&self, scan: &DueScan) -> Result<Loaded, port::Error> {
        self.state().fails()?;
        self.state().scans.push(scan.clone());
        let until = self.state().now - TimeDelta::from_std(scan.overdue).unwrap();
        let mut loaded = self.loaded(|s| {
            s.live
                && scan.slots.contains(&s.slot)
                && scan.share.has(&s.step)
                && scan.known.knows(&s.workflow, s.workflow_version)
                && !scan.passed_over.contains(&s.id)
                && s.wake_at.is_some_and(|at| at <= until && scan.not_before.is_none_or(|from| at >= from))
        });
        loaded.unreadable.clear();
        loaded.sagas.sort_by_key(|s| s.wake_at);
        loaded.sagas.truncate(scan.limit as usize);
        Ok(loaded)
    }

    async fn sleeping_beyond(
        &self,
        slots: &[u16],
        beyond: Duration,
        after: Option<(DateTime<Utc>, Uuid)>,
        limit: u32,
    ) -> Result<Loaded, port::Error> {
        self.state().fails()?;
        let from = self.state().now + beyond;
        let above = |s: &Saga| s.wake_at.is_some_and(|at| at > from && after.is_none_or(|a| (at, s.id) > a));
        let mut loaded = self.loaded(|s| s.live && slots.contains(&s.slot) && above(s));
        loaded.sagas.sort_by_key(|s| (s.wake_at, s.id));
        loaded.sagas.truncate(limit as usize);
        Ok(loaded)
    }

    async fn in_flight(
        &self,
        slots: &[u16],
        _: Duration,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Loaded, port::Error> {
        self.state().fails()?;
        let mut loaded =
            self.loaded(|s| s.live && slots.contains(&s.slot) && after.is_none_or(|after| s.id > after));
        loaded.sagas.truncate(limit as usize);
        Ok(loaded)
    }

    async fn commit(&self, writes: &[Write]) -> Result<Committed, port::Error> {
        let mut state = self.state();
        state.fails()?;
        if let Some((saga, event)) = state.rivals.pop_front() {
            state.happens(saga, event);
        }
        let poison = state.poison.clone();
        let bad = |w: &Write| {
            let poisoned = |e: &Entry| matches!(e.occurrence.event, Event::Poisoned(_));
            let unstorable = |e: &Entry| matches!(&e.occurrence.event, Event::Replied(r) if r.reason.as_ref().is_some_and(|r| r.code == "unstorable"));
            w.entries.iter().any(unstorable)
                || (poison.contains(&w.saga.id) && !w.entries.iter().all(poisoned))
        };
        let mut parts: BTreeMap<u16, Vec<&Write>> = BTreeMap::new();
        writes.iter().for_each(|write| parts.entry(state.part(write.saga.slot)).or_default().push(write));
        let mut committed = Committed::default();
        for (part, writes) in parts {
            let error = match writes.iter().find(|write| bad(write)) {
                _ if state.away.contains(&part) => Some(port::Error::Unavailable(format!("{part} is away"))),
                Some(write) => Some(port::Error::Data(format!("{} is bad", write.saga.id))),
                None => None,
            };
            match error {
                None => state.write_part(&writes, &mut committed),
                Some(error) => {
                    let sagas = writes.iter().map(|write| write.saga.id).collect();
                    committed.failed.push(FailedPart { sagas, error });
                }
            }
        }
        if !committed.written.is_empty() {
            state.log.push(format!("commit {}", committed.written.len()));
        }
        match state.goes_after_commits.take() {
            Some((1, part)) => _ = state.away.insert(part),
            Some((more, part)) => state.goes_after_commits = Some((more - 1, part)),
            None => {}
        }
        match committed.failed.pop() {
            Some(failed) if state.parts <= 1 => Err(failed.error),
            failed => {
                committed.failed.extend(failed);
                Ok(committed)
            }
        }
    }

    async fn reschedule(
        &self,
        sagas: &[(Uuid, u32, Option<DateTime<Utc>>)],
    ) -> Result<Vec<Uuid>, port::Error> {
        let mut state = self.state();
        let locked: Vec<Uuid> =
            sagas.iter().map(|(id, ..)| *id).filter(|id| state.locked.contains(id)).collect();
        for (id, revision, at) in sagas.iter().filter(|(id, ..)| !locked.contains(id)) {
            if let Some((saga, _)) = state.sagas.get_mut(id).filter(|(s, _)| s.revision == *revision) {
                saga.wake_at = *at;
            }
        }
        Ok(locked)
    }

    async fn inputs(&self, ids: &[Uuid]) -> Result<Vec<Inputs>, port::Error> {
        Ok(ids.iter().map(|&saga_id| Inputs { saga_id, data: input(), personal: None }).collect())
    }

    async fn keep_strays(&self, strays: &[Stray]) -> Result<(), port::Error> {
        self.state().strays.extend_from_slice(strays);
        Ok(())
    }

    async fn note_odd(&self, odd: &[OddReplies]) -> Result<(), port::Error> {
        let mut state = self.state();
        state.note_fails.pop_front().map_or(Ok(()), Err)?;
        for OddReplies { saga_id, reason, count, last } in odd {
            if state.sagas.contains_key(saga_id) {
                let noted = state.odd.entry((*saga_id, *reason)).or_insert((0, last.clone()));
                *noted = (noted.0 + count, last.clone());
            }
        }
        state.log.push(format!("note {}", odd.len()));
        Ok(())
    }

    async fn defer(&self, replies: &[DeferredReply]) -> Result<(), port::Error> {
        let mut state = self.state();
        state.defer_fails.pop_front().map_or(Ok(()), Err)?;
        for reply in replies {
            let due_at = state.now + reply.rest;
            state.deferred.insert(reply.id(), (due_at, reply.clone()));
        }
        state.log.push(format!("defer {}", replies.len()));
        Ok(())
    }

    async fn deferred(&self, scan: &DeferredScan) -> Result<Vec<(DeferredId, Inbound)>, port::Error> {
        let state = self.state();
        let due = |(due_at, reply): &(DateTime<Utc>, DeferredReply)| {
            let wait = if scan.slots.contains(&reply.slot) { Duration::ZERO } else { scan.abroad };
            *due_at + wait <= state.now && scan.known.covers(&reply.requires)
        };
        let found = state.deferred.iter().filter(|(_, reply)| due(reply)).take(scan.limit as usize);
        Ok(found.map(|(id, (_, reply))| (*id, reply.message.clone())).collect())
    }

    async fn forget_deferred(&self, ids: &[DeferredId]) -> Result<(), port::Error> {
        let mut state = self.state();
        ids.iter().for_each(|id| _ = state.deferred.remove(id));
        state.log.push(format!("forget {}", ids.len()));
        Ok(())
    }

    async fn announce(
        &self,
        program: Uuid,
        known: &Known,
        live: Duration,
    ) -> Result<Vec<Known>, port::Error> {
        let mut state = self.state();
        state.fails()?;
        let now = state.now;
        state.programs.insert(program, (now, known.clone()));
        let others = state.programs.iter().filter(|(id, (at, _))| **id != program && *at + live > now);
        Ok(others.map(|(_, (_, known))| known.clone()).collect())
    }
}
