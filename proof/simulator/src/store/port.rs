//! The engine's port on this database.

use super::*;

/// The port.
#[derive(Clone)]
pub struct SimStore(pub Handle);

fn away(_: Down) -> Error {
    Error::Unavailable("no answer".to_owned())
}

impl SimStore {
    async fn ask<T: Send + 'static>(
        &self,
        what: &'static str,
        effect: impl FnOnce(&mut WorldState) -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.0.ask(Site::Store, None, what, effect).await.map_err(away)
    }

    /// Places orders.
    ///
    /// # Errors
    /// The database's; the orders may have been placed.
    pub async fn place(
        &self,
        orders: Vec<NewOrder>,
        birth: impl Fn(&NewOrder, DateTime<Utc>) -> Change + Send + 'static,
    ) -> Result<Vec<Placed>, Error> {
        let epoch = self.started_in();
        let place = move |s: &mut WorldState| s.place(epoch, &orders, birth);
        let ask = self.0.ask(Site::Store, Some(Fault::StoreAnswerLost), "place", place);
        let placed = ask.await.map_err(away)??;
        let new = placed.iter().filter_map(|placed| match placed {
            Placed::New(change) => Some((change.saga.id, change.saga.slot, change.saga.revision)),
            _ => None,
        });
        self.acknowledged(new);
        Ok(placed)
    }

    /// Returns the epoch in which the program was started.
    pub(super) fn started_in(&self) -> u32 {
        self.0.state().processes[self.0.process].epoch
    }

    /// Remembers sagas whose write is acknowledged: id, slot and revision of each.
    pub(super) fn acknowledged(&self, sagas: impl Iterator<Item = (Uuid, u16, u32)>) {
        let mut state = self.0.state();
        let sentinel = &mut state.processes[self.0.process].sentinel;
        sagas.for_each(|(id, slot, revision)| sentinel.acknowledged(id, slot, revision));
    }
}

impl SagaStore for SimStore {
    async fn now(&self) -> Result<DateTime<Utc>, Error> {
        self.ask("now", |s| s.store_now()).await
    }

    async fn epoch(&self) -> Result<u32, Error> {
        self.ask("epoch", |s| s.store.epoch).await
    }

    async fn begin_epoch_after(&self, lost: u32) -> Result<(), Error> {
        self.ask("begin_epoch_after", move |s| s.begin_epoch_after(lost)).await
    }

    async fn load(&self, ids: &[Uuid]) -> Result<Loaded, Error> {
        let ids: BTreeSet<Uuid> = ids.iter().copied().collect();
        self.ask("load", move |s| {
            let (unreachable, there): (Vec<Uuid>, Vec<Uuid>) = ids.into_iter().partition(|id| s.is_away(*id));
            let sagas = there.iter().filter_map(|id| s.store.sagas.get(id)).map(|s| s.saga.clone()).collect();
            Loaded { sagas, unreadable: Vec::new(), unreachable, now: s.store_now() }
        })
        .await
    }

    async fn due(&self, scan: &DueScan) -> Result<Loaded, Error> {
        let scan = scan.clone();
        let loaded = self.ask("due", move |s| s.due(&scan)).await?;
        let mut state = self.0.state();
        let quiet = state.now > state.heals_at + 120 * SECOND;
        for saga in &loaded.sagas {
            let late = saga.wake_at.map(|at| loaded.now - at);
            if late.is_none_or(|late| late < TimeDelta::zero()) {
                state.violations.push(format!("10 timers_are_on_time: {} was early", short(saga.id)));
            } else if quiet && late.is_some_and(|late| late > TimeDelta::seconds(10)) {
                state.violations.push(format!("10 timers_are_on_time: {} was {late:?} late", short(saga.id)));
            }
        }
        drop(state);
        Ok(loaded)
    }

    async fn sleeping_beyond(
        &self,
        slots: &[u16],
        beyond: Duration,
        after: Option<(DateTime<Utc>, Uuid)>,
        limit: u32,
    ) -> Result<Loaded, Error> {
        let slots: BTreeSet<u16> = slots.iter().copied().collect();
        self.ask("sleeping_beyond", move |s| {
            s.all_are_there()?;
            let from = s.store_now() + beyond;
            let mut loaded = s.load(|stored| {
                let saga = &stored.saga;
                let above = |at| at > from && after.is_none_or(|after| (at, saga.id) > after);
                saga.live && slots.contains(&saga.slot) && saga.wake_at.is_some_and(above)
            });
            loaded.sagas.sort_by_key(|s| (s.wake_at, s.id));
            loaded.sagas.truncate(limit as usize);
            Ok(loaded)
        })
        .await?
    }

