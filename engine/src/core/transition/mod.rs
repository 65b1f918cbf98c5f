//! `transition(workflow, saga, occurrence)` is the only place that decides what happens to a saga.
//!
//! | file | decides |
//! | --- | --- |
//! | [`verdict`] | what an answer means for a command: every status × outcome, as a table |
//! | `answer` | what the saga does about an answer |
//! | `forward` | sending a step's commands, and advancing |
//! | `undo` | giving up, compensating in reverse, orphans |
//! | `timer` | what is due |
//! | `operator` | cancel, retry, resend, resolve |
//! | `signal` | waiting for signals, and their arrival |

mod answer;
mod forward;
mod operator;
mod signal;
mod timer;
mod undo;
pub mod verdict;

use std::time::Duration;

use amends_protocol::{Json, MAX_ATTEMPT, Reason};
use chrono::{DateTime, TimeDelta, Utc};

use super::saga::parts_of;
use super::{
    CORE_VERSION, Change, CommandState, CommandToSend, Decision, Definition, Did, Direction, Entry, Event,
    NewSaga, Nothing, Occurrence, Saga, SagaOutcome, SagaProgress,
};

/// An unanswered command is sent again after this time: the broker may have lost it.
pub(crate) const RESEND: TimeDelta = TimeDelta::seconds(5);

/// The longest patience. A longer one would overflow a date.
const PATIENCE_MOST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Returns the attempt after this one. It saturates, because a worker cannot read a larger number.
fn next_attempt(attempt: u32) -> u32 {
    attempt.saturating_add(1).min(MAX_ATTEMPT)
}

/// Creates a saga by the newest rules: its row, its first entry and its first step's commands.
pub fn start(definition: &Definition, new: NewSaga, input: &Json, now: DateTime<Utc>) -> Change {
    start_by(CORE_VERSION, definition, new, input, now)
}

/// Creates a saga by the given rules: the newest that every live engine knows.
pub fn start_by(
    core_version: u16,
    definition: &Definition,
    new: NewSaga,
    input: &Json,
    now: DateTime<Utc>,
) -> Change {
    born(core_version, definition, new, input, now, definition.timeout.map(|t| now + t.after))
}

/// Creates a saga with the timeout that its birth entry records; the definition's may have changed since.
pub(super) fn born(
    core_version: u16,
    definition: &Definition,
    new: NewSaga,
    input: &Json,
    now: DateTime<Utc>,
    timeout_at: Option<DateTime<Utc>>,
) -> Change {
    let saga = Saga {
        id: new.id,
        slot: amends_protocol::id::slot(new.id),
        business_key: new.business_key,
        workflow: definition.name.to_owned(),
        workflow_version: definition.version,
        core_version,
        revision: 0,
        label: String::new(),
        heading_for: None,
        reason: None,
        outcome: None,
        parked: false,
        live: true,
        wake_at: None,
        step: definition.steps[0].name.to_owned(),
        since: now,
        born_at: now,
        state: SagaProgress {
            direction: Direction::Forward,
            timeout_at,
            parts: parts_of(definition, input),
            commands: Vec::new(),
            signals: Vec::new(),
            labels: (definition.relabel)(input)
                .into_iter()
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
                .collect(),
            poisoned: None,
            trace: new.trace,
        },
    };
    let mut step = Deciding::new(definition, &saga, now, 0);
    step.label(definition.labels.initial);
    step.did.timeout_at = timeout_at;
    step.did.trace = new.trace;
    step.send_step(0);
    step.finish(&Occurrence { event: Event::Started(input.clone()), at: now, jitter: 0 })
}

/// Decides what an event means for a saga, by the rules that the saga's row names. There is only one version of the
/// rules so far; where a later one differs, the code branches on `core_version`.
pub fn transition(definition: &Definition, saga: &Saga, occurrence: &Occurrence) -> Decision {
    let mut deciding = Deciding::new(definition, saga, occurrence.at, occurrence.jitter);
    let verdict = match &occurrence.event {
        Event::Started(_) => Err(DUPLICATE),
        Event::Replied(reply) => {
            // An answer that arrives after the saga's timeout does not save it, even if the engine reads it before the
            // timer.
            deciding.time_out();
            deciding.answer(reply)
        }
        Event::Woke => deciding.wake(),
        Event::CancelRequested(_) => deciding.cancel(),
        Event::RetryRequested(retry) => deciding.retry(retry),
        Event::ResendRequested(resend) => deciding.resend(resend),
        Event::Resolved(resolution) => deciding.resolve(resolution),
        Event::Poisoned(reason) => deciding.poison(reason),
        Event::Signalled(signal) => deciding.signal(signal),
    };
    match verdict {
        Ok(()) => Decision::Changed(Box::new(deciding.finish(occurrence))),
        Err(decision) => decision,
    }
}

