//! One saga of two steps: the pure core under two engines that read, decide, write and send one after the other, and a
//! worker by the protocol's table (the real `decide` and `CommandRow`).

mod others;
mod space;

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use amends_engine::core::{
    Actor, CommandToSend, Decision, Definition, Event, Input, Labels, Needs, NewSaga, Occurrence, ReplyEvent,
    Resolution, Retry, RetryPolicy, Saga, SagaOutcome, Seen, Signal, SignalStep, SignalVerdict, Step,
    StepKind, command, start, transition,
};
use amends_protocol::{Exposure, Json, Kind, Outcome, Reason, Reply, TokenKey, negated};
use amends_worker::{
    decide::{self, Memory, decide},
    row::{AnswerDetails, CommandRow, Status},
};
use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::Space;

const MEMORY: Memory = Memory { horizon: TimeDelta::days(14), retention: TimeDelta::days(400) };

/// Limits of what may go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Messages that arrive twice.
    pub duplicates: u8,
    /// Messages that are lost.
    pub losses: u8,
    /// Timers that fire although answers are on their way.
    pub timeouts: u8,
    /// Cancellations.
    pub cancels: u8,
    /// Engines that die at any point.
    pub crashes: u8,
    /// Executes or undos that fail and may be retried.
    pub failures: u8,
    /// Undos that a worker reports as done without knowing the effect.
    pub unnetted: u8,
    /// Replies that repeat the other step.
    pub echoes: u8,
    /// Actions of an operator, on a present or an old view of a parked saga.
    pub actions: u8,
    /// Signals, each yes or no. With any, the saga waits for one between its two steps.
    pub signals: u8,
}

/// One duplicate, one timeout, one cancellation.
pub const SMALL: Budget = Budget {
    duplicates: 1,
    losses: 0,
    timeouts: 1,
    cancels: 1,
    crashes: 0,
    failures: 0,
    unnetted: 0,
    echoes: 0,
    actions: 0,
    signals: 0,
};
/// A loss instead of a duplicate.
pub const LOSS: Budget = Budget { duplicates: 0, losses: 1, ..SMALL };
/// A crash instead of a duplicate.
pub const CRASH: Budget = Budget { duplicates: 0, crashes: 1, ..SMALL };
/// A failure, of an execute or of an undo, instead of a duplicate.
pub const FAILURE: Budget = Budget { duplicates: 0, failures: 1, ..SMALL };
/// Undos that give nothing back, and an operator who settles what they saw, instead of a duplicate.
pub const UNNETTED: Budget = Budget { duplicates: 0, timeouts: 0, unnetted: 2, actions: 2, ..SMALL };
/// A reply that repeats the other step instead of a duplicate.
pub const ECHO: Budget = Budget { duplicates: 0, echoes: 1, ..SMALL };
/// Two signals that may contradict each other, a crash and a timer instead of a duplicate.
pub const SIGNALS: Budget = Budget { duplicates: 0, crashes: 1, signals: 2, ..SMALL };
/// For daily runs.
pub const TINY: Budget = Budget { duplicates: 0, ..SMALL };

/// A message on its way.
#[derive(Debug, Clone, PartialEq)]
enum Message {
    Command(CommandToSend),
    Reply(ReplyEvent),
}

/// The stage of an engine.
#[derive(Debug, Clone)]
enum At {
    Idle,
    /// It has read the row. A frozen engine stays here, or at the next stage.
    Read {
        saga: Box<Saga>,
        event: Event,
        message: Option<Message>,
    },
    /// It has written, and has not sent the commands yet.
    Written {
        sends: Vec<CommandToSend>,
        message: Option<Message>,
    },
}

/// A state.
#[derive(Debug, Clone)]
pub struct SagaSystem {
    saga: Saga,
    now: DateTime<Utc>,
    engines: [At; 2],
    messages: Vec<Message>,
    rows: BTreeMap<Uuid, CommandRow>,
    /// Effects by command: how often it took effect, and whether the effect holds.
    effects: BTreeMap<Uuid, (u8, bool)>,
    left: Budget,
    promised: bool,
    changed_outcome: bool,
    /// The state that an operator saw.
    page: Option<Seen>,
    /// Whether they settled a state that they had not seen.
    mistaken: bool,
    /// The signal that was acknowledged.
    acknowledged: Option<bool>,
}

/// The space.
pub struct TwoSteps {
    definition: Definition,
    budget: Budget,
    key: TokenKey,
}

