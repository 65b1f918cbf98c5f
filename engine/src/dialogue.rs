//! Tests a workflow as a dialogue: expect this command, give that reply. Pure: time passes when the test says so.
//!
//! ```
//! # use amends_engine::{core::Definition, dialogue::Dialogue};
//! # fn f(definition: Definition, input: serde_json::Value) {
//! let mut order = Dialogue::begin(definition, input);
//! order.expect(&["reserve execute"]).succeeds("reserve execute").label("CONFIRMED");
//! order.expect(&["pay execute"]).refuses("pay execute", "card_declined").label("CANCELLING");
//! order.expect(&["reserve compensate"]).succeeds("reserve compensate").label("PAYMENT_FAILED");
//! # }
//! ```

use std::{fmt::Write, time::Duration};

use amends_protocol::{Exposure, Json, Kind, Outcome, Reason, id, negated};
use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::core::{
    Actor, Change, CommandToSend, Decision, Definition, Entry, Event, Illegal, Input, NewSaga, Nothing,
    Occurrence, ReplyEvent, Resend, Resolution, Retry, Saga, Seen, Signal, replay, start, transition,
};

/// A saga under test, its clock, and the commands that it has sent and the test has not yet expected.
#[derive(Debug, Clone)]
pub struct Dialogue {
    definition: Definition,
    input: Json,
    /// The present row.
    pub saga: Saga,
    /// Its timeline.
    pub entries: Vec<Entry>,
    /// Commands sent and not yet expected.
    pub sent: Vec<CommandToSend>,
    /// The present time.
    pub now: DateTime<Utc>,
    /// The result of the last event, if nothing was written.
    pub last: Option<Decision>,
}

impl Dialogue {
    /// Begins a saga at 2026-01-01T00:00:00Z with a fixed id.
    pub fn begin(definition: Definition, input: impl Into<Json>) -> Self {
        definition.validate().expect("the definition under test is sound");
        let (input, now) = (input.into(), DateTime::from_timestamp(1_767_225_600, 0).unwrap_or_default());
        let Change { saga, entry, sends } = start(&definition, Self::new_saga(), &input, now);
        Self { definition, input, saga, entries: vec![entry], sent: sends, now, last: None }
    }

    /// Returns what the saga was born with.
    pub fn birth(&self) -> (NewSaga, Json) {
        (Self::new_saga(), self.input.clone())
    }

