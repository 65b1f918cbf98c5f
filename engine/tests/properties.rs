//! Any events in any order: commands and replies lost, repeated, late and overtaking each other, workers that fail,
//! refuse, hang, crash and change their minds, people who cancel, retry and resolve. Once the world has healed, a saga
//! has ended and nothing is left of what was undone.

mod support;

use std::time::Duration;

use amends_engine::core::{
    Actor, Decision, Definition, Entry, Event, Occurrence, Resend, Resolution, Retry, Saga, SagaOutcome,
    SagaProgress, Seen, Signal, Status as Known, StepKind, start, transition,
};
use amends_engine::dialogue::Dialogue;
use amends_protocol::{Exposure, Kind, id};
use proptest::prelude::*;
use support::actions::{Action, action, fates};
use support::worker::{Sent, Worker};
use support::{asking, stay, wakes};

struct World {
    definition: Definition,
    saga: Dialogue,
    replayed: Saga,
    commands: Vec<Sent>,
    worker: Worker,
    promised: bool,
    /// The state that an operator saw when something was last parked.
    page: Option<Seen>,
}

impl World {
    fn new(definition: Definition, rooms: u16, fates: Vec<u8>) -> Self {
        let input = serde_json::json!({ "rooms": rooms });
        let saga = Dialogue::begin(definition.clone(), input.clone());
        let new = amends_engine::core::NewSaga {
            id: saga.saga.id,
            business_key: saga.saga.business_key.clone(),
            trace: None,
        };
        let replayed = start(&definition, new, &input.into(), saga.now).saga;
        let worker = Worker::new(definition.clone(), saga.saga.id, fates);
        let mut world =
            Self { definition, saga, replayed, commands: Vec::new(), worker, promised: false, page: None };
        world.send();
        world
    }

    /// Takes the commands to send; checks that compensations go in reverse order.
    fn send(&mut self) {
        for send in std::mem::take(&mut self.saga.sent) {
            let saga = &self.saga.saga;
            let row = id::execute(saga.id, self.definition.steps[send.step].name, send.part, send.generation);
            let command =
                saga.state.commands.iter().find(|c| c.id(saga.id, &self.definition) == row).unwrap();
            // A compensation that an operator retries began before: a late success of a later step may be there by now.
            let begins = command
                .undo
                .as_ref()
                .is_some_and(|u| u.attempt == 1 && u.issued_at == self.saga.now && u.asks == 1);
            let late = self.saga.entries.last().is_some_and(|e| e.did.incident.is_some());
            if send.kind == Kind::Compensate && begins && !late {
                let above = saga.state.commands.iter().filter(|c| c.step > send.step);
                for later in above {
                    assert!(
                        !later.may_have_effect(&self.definition) || later.is_undone(),
                        "undone out of turn: {later:?}"
                    );
                }
            }
            self.commands.push(Sent { row, send });
        }
    }