impl TwoSteps {
    /// Creates a space with these limits.
    pub fn new(budget: Budget) -> Self {
        let step = |name, kind, label_done| Step {
            name,
            participant: "worker",
            signal: None,
            kind,
            retry: RetryPolicy::attempts(Some(2)),
            undo_retry: RetryPolicy::attempts(Some(3)),
            deadline: Duration::from_secs(10),
            label_done: Some(label_done),
            label_undone: "FAILED",
            needs: Needs::Nothing,
            parts: |_| 1,
            payload: |_| Json::null(),
            may_hold: |call| vec![Exposure::new("held", call.part.to_string(), 1)],
        };
        let judge = |payload: &Json| match payload.read() {
            Ok(true) => SignalVerdict::Accepted,
            Ok(false) => SignalVerdict::Declined(Reason::new("no", "")),
            Err(_) => SignalVerdict::Malformed,
        };
        let deadline = Some(Duration::from_secs(60));
        let asks = Step {
            signal: Some(SignalStep { deadline, judge }),
            label_undone: "FAILED",
            ..Step::signal("ask", StepKind::Compensatable)
        };
        let mut definition = Definition {
            name: "two_steps",
            version: 1,
            labels: Labels { initial: "NEW", undoing: "UNDOING", cancelled: "CANCELLED" },
            relabel: |_| Vec::new(),
            timeout: None,
            unknown_patience: amends_engine::core::UNKNOWN_PATIENCE,
            steps: vec![
                step("first", StepKind::Compensatable, "HALF"),
                step("second", StepKind::Pivot, "DONE"),
            ],
        };
        if budget.signals > 0 {
            definition.steps.insert(1, asks);
        }
        Self { definition, budget, key: TokenKey::new([1; 32]) }
    }

    /// Advances an engine by one step.
    fn engine(&self, state: &SagaSystem, e: usize, next: &mut Vec<(String, SagaSystem)>) {
        match &state.engines[e] {
            At::Idle => {
                for (at, message) in state.messages.iter().enumerate() {
                    let Message::Reply(reply) = message else { continue };
                    let mut after = state.clone();
                    after.messages.remove(at);
                    let event = Event::Replied(reply.clone());
                    self.read(&mut after, e, event, Some(message.clone()));
                    next.push((format!("engine {e} reads for {} {:?}", reply.step, reply.outcome), after));
                }
                let quiet =
                    state.messages.is_empty() && state.engines.iter().all(|at| matches!(at, At::Idle));
                let due =
                    state.saga.wake_at.filter(|_| state.saga.live && (quiet || state.left.timeouts > 0));
                if let Some(at) = due {
                    let mut after = state.clone();
                    after.left.timeouts -= u8::from(!quiet);
                    after.now = after.now.max(at);
                    self.read(&mut after, e, Event::Woke, None);
                    next.push((format!("engine {e} reads for a timer"), after));
                }
                self.operator(state, e, next);
                self.signal(state, e, next);
                if state.left.cancels > 0 {
                    let mut after = state.clone();
                    after.left.cancels -= 1;
                    self.read(&mut after, e, Event::CancelRequested(Actor::new("c", "")), None);
                    next.push((format!("engine {e} reads for a cancellation"), after));
                }
            }
            At::Read { saga, event, message } => {
                let mut after = state.clone();
                let what = self.write(&mut after, e, saga, event, message.clone());
                next.push((format!("engine {e} {what}"), after));
            }
            At::Written { sends, .. } => {
                let mut after = state.clone();
                after.messages.extend(sends.iter().map(|s| Message::Command(*s)));
                after.engines[e] = At::Idle;
                next.push((format!("engine {e} sends"), after));
            }
        }
        if state.left.crashes > 0
            && let At::Read { message, .. } | At::Written { message, .. } = &state.engines[e]
        {
            let mut after = state.clone();
            after.left.crashes -= 1;
            // Its offset has not moved.
            after.messages.extend(message.clone());
            after.engines[e] = At::Idle;
            next.push((format!("engine {e} dies"), after));
        }
    }

    fn read(&self, state: &mut SagaSystem, e: usize, event: Event, message: Option<Message>) {
        state.engines[e] = At::Read { saga: Box::new(state.saga.clone()), event, message };
    }

    fn write(
        &self,
        state: &mut SagaSystem,
        e: usize,
        read: &Saga,
        event: &Event,
        message: Option<Message>,
    ) -> String {
        let occurrence = Occurrence { event: event.clone(), at: state.now, jitter: 0 };
        let decision = transition(&self.definition, read, &occurrence);
        if let Event::Replied(reply) = event {
            let at = read.state.commands.iter().find(|c| c.id(read.id, &self.definition) == reply.row_key());
            let another = at.is_some_and(|c| self.definition.steps[c.step].name != reply.step);
            state.mistaken |= another && matches!(decision, Decision::Changed(_));
        }
        if let Decision::Changed(change) = decision {
            if state.saga.revision != read.revision {
                self.read(state, e, event.clone(), message);
                return "is too late and reads again".to_owned();
            }
            state.changed_outcome |= read.outcome.is_some() && change.saga.outcome != read.outcome;
            state.promised |= matches!(event, Event::CancelRequested(_));
            if let Event::Resolved(Resolution { seen, .. }) | Event::RetryRequested(Retry { seen, .. }) =
                event
            {
                let mut parked =
                    read.state.commands.iter().filter_map(|c| c.parked_id(read.id, &self.definition));
                let named = parked.any(|id| Some(id) == seen.command_id);
                state.mistaken |= seen.revision != read.revision || !named;
            }
            if let Event::Signalled(signal) = event {
                state.mistaken |= state.acknowledged.is_some();
                state.acknowledged = signal.payload.read().ok();
            }
            state.saga = change.saga;
            let what = format!("writes {:?}", change.entry.did);
            state.engines[e] = At::Written { sends: change.sends, message };
            return what;
        }
        if let Decision::Rescheduled(at) = decision
            && state.saga.revision == read.revision
        {
            state.saga.wake_at = at;
        }
        state.engines[e] = At::Idle;
        "writes nothing".to_owned()
    }

