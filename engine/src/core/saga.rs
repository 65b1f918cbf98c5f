//! The saga: the content of its row.

use std::{collections::BTreeMap, time::Duration};

use amends_protocol::{Exposure, Json, Reason, add_exposure, exceeding, trace::TraceContext};
use chrono::{DateTime, TimeDelta, Utc, serde::ts_microseconds_option};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{ArrivedSignal, Call, CommandState, Definition, Input, Repeats, Seen, Status, StepKind};

/// The promise assumed for each step of a saga without a timeout.
const STEP_PROMISE: TimeDelta = TimeDelta::minutes(15);

/// What a new saga needs besides its workflow and input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSaga {
    /// UUIDv7 whose last ten bits are the saga's slot ([`amends_protocol::id::slot`]).
    pub id: Uuid,
    /// The business key, such as the order's id.
    pub business_key: String,
    /// The span of the request that it is born of. `None` if nothing records it, and the client named none.
    pub trace: Option<TraceContext>,
}

/// One running or ended instance of a workflow.
#[derive(Debug, Clone, PartialEq)]
pub struct Saga {
    /// UUIDv7.
    pub id: Uuid,
    /// The slot, 0–1023: the last ten bits of the id.
    pub slot: u16,
    /// The business key.
    pub business_key: String,
    /// Name of the workflow.
    pub workflow: String,
    /// Version of the workflow.
    pub workflow_version: u32,
    /// Version of the rules that decide the saga and that define the format of its state. It only rises.
    pub core_version: u16,
    /// Number of timeline entries. Concurrent writers are fenced by it.
    pub revision: u32,
    /// The public label.
    pub label: String,
    /// The label that a saga being undone will have.
    pub heading_for: Option<String>,
    /// Why the saga failed or is failing.
    pub reason: Option<Reason>,
    /// The outcome. It never changes once set.
    pub outcome: Option<SagaOutcome>,
    /// The engine stopped and waits for an operator.
    pub parked: bool,
    /// A command is outstanding or a timer is set.
    pub live: bool,
    /// Time of the next wake-up. It is never later than the earliest due action.
    pub wake_at: Option<DateTime<Utc>>,
    /// The current step.
    pub step: String,
    /// Since when the saga waits at this step.
    pub since: DateTime<Utc>,
    /// Time of birth.
    pub born_at: DateTime<Utc>,
    /// The state that only the core reads.
    pub state: SagaProgress,
}

/// How a saga ended. Public and final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SagaOutcome {
    /// Every step completed.
    Completed,
    /// Every effect was undone, or there was none.
    Undone,
}

/// A saga's state as operators see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SagaState {
    /// Going forward.
    Running,
    /// Being undone.
    Compensating,
    /// Waiting for an operator.
    Parked,
    /// Ended; every step completed.
    Completed,
    /// Ended; every effect was undone.
    Undone,
}

impl SagaState {
    /// Returns the word that the admin API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            SagaState::Running => "running",
            SagaState::Compensating => "compensating",
            SagaState::Parked => "parked",
            SagaState::Completed => "completed",
            SagaState::Undone => "undone",
        }
    }
}

/// The part of a saga that only the core reads. Times are stored as microseconds since 1970, Postgres' resolution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SagaProgress {
    /// The direction of the saga.
    pub direction: Direction,
    /// Time at which the saga is cancelled unless a step has succeeded by then.
    #[serde(default, with = "ts_microseconds_option", skip_serializing_if = "Option::is_none")]
    pub timeout_at: Option<DateTime<Utc>>,
    /// Number of commands of each step; empty if every step has one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<u16>,
    /// Every command ever sent, in order, and every wait for a signal.
    pub commands: Vec<CommandState>,
    /// The signals that have arrived, each at most once, in the order of their arrival.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signals: Vec<ArrivedSignal>,
    /// Labels of the definition that this saga replaces: computed from its input at birth.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Set if the row could not be stored with the new events; an operator must look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poisoned: Option<Reason>,
    /// The span of the request that it was born of. Never changes; nothing is decided by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceContext>,
}

impl SagaProgress {
    /// Returns the JSON that is stored.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a state has string keys and finite numbers only")
    }
}

/// The direction of a saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From step to step.
    Forward,
    /// Effects are being undone, in reverse order.
    Undoing,
    /// The saga has an outcome. An orphan may still be undone.
    Ended,
}

impl Saga {
    /// Returns its trace, and the span of it that everything without a nearer cause belongs to.
    pub fn trace(&self) -> TraceContext {
        self.state.trace.unwrap_or_else(|| TraceContext::of_saga(self.id))
    }

    /// Returns the state as operators see it.
    pub fn state(&self) -> SagaState {
        match (self.parked, self.outcome) {
            (true, _) => SagaState::Parked,
            (_, Some(SagaOutcome::Completed)) => SagaState::Completed,
            (_, Some(SagaOutcome::Undone)) => SagaState::Undone,
            _ if self.state.direction == Direction::Undoing => SagaState::Compensating,
            _ => SagaState::Running,
        }
    }