    /// Applies an event, and checks everything that must hold after every event.
    fn happens(&mut self, event: Event) {
        let before = self.saga.saga.clone();
        let written = self.saga.entries.len();
        self.saga.happens(event.clone());
        let after = &self.saga.saga;
        for entry in &self.saga.entries[written..] {
            assert_eq!(entry.revision, before.revision + 1, "revisions without a gap");
            assert!(entry.did.ended.is_none() || before.outcome.is_none(), "a saga ends once");
            let stored = Entry::from_stored(entry.revision, entry.occurrence.at, &entry.body(0));
            assert_eq!(&stored.unwrap(), entry);
            let Occurrence { event, at, jitter } = entry.occurrence.clone();
            match transition(&self.definition, &self.replayed, &Occurrence { event, at, jitter }) {
                Decision::Changed(change) if change.entry.did == entry.did => self.replayed = change.saga,
                other => panic!("decided otherwise when replayed: {other:?}"),
            }
        }
        self.replayed.wake_at = after.wake_at;
        assert_eq!(&self.replayed, after, "the history gives the row");
        let reach = self.saga.now + self.definition.timer_reach();
        assert!(
            after
                .state
                .commands
                .iter()
                .filter(|c| c.status != Known::Awaited)
                .all(|c| c.due().is_none_or(|due| due <= reach)),
            "no timer is out of reach"
        );
        let state: SagaProgress =
            serde_json::from_str(&serde_json::to_string(&after.state).unwrap()).unwrap();
        assert_eq!(state, after.state, "the row can be stored");
        if before.label == "CONFIRMED" {
            assert_eq!(after.label, "CONFIRMED", "past the pivot there is no way back");
        }
        if after.reason != before.reason && after.reason.as_ref().is_some_and(|r| r.code == "too_late") {
            assert_eq!(before.label, "NEW", "the timeout is over once its step is done");
            assert!(self.saga.now >= after.born_at + Duration::from_secs(900), "nothing is early");
        }
        if before.outcome.is_some() {
            assert_eq!((before.outcome, &before.label), (after.outcome, &after.label), "an outcome is final");
        }
        if after.outcome == Some(SagaOutcome::Undone) && before.outcome.is_none() {
            let open = |c: &&amends_engine::core::CommandState| {
                c.may_have_effect(&self.definition) && !c.is_undone()
            };
            assert_eq!(after.state.commands.iter().find(open), None, "undone, but for one");
        }
        if matches!(event, Event::CancelRequested(_)) && self.saga.last.is_none() {
            self.promised = true;
        }
        if self.promised {
            assert!(
                ["UNDOING", "CANCELLED"].contains(&after.label.as_str()),
                "a promise broken: {}",
                after.label
            );
        }
        let commands_held = after.state.commands.iter().flat_map(|c| &c.held);
        if after.outcome == Some(SagaOutcome::Undone) && !after.live && !after.parked {
            assert_eq!(
                commands_held.collect::<Vec<_>>(),
                Vec::<&Exposure>::new(),
                "undone, and it holds something"
            );
        }
        if after.parked {
            self.page = Some(self.saga.seen());
        }
        self.knows_what_it_holds();
        let after = &self.saga.saga;
        let commands = after.state.commands.iter().filter(|_| after.state.poisoned.is_none());
        let next = commands.filter_map(|c| c.due()).chain(after.state.timeout_at).min();
        assert!(
            (after.live, after.wake_at.is_some()) == (next.is_some(), next.is_some())
                && after.wake_at <= next
        );
        self.send();
    }

    /// Asserts that the saga holds, or may hold, everything that is in the world.
    fn knows_what_it_holds(&self) {
        let mut said = self.saga.holds();
        said.extend(self.possible());
        for row in self.worker.rows.values().filter(|r| r.effect && !r.owes_reply) {
            for exposure in held(&self.definition, row.step, row.part) {
                assert!(said.contains(&exposure), "{exposure:?} is held, and only {said:?} is known");
            }
        }
    }

    /// Returns what the saga may hold beyond what it certainly holds.
    fn possible(&self) -> Vec<Exposure> {
        let data = amends_protocol::Json::null();
        let input = amends_engine::core::Input { data: &data, personal: None };
        self.saga.saga.holds(&self.definition, input).1
    }