    fn new_saga() -> NewSaga {
        let id = Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_0001);
        NewSaga { id, business_key: "order-1".to_owned(), trace: None }
    }

    /// Asserts that exactly these commands were sent since the last call, in any order.
    #[track_caller]
    pub fn expect(&mut self, commands: &[&str]) -> &mut Self {
        let mut sent: Vec<String> = self.sent.drain(..).map(|s| name(&self.definition, &s)).collect();
        let mut expected: Vec<String> = commands.iter().map(|&c| c.to_owned()).collect();
        sent.sort();
        expected.sort();
        assert_eq!(sent, expected, "commands sent\n{}", self.timeline());
        self
    }

    /// Asserts the saga's label.
    #[track_caller]
    pub fn label(&mut self, label: &str) -> &mut Self {
        assert_eq!(self.saga.label, label, "label\n{}", self.timeline());
        self
    }

    /// Replies to a command (`pay execute`, `pay compensate`, `pay probe`; `pay/1 execute` for a part) with success,
    /// holding or giving back what the definition says.
    #[track_caller]
    pub fn succeeds(&mut self, command: &str) -> &mut Self {
        self.answers(command, Outcome::Succeeded)
    }

    /// Replies to a command with a refusal.
    #[track_caller]
    pub fn refuses(&mut self, command: &str, code: &str) -> &mut Self {
        let mut reply = self.reply(command, Outcome::Refused);
        reply.reason = Some(Reason::new(code, ""));
        self.happens(Event::Replied(reply))
    }

    /// Replies to a command with this outcome.
    #[track_caller]
    pub fn answers(&mut self, command: &str, outcome: Outcome) -> &mut Self {
        let reply = self.reply(command, outcome);
        self.happens(Event::Replied(reply))
    }

    /// Returns the reply that [`Dialogue::answers`] gives, to be changed and passed to [`Dialogue::happens`].
    #[track_caller]
    pub fn reply(&self, command: &str, outcome: Outcome) -> ReplyEvent {
        let (step, kind) = command.split_once(' ').expect("a command is called `step kind`");
        let (step, part) = step.split_once('/').map_or((step, 0), |(s, p)| (s, p.parse().expect("a part")));
        let kind = [Kind::Execute, Kind::Compensate, Kind::Probe, Kind::Fence]
            .into_iter()
            .find(|k| k.as_str() == kind)
            .expect("a kind of command");
        let (index, definition) = self.definition.step(step).expect("a step of the workflow");
        let found = self.saga.state.commands.iter().rev().find(|c| c.step == index && c.part == part);
        let state = found.unwrap_or_else(|| panic!("{step} was never sent\n{}", self.timeline()));
        let row_key = id::execute(self.saga.id, step, part, state.generation);
        let attempt = match (kind, &state.undo) {
            (Kind::Compensate, Some(undo)) => undo.attempt,
            _ => state.attempt,
        };
        let call = self.saga.call(part, Input { data: &self.input, personal: None });
        let exposure = match (kind, outcome) {
            (Kind::Compensate, Outcome::Succeeded) => negated(&state.held),
            (_, Outcome::Succeeded) => (definition.may_hold)(&call),
            _ => Vec::new(),
        };
        ReplyEvent {
            command_id: id::of(kind, row_key),
            kind,
            target: (kind != Kind::Execute).then_some(row_key),
            step: step.to_owned(),
            attempt,
            outcome,
            result: None,
            reason: None,
            exposure,
            echo: None,
        }
    }

    /// Applies an event now. [`Dialogue::last`] has its result if nothing was written.
    pub fn happens(&mut self, event: Event) -> &mut Self {
        let occurrence = Occurrence { event, at: self.now, jitter: 0 };
        match transition(&self.definition, &self.saga, &occurrence) {
            Decision::Changed(change) => {
                let Change { saga, entry, sends } = *change;
                self.saga = saga;
                self.entries.push(entry);
                self.sent.extend(sends);
                self.last = None;
            }
            Decision::Rescheduled(at) => {
                self.saga.wake_at = at;
                self.last = Some(Decision::Rescheduled(at));
            }
            other => self.last = Some(other),
        }
        self
    }

    /// Lets time pass; the saga is woken whenever its `wake_at` comes.
    pub fn passes(&mut self, time: Duration) -> &mut Self {
        let until = self.now + time;
        while let Some(at) = self.saga.wake_at.filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.happens(Event::Woke);
        }
        self.now = until;
        self
    }

    /// The customer cancels.
    pub fn cancels(&mut self) -> &mut Self {
        self.happens(Event::CancelRequested(Actor::new("customer", "changed my mind")))
    }

    /// A signal arrives.
    pub fn signals(&mut self, name: &str, payload: impl Into<Json>) -> &mut Self {
        let (name, payload) = (name.to_owned(), payload.into());
        self.happens(Event::Signalled(Signal { name, payload, by: Actor::new("somebody", "") }))
    }

    /// Returns the present state as an operator sees it.
    pub fn seen(&self) -> Seen {
        self.saga.seen(&self.definition)
    }

    /// An operator retries the parked command.
    pub fn retries(&mut self) -> &mut Self {
        let seen = self.seen();
        self.retries_what_was(seen)
    }

    /// An operator retries what they saw some time ago.
    pub fn retries_what_was(&mut self, seen: Seen) -> &mut Self {
        let by = Actor::new("operator", "the other side is back");
        self.happens(Event::RetryRequested(Retry { by, seen }))
    }

    /// An operator sends a waiting command now.
    pub fn resends(&mut self) -> &mut Self {
        let by = Actor::new("operator", "the other side is back");
        self.happens(Event::ResendRequested(Resend { by, seen: None }))
    }

    /// An operator resolves the parked command, with a reference.
    pub fn resolves(&mut self, done: bool, exposure: Vec<Exposure>) -> &mut Self {
        let seen = self.seen();
        self.resolves_what_was(seen, done, exposure)
    }

    /// An operator resolves what they saw some time ago, with a reference.
    pub fn resolves_what_was(&mut self, seen: Seen, done: bool, exposure: Vec<Exposure>) -> &mut Self {
        let by = Actor::new("operator", "asked the other side");
        let reference = "REF-1".to_owned();
        self.happens(Event::Resolved(Resolution { by, seen, done, reference, exposure }))
    }

    /// Asserts that nothing was written for the last event.
    #[track_caller]
    pub fn changes_nothing(&mut self) -> &mut Self {
        assert!(
            matches!(self.last, Some(Decision::Nothing(_) | Decision::Rescheduled(_))),
            "{:?}",
            self.last
        );
        self
    }

    /// Asserts that the last event was ignored for this reason.
    #[track_caller]
    pub fn is_ignored(&mut self, why: Nothing) -> &mut Self {
        assert_eq!(self.last, Some(Decision::Nothing(why)), "\n{}", self.timeline());
        self
    }

    /// Asserts that the last event was refused for this reason.
    #[track_caller]
    pub fn is_illegal(&mut self, why: Illegal) -> &mut Self {
        assert_eq!(self.last, Some(Decision::Illegal(why)), "\n{}", self.timeline());
        self
    }

    /// Returns what the saga certainly holds.
    pub fn holds(&self) -> Vec<Exposure> {
        self.saga.holds(&self.definition, Input { data: &self.input, personal: None }).0
    }

    /// Asserts that replaying the timeline through the core gives the row. (`wake_at` is a lower bound that a wake-up
    /// without an entry may raise.)
    #[track_caller]
    pub fn replays(&self) {
        let mut replayed = replay(&self.definition, Self::new_saga(), &self.entries)
            .unwrap_or_else(|e| panic!("{e}\n{}", self.timeline()));
        replayed.wake_at = self.saga.wake_at;
        assert_eq!(replayed, self.saga);
    }

    /// Formats the timeline for people, with times counted from birth.
    pub fn timeline(&self) -> String {
        let mut text = String::new();
        for entry in &self.entries {
            let at: TimeDelta = entry.occurrence.at - self.saga.born_at;
            let did = &entry.did;
            let _ = write!(text, "{:>9.3}s {:>2} ", at.num_milliseconds() as f64 / 1000.0, entry.revision);
            if let Event::Replied(reply) = &entry.occurrence.event {
                let _ = write!(text, "{} {}: ", reply.step, reply.kind.as_str());
            }
            let _ = write!(text, "{}", entry.occurrence.event.name());
            if let Event::Signalled(signal) = &entry.occurrence.event {
                let _ = write!(text, " {} {}", signal.name, signal.payload.get());
            }
            if let Event::Replied(ReplyEvent { reason: Some(reason), .. }) = &entry.occurrence.event {
                let _ = write!(text, " ({})", reason.code);
            }
            for sent in &did.sent {
                let _ = write!(text, " -> {sent}");
            }
            if let Some(label) = &did.label {
                let _ = write!(text, " [{label}]");
            }
            if let Some(heading) = &did.heading_for {
                let _ = write!(text, " heading for {heading}");
            }
            if let Some(parked) = &did.parked {
                let _ = write!(text, " parked: {}", parked.code);
            }
            if let Some(incident) = &did.incident {
                let _ = write!(text, " incident: {incident}");
            }
            if did.noted.is_some() {
                text.push_str(" (noted)");
            }
            if let Some(ended) = did.ended {
                let _ = write!(text, " ended {ended:?}");
            }
            text.push('\n');
        }
        text
    }
}

fn name(definition: &Definition, send: &CommandToSend) -> String {
    let step = definition.steps[send.step].name;
    let part = if send.part == 0 { String::new() } else { format!("/{}", send.part) };
    format!("{step}{part} {}", send.kind.as_str())
}