    async fn in_flight(
        &self,
        slots: &[u16],
        within: Duration,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Loaded, Error> {
        let slots: BTreeSet<u16> = slots.iter().copied().collect();
        self.ask("in_flight", move |s| {
            let since = s.store_now() - TimeDelta::from_std(within).unwrap_or_default();
            let mut loaded = s.load(|stored| {
                let saga = &stored.saga;
                saga.live
                    && slots.contains(&saga.slot)
                    && stored.updated_at >= since
                    && after.is_none_or(|after| saga.id > after)
            });
            loaded.sagas.truncate(limit as usize);
            loaded
        })
        .await
    }

    async fn commit(&self, writes: &[Write]) -> Result<Committed, Error> {
        if writes.is_empty() {
            return Ok(Committed::default());
        }
        let mut writes = writes.to_vec();
        writes.sort_by_key(|write| write.saga.id);
        let batch = {
            let mut state = self.0.state();
            state.store.drawn += 1;
            state.store.drawn
        };
        let revisions: BTreeMap<Uuid, (u16, u32)> =
            writes.iter().map(|write| (write.saga.id, (write.saga.slot, write.saga.revision))).collect();
        let (process, epoch) = (self.0.process, self.started_in());
        let effect = move |s: &mut WorldState| s.commit(process, epoch, batch, &writes);
        let committed = match self.0.ask(Site::Store, Some(Fault::StoreAnswerLost), "commit", effect).await {
            Ok(committed) => committed,
            // Reads back by the batch's number, as the real store does.
            Err(_) => match self.ask("read back", move |s| s.store.batches.get(&batch).cloned()).await? {
                Some(committed) if !committed.written.is_empty() => committed,
                _ => return Err(Error::Unavailable("nothing was written".to_owned())),
            },
        };
        let written = committed.written.iter().map(|inputs| inputs.saga_id);
        self.acknowledged(
            written.filter_map(|id| revisions.get(&id).map(|(slot, revision)| (id, *slot, *revision))),
        );
        Ok(committed)
    }

    async fn reschedule(&self, sagas: &[(Uuid, u32, Option<DateTime<Utc>>)]) -> Result<Vec<Uuid>, Error> {
        let (sagas, epoch) = (sagas.to_vec(), self.started_in());
        self.ask("reschedule", move |s| {
            s.is_epoch(epoch)?;
            let mut locked = Vec::new();
            for (id, revision, at) in sagas {
                if s.is_away(id) {
                    continue;
                }
                if s.is_held(id) {
                    locked.push(id);
                } else if let Some(stored) =
                    s.store.sagas.get_mut(&id).filter(|s| s.saga.revision == revision)
                {
                    stored.saga.wake_at = at;
                }
            }
            s.store.watchers.wake();
            Ok(locked)
        })
        .await?
    }

    async fn inputs(&self, ids: &[Uuid]) -> Result<Vec<Inputs>, Error> {
        let ids = ids.to_vec();
        let read = move |s: &mut WorldState| s.all_are_there().map(|()| s.store.inputs(&ids));
        self.ask("inputs", read).await?
    }

    async fn keep_strays(&self, strays: &[Stray]) -> Result<(), Error> {
        let strays = strays.to_vec();
        self.ask("keep_strays", move |s| {
            for stray in strays {
                s.store.strays.entry((stray.saga_id, stray.command_id)).or_insert(stray.reply);
            }
        })
        .await
    }

    async fn note_odd(&self, odd: &[OddReplies]) -> Result<(), Error> {
        let odd = odd.to_vec();
        self.ask("note_odd", move |s| s.note_odd(odd)).await
    }

    async fn defer(&self, replies: &[DeferredReply]) -> Result<(), Error> {
        let (replies, process) = (replies.to_vec(), self.0.process);
        self.ask("defer", move |s| {
            for reply in replies {
                s.note(process, || {
                    format!("{} {}: a reply is kept", short(reply.saga_id), reply.why.as_str())
                });
                *s.coverage.deferred.entry(reply.why.as_str()).or_default() += 1;
                let due_at = s.store_now() + reply.rest;
                s.store.deferred.insert(reply.id(), (due_at, reply));
            }
            s.store.watchers.wake();
        })
        .await
    }

    async fn deferred(&self, scan: &DeferredScan) -> Result<Vec<(DeferredId, Inbound)>, Error> {
        let scan = scan.clone();
        self.ask("deferred", move |s| {
            let now = s.store_now();
            let due = |(due_at, reply): &(DateTime<Utc>, DeferredReply)| {
                let wait = if scan.slots.contains(&reply.slot) { Duration::ZERO } else { scan.abroad };
                // No reply rests for a minute or longer, unless the clock was set back since.
                let is_due = *due_at + wait <= now || *due_at > now + Duration::from_secs(60);
                is_due && scan.known.covers(&reply.requires)
            };
            let mut found: Vec<_> = s.store.deferred.iter().filter(|(_, kept)| due(kept)).collect();
            found.sort_by_key(|(_, (due_at, _))| *due_at);
            found.truncate(scan.limit as usize);
            found.into_iter().map(|(id, (_, reply))| (*id, reply.message.clone())).collect()
        })
        .await
    }

    async fn forget_deferred(&self, ids: &[DeferredId]) -> Result<(), Error> {
        let ids = ids.to_vec();
        self.ask("forget_deferred", move |s| ids.iter().for_each(|id| _ = s.store.deferred.remove(id))).await
    }

    async fn announce(&self, program: Uuid, known: &Known, live: Duration) -> Result<Vec<Known>, Error> {
        let (known, epoch) = (known.clone(), self.started_in());
        self.ask("announce", move |s| {
            s.is_epoch(epoch)?;
            let now = s.now;
            s.store.programs.insert(program, (now, known));
            let lives = |at: Micros| at + live.as_micros() as Micros > now;
            let others = s.store.programs.iter().filter(|(id, (at, _))| **id != program && lives(*at));
            Ok(others.map(|(_, (_, known))| known.clone()).collect())
        })
        .await?
    }
}