    fn does(&mut self, action: Action) {
        let pick = |which: u16, len: usize| (len > 0).then(|| usize::from(which) % len);
        match action {
            Action::Arrive { which, again } => {
                if let Some(at) = pick(which, self.commands.len()) {
                    let sent = if again { self.commands[at].clone() } else { self.commands.remove(at) };
                    self.worker.receives(&sent);
                }
            }
            Action::LoseCommand(which) => {
                if let Some(at) = pick(which, self.commands.len()) {
                    self.commands.remove(at);
                }
            }
            Action::Answer { which, again } => {
                if let Some(at) = pick(which, self.worker.replies.len()) {
                    let replies = &mut self.worker.replies;
                    let reply = if again { replies[at].clone() } else { replies.remove(at) };
                    self.happens(Event::Replied(reply));
                }
            }
            Action::LoseReply(which) => {
                if let Some(at) = pick(which, self.worker.replies.len()) {
                    let key = self.worker.replies[at].row_key();
                    if !self.worker.rows.get(&key).is_some_and(|r| r.owes_reply) {
                        self.worker.replies.remove(at);
                    }
                }
            }
            Action::Finish(which) => {
                if let Some(at) = pick(which, self.worker.rows.len()) {
                    let key = *self.worker.rows.keys().nth(at).unwrap();
                    self.worker.finishes(key);
                }
            }
            Action::Betray(which) => {
                if let Some(at) = pick(which, self.worker.rows.len()) {
                    let (key, row) = self.worker.rows.iter().nth(at).unwrap();
                    if self.definition.steps[row.step].kind != StepKind::Retriable {
                        self.worker.betrays(*key);
                    }
                }
            }
            Action::Pass(millis) => self.saga.now += Duration::from_millis(millis.into()),
            Action::Wake => self.happens(Event::Woke),
            Action::Round => self.round(),
            Action::Cancel => self.happens(Event::CancelRequested(Actor::new("guest", ""))),
            Action::Retry => self.retries(),
            Action::Resend => {
                let by = Actor::new("operator", "");
                self.happens(Event::ResendRequested(Resend { by, seen: None }));
            }
            Action::FromAnOldPage { retry, done } => self.acts_from_an_old_page(retry, done),
            Action::Resolve { done } => self.resolve(done),
            Action::Signal { yes } => self.signal(yes),
        }
    }

    /// An operator with evidence resolves the parked command; it is settled on the other side too.
    fn resolve(&mut self, done: bool) {
        let Some(command) = self.saga.saga.parked_command().cloned() else { return };
        let key = command.id(self.saga.saga.id, &self.definition);
        let undoing = command.undo.as_ref().is_some_and(|u| u.parked.is_some());
        let exposure = held(&self.definition, command.step, command.part);
        let by = Actor::new("operator", "asked");
        let seen = self.saga.seen();
        let resolution = Resolution { by, seen, done, reference: "R-1".to_owned(), exposure };
        let worker = self.worker.clone();
        if self.worker.rows.contains_key(&key) {
            self.worker.by_hand(key, done && !undoing);
        } else if done && !undoing {
            self.worker.done_by_hand(key, command.step, command.part);
        }
        self.happens(Event::Resolved(resolution));
        if self.saga.last.is_some() {
            self.worker = worker;
        }
    }

    fn signal(&mut self, yes: bool) {
        let arrived = self.saga.saga.state.signals.clone();
        let payload = serde_json::json!({ "yes": yes }).into();
        let by = Actor::new("manager", "");
        self.happens(Event::Signalled(Signal { name: "ask".to_owned(), payload, by }));
        let now = &self.saga.saga.state.signals;
        assert!(arrived.is_empty() || *now == arrived, "a signal takes effect once: {now:?}");
        assert!(now.len() <= 1);
    }

    fn retries(&mut self) {
        let seen = self.saga.seen();
        self.happens(Event::RetryRequested(Retry { by: Actor::new("operator", ""), seen }));
    }

    /// The saga has changed, or another command is parked: the action must settle nothing.
    fn acts_from_an_old_page(&mut self, retry: bool, done: bool) {
        let Some(seen) = self.page.filter(|seen| seen.revision != self.saga.saga.revision) else { return };
        let (written, by) = (self.saga.entries.len(), Actor::new("operator", "an old page"));
        self.happens(if retry {
            Event::RetryRequested(Retry { by, seen })
        } else {
            let reference = "R-0".to_owned();
            Event::Resolved(Resolution { by, seen, done, reference, exposure: Vec::new() })
        });
        assert_eq!(self.saga.entries.len(), written, "an old page settles nothing");
    }