    /// Returns the signal that the saga waits for: its step's name, and since when.
    pub fn awaited<'a>(&self, definition: &'a Definition) -> Option<(&'a str, DateTime<Utc>)> {
        let waits =
            |c: &&CommandState| c.status == Status::Awaited && self.state.direction == Direction::Forward;
        let command = self.state.commands.iter().rev().find(waits)?;
        Some((definition.steps.get(command.step)?.name, command.issued_at))
    }

    /// Returns the number of commands of a step.
    pub fn parts(&self, step: usize) -> u16 {
        self.state.parts.get(step).copied().unwrap_or(1)
    }

    /// Returns whether the pivot has succeeded, or the workflow has only retriable steps. From then on the saga only goes
    /// forward.
    pub fn is_past_pivot(&self, definition: &Definition) -> bool {
        definition
            .steps
            .iter()
            .position(|s| s.kind == StepKind::Pivot)
            .map_or(definition.only_goes_forward(), |pivot| self.has_succeeded(pivot))
    }

    /// Returns whether every command of a step has succeeded in its newest generation.
    pub fn has_succeeded(&self, step: usize) -> bool {
        let done = |part| {
            let newest = self.state.commands.iter().rev().find(|c| c.step == step && c.part == part);
            newest.is_some_and(|c| c.status == Status::Succeeded)
        };
        (0..self.parts(step)).all(done)
    }

    /// Returns what the saga certainly holds, and what it may also hold because an answer is outstanding.
    pub fn holds(&self, definition: &Definition, input: Input<'_>) -> (Vec<Exposure>, Vec<Exposure>) {
        let (mut certain, mut possible) = (Vec::new(), Vec::new());
        for command in &self.state.commands {
            // An undone command holds nothing, unless it gave back less than it held.
            add_exposure(&mut certain, &command.held);
            if command.held.is_empty() && !command.is_undone() && command.may_hold() {
                let call = self.call(command.part, input);
                add_exposure(&mut possible, &(definition.steps[command.step].may_hold)(&call));
            }
        }
        (certain, possible)
    }

    /// Returns the part of the certain exposure that the workflow does not account for: more than a command may come to
    /// hold, or more given back than was held. It counts like all other exposure, and is shown to operators.
    pub fn holds_beyond(&self, definition: &Definition, input: Input<'_>) -> Vec<Exposure> {
        let (mut beyond, mut sum) = (Vec::new(), Vec::new());
        for command in self.state.commands.iter().filter(|c| !c.held.is_empty()) {
            let call = self.call(command.part, input);
            add_exposure(
                &mut beyond,
                &exceeding(&command.held, &(definition.steps[command.step].may_hold)(&call)),
            );
            add_exposure(&mut sum, &command.held);
        }
        sum.retain(|held| held.amount < 0);
        add_exposure(&mut beyond, &sum);
        beyond
    }

    /// Builds the arguments of a payload function.
    pub fn call<'a>(&'a self, part: u16, input: Input<'a>) -> Call<'a> {
        let signals = &self.state.signals;
        Call { saga_id: self.id, business_key: &self.business_key, part, input, signals }
    }

    /// Returns the commands to send again or to probe for, and why, if nothing else is due now. Such work can be put
    /// off. `None` if anything else is due, or nothing.
    pub fn only_repeats_due(&self, now: DateTime<Utc>) -> Option<Vec<(&CommandState, Repeats)>> {
        if self.state.poisoned.is_some() || self.state.timeout_at.is_some_and(|at| at <= now) {
            return None;
        }
        let due = self.state.commands.iter().filter(|c| c.due().is_some_and(|at| at <= now));
        let repeats: Option<Vec<_>> = due.map(|c| Some((c, c.repeats(now)?))).collect();
        repeats.filter(|repeats| !repeats.is_empty())
    }

    /// Returns the time by which the saga should have progressed: its own timeout. A saga without a timeout counts as
    /// promising to pass its step within [`STEP_PROMISE`], so that sagas with a timeout do not always go first.
    pub fn promise(&self) -> DateTime<Utc> {
        self.state.timeout_at.unwrap_or(self.since + STEP_PROMISE)
    }

    /// Returns whether `wake_at` lies beyond every timer that the saga's commands can have: it was set before the
    /// database's clock was set back. No timer is set further ahead than `reach`, except for the saga's own timeout and
    /// for the deadline of a signal.
    pub fn sleeps_too_long(&self, now: DateTime<Utc>, reach: Duration) -> bool {
        let sleeps = self.live && self.wake_at.is_some_and(|at| at > now + reach);
        let mut commands = self.state.commands.iter().filter(|c| c.status != Status::Awaited);
        sleeps && self.state.poisoned.is_none() && commands.any(|c| c.due().is_some())
    }

    /// Returns the time of the next action after `now`.
    pub fn next_due_after(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let dues = self.state.commands.iter().flat_map(CommandState::dues);
        dues.chain(self.state.timeout_at).filter(|at| *at > now).min()
    }

    /// Returns why the saga waits for an operator.
    pub fn parked_reason(&self) -> Option<&Reason> {
        self.state.poisoned.as_ref().or_else(|| self.parked_command().and_then(CommandState::parked))
    }

    /// Returns the newest command that waits for an operator.
    pub fn parked_command(&self) -> Option<&CommandState> {
        self.state.commands.iter().rev().find(|c| c.parked().is_some())
    }

    /// Returns the present state as an operator sees it. A request to settle it must name this state.
    pub fn seen(&self, definition: &Definition) -> Seen {
        let parked = self.parked_command().filter(|_| self.state.poisoned.is_none());
        Seen {
            revision: self.revision,
            command_id: parked.and_then(|command| command.parked_id(self.id, definition)),
        }
    }
}

/// Computes the number of commands of each step, for [`SagaProgress::parts`].
pub(super) fn parts_of(definition: &Definition, input: &Json) -> Vec<u16> {
    let parts: Vec<u16> = definition
        .steps
        .iter()
        .map(|s| if s.signal.is_some() { 1 } else { (s.parts)(input).max(1) })
        .collect();
    if parts.iter().all(|n| *n == 1) { Vec::new() } else { parts }
}