/// A decision being made.
struct Deciding<'a> {
    definition: &'a Definition,
    before: &'a Saga,
    saga: Saga,
    now: DateTime<Utc>,
    jitter: u16,
    woken: bool,
    did: Did,
    sends: Vec<CommandToSend>,
}

/// `Ok` if there is something to write; `Err` says why there is not.
type Considered = Result<(), Decision>;

const DUPLICATE: Decision = Decision::Nothing(Nothing::Duplicate);

impl<'a> Deciding<'a> {
    fn new(definition: &'a Definition, saga: &'a Saga, now: DateTime<Utc>, jitter: u16) -> Self {
        let (did, sends) = (Did::default(), Vec::new());
        Self { definition, before: saga, saga: saga.clone(), now, jitter, woken: false, did, sends }
    }

    /// Derives the row's columns from its state, and completes the decision.
    fn finish(mut self, occurrence: &Occurrence) -> Change {
        let saga = &mut self.saga;
        saga.revision += 1;
        let parked = saga.parked_reason();
        if parked != self.before.parked_reason() {
            self.did.parked = parked.cloned();
        }
        saga.parked = parked.is_some();
        if saga.parked != self.before.parked {
            saga.since = self.now;
        }
        self.wake_from_poison();
        let next = self.next_due();
        let saga = &mut self.saga;
        saga.live = next.is_some();
        // Only waking raises it, so that an ordinary update touches no indexed column.
        saga.wake_at = match (saga.wake_at, next) {
            (Some(present), Some(next)) if !self.woken => Some(present.min(next)),
            (_, next) => next,
        };
        let definition = self.definition;
        self.did.sent = self.sends.iter().map(|s| s.name(definition)).collect();
        let mut occurrence = occurrence.clone();
        if let Event::Replied(reply) = &mut occurrence.event {
            reply.echo = None;
        }
        let entry = Entry {
            revision: self.saga.revision,
            core_version: self.saga.core_version,
            epoch: 0,
            occurrence,
            did: self.did,
        };
        Change { saga: self.saga, entry, sends: self.sends }
    }

    /// Makes everything due now that became due while the saga was poisoned. A time left in the past would be missed by
    /// a scan that looks back only for a limited time.
    fn wake_from_poison(&mut self) {
        if self.before.state.poisoned.is_none() || self.saga.state.poisoned.is_some() {
            return;
        }
        let now = self.now;
        for command in &mut self.saga.state.commands {
            let undo = command.undo.as_mut().map(|undo| &mut undo.due_at);
            for due_at in [Some(&mut command.due_at), undo].into_iter().flatten() {
                *due_at = due_at.map(|due| due.max(now));
            }
        }
    }

    /// Returns the time of the next action. A poisoned saga takes no action except for its own timeout.
    fn next_due(&self) -> Option<DateTime<Utc>> {
        let state = &self.saga.state;
        let commands = state.commands.iter().filter(|_| state.poisoned.is_none());
        commands.filter_map(CommandState::due).chain(state.timeout_at).min()
    }

    /// Returns the time at which the patience with an unknown outcome would end if it began now.
    fn patience_from_now(&self) -> DateTime<Utc> {
        let patience = self.definition.unknown_patience.min(PATIENCE_MOST);
        self.now + patience
    }

    /// Returns the label that this saga has in place of one of its definition.
    fn relabelled<'b>(&'b self, label: &'b str) -> &'b str {
        self.saga.state.labels.get(label).map_or(label, String::as_str)
    }

    /// Sets a label of the definition.
    fn label(&mut self, label: &str) {
        match self.saga.state.labels.get(label).cloned() {
            Some(label) => self.set_label(&label),
            None => self.set_label(label),
        }
    }

    /// Sets a label that is already this saga's.
    fn set_label(&mut self, label: &str) {
        if self.saga.label != label {
            self.saga.label = label.to_owned();
            self.did.label = Some(label.to_owned());
        }
    }

    fn end(&mut self, outcome: SagaOutcome) {
        self.saga.state.direction = Direction::Ended;
        self.saga.outcome = Some(outcome);
        self.did.ended = Some(outcome);
        self.saga.state.timeout_at = None;
        self.saga.since = self.now;
    }

    fn poison(&mut self, reason: &Reason) -> Considered {
        if self.saga.state.poisoned.is_some() {
            return Err(DUPLICATE);
        }
        self.saga.state.poisoned = Some(reason.clone());
        Ok(())
    }
}