    /// The worker processes a command in one transaction.
    fn worker(&self, state: &SagaSystem, at: usize, keep: bool, next: &mut Vec<(String, SagaSystem)>) {
        let Message::Command(send) = &state.messages[at] else { return };
        let null = Json::null();
        let input = Input { data: &null, personal: None };
        let command = command(&self.definition, &state.saga, send, input, 1, &self.key);
        let key = command.row_key();
        let name = format!("{} {:?}{}", command.step, command.kind, if keep { ", twice" } else { "" });
        let mut after = state.clone();
        if keep {
            after.left.duplicates -= 1;
        } else {
            after.messages.remove(at);
        }
        let now = state.now;
        let row = state.rows.get(&key);
        let decision = decide(row, &command, now, MEMORY);
        let reply = match decision {
            decide::Decision::Ignore => None,
            decide::Decision::Reply(outcome) => Some(match row {
                Some(row) => row.reply(&command, outcome, now),
                None => command.reply(outcome, now),
            }),
            decide::Decision::Recorded => row.and_then(|r| r.recorded(&command, now)),
            decide::Decision::RecordedUndo => row.and_then(|r| r.recorded_undo(&command, now)),
            decide::Decision::Tombstone(outcome) => {
                let row = after.rows.entry(key).or_insert_with(|| CommandRow::new(&command));
                row.make_tombstone();
                Some(row.reply(&command, outcome, now))
            }
            decide::Decision::Execute => {
                let mut outcomes = vec![Outcome::Succeeded, Outcome::Refused];
                outcomes.extend((state.left.failures > 0).then_some(Outcome::FailedTransient));
                for outcome in outcomes {
                    let mut after = after.clone();
                    let row = after.rows.entry(key).or_insert_with(|| CommandRow::new(&command));
                    row.attempt = command.attempt;
                    let mut details = AnswerDetails::default();
                    if outcome == Outcome::Succeeded {
                        details.exposure = vec![Exposure::new("held", "0", 1)];
                        let effect = after.effects.entry(key).or_default();
                        *effect = (effect.0 + 1, true);
                    }
                    after.left.failures -= u8::from(outcome == Outcome::FailedTransient);
                    row.settle(Status::settled(outcome), details);
                    let reply = row.recorded(&command, now);
                    after.answer(reply);
                    next.push((format!("worker {name}: {outcome:?}"), after));
                }
                return;
            }
            decide::Decision::Undo => {
                let mut outcomes = vec![Outcome::Succeeded];
                outcomes.extend((state.left.failures > 0).then_some(Outcome::FailedTransient));
                for outcome in outcomes {
                    let mut after = after.clone();
                    let Some(row) = after.rows.get_mut(&key) else { return };
                    let mut details = AnswerDetails::default();
                    if outcome == Outcome::Succeeded {
                        details.exposure = negated(&row.details.exposure);
                        after.effects.entry(key).or_default().1 = false;
                    }
                    after.left.failures -= u8::from(outcome == Outcome::FailedTransient);
                    row.settle_undo(outcome, command.attempt, details);
                    let reply = row.recorded_undo(&command, now);
                    after.answer(reply);
                    next.push((format!("worker {name}: {outcome:?}"), after));
                }
                return;
            }
            decide::Decision::Remember | decide::Decision::LookUp => None,
        };
        after.answer(reply);
        next.push((format!("worker {name}: {decision:?}"), after));
    }
}

impl SagaSystem {
    fn answer(&mut self, reply: Option<Reply>) {
        self.messages.extend(reply.map(|reply| Message::Reply(ReplyEvent::from(reply))));
    }

    /// Returns the same state in a canonical form. The engines are interchangeable.
    fn canonical(mut self) -> Self {
        let key = |message: &Message| match message {
            Message::Command(s) => (0, s.step, s.kind as u8, s.attempt, 0, s.issued_at),
            Message::Reply(r) => {
                let step = usize::from(r.step == "second") + 2 * r.exposure.len();
                (1, step, r.kind as u8, r.attempt, r.outcome as u8, DateTime::UNIX_EPOCH)
            }
        };
        self.messages.sort_by_key(key);
        self.messages.dedup();
        let rank = |at: &At| match at {
            At::Idle => (0, 0, 0),
            At::Read { saga, event, .. } => (1, saga.revision, u8::from(matches!(event, Event::Woke))),
            At::Written { sends, .. } => (2, sends.len() as u32, 0),
        };
        if rank(&self.engines[0]) > rank(&self.engines[1]) {
            self.engines.swap(0, 1);
        }
        self
    }
}