    /// In a healthy world, an operator handles what is parked.
    fn mends(&mut self) {
        let saga = &self.saga.saga;
        let unnetted = saga.parked_reason().is_some_and(|reason| reason.code == "exposure_not_netted");
        // Its worker has nothing more to give back: it was settled on the other side.
        if unnetted && saga.parked_command().is_some_and(|c| c.undo.as_ref().is_some_and(|u| u.attempt > 2)) {
            self.resolve(true);
        } else {
            self.retries();
        }
    }

    /// The world heals: everything arrives, every call ends normally, and operators retry.
    fn heals(&mut self) {
        self.worker.fates.clear();
        for _ in 0..2000 {
            if self.saga.saga.parked {
                self.mends();
            }
            if self.saga.saga.awaited(&self.definition).is_some() {
                self.signal(true);
            }
            let saga = &self.saga.saga;
            if self.commands.is_empty() && self.worker.is_at_rest() && !saga.live && !saga.parked {
                return;
            }
            self.round();
        }
        panic!("no end");
    }

    /// Everything on its way arrives, calls end, and the saga's time comes.
    fn round(&mut self) {
        for sent in std::mem::take(&mut self.commands) {
            self.worker.receives(&sent);
        }
        let keys: Vec<_> = self.worker.rows.keys().copied().collect();
        keys.into_iter().for_each(|key| self.worker.finishes(key));
        for reply in std::mem::take(&mut self.worker.replies) {
            self.happens(Event::Replied(reply));
        }
        if let Some(at) = self.saga.saga.wake_at.filter(|_| self.commands.is_empty()) {
            self.saga.now = self.saga.now.max(at);
            self.happens(Event::Woke);
        }
    }

    /// Checks what must hold at the end.
    fn is_well(&self) {
        let saga = &self.saga.saga;
        self.saga.replays();
        assert!(saga.outcome.is_some() && !saga.parked && !saga.live);
        for row in self.worker.rows.values() {
            assert!(row.effects <= 1, "at most one effect a command: {row:?}");
        }
        let effects = |step: usize, part: u16| {
            self.worker.rows.values().filter(|r| (r.step, r.part) == (step, part) && r.effect).count()
        };
        let mut held_now = Vec::new();
        for step in (0..self.definition.steps.len()).filter(|s| self.definition.steps[*s].signal.is_none()) {
            for part in 0..saga.parts(step) {
                let expected = usize::from(saga.outcome == Some(SagaOutcome::Completed));
                assert_eq!(effects(step, part), expected, "effects of {step}/{part}");
                if expected == 1 {
                    amends_protocol::add_exposure(&mut held_now, &held(&self.definition, step, part));
                }
            }
        }
        assert_eq!((self.saga.holds(), self.possible()), (held_now, vec![]), "what it holds");
        if self.promised {
            assert_eq!(saga.label, "CANCELLED");
        }
        assert!(
            saga.state
                .commands
                .iter()
                .all(|c| c.due().is_none() && c.status != Known::Backoff || c.undo.is_some())
        );
        wakes(&self.saga);
    }
}

fn held(definition: &Definition, step: usize, part: u16) -> Vec<Exposure> {
    let data = amends_protocol::Json::null();
    let input = amends_engine::core::Input { data: &data, personal: None };
    let call =
        amends_engine::core::Call { saga_id: uuid::Uuid::nil(), business_key: "", part, input, signals: &[] };
    (definition.steps[step].may_hold)(&call)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_every_saga_ends_done_or_undone(
        rooms in 1..=2_u16,
        asks in prop_oneof![Just(None), Just(Some(None)), Just(Some(Some(Duration::from_secs(100))))],
        fates in fates(),
        actions in prop::collection::vec(action(), 0..150),
    ) {
        let mut world = World::new(asks.map_or_else(stay, asking), rooms, fates);
        for action in actions {
            world.does(action);
        }
        world.heals();
        world.is_well();
    }
}
