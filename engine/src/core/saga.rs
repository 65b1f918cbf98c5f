//! A saga: what its row says.

use std::time::Duration;

use amends_protocol::{Exposure, Json, Reason, add_exposure, exceeding};
use chrono::{DateTime, TimeDelta, Utc, serde::ts_microseconds_option};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Call, CommandState, Definition, Input, Repeats, Seen, Status, StepKind};

/// What a saga without a timeout of its own counts as having promised for each of its steps.
const STEP_PROMISE: TimeDelta = TimeDelta::minutes(15);

/// What a saga is born with, besides its workflow and input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSaga {
    /// UUIDv7.
    pub id: Uuid,
    /// Its home for life, 0–1023.
    pub slot: u16,
    /// What it is about: an order's id.
    pub business_key: String,
}

/// One running (or ended) instance of a workflow.
#[derive(Debug, Clone, PartialEq)]
pub struct Saga {
    /// UUIDv7.
    pub id: Uuid,
    /// Its home for life.
    pub slot: u16,
    /// What it is about.
    pub business_key: String,
    /// Name of its workflow.
    pub workflow: String,
    /// Version of its workflow.
    pub workflow_version: u32,
    /// The rules by which it is decided, and which say how its state is written. Raised, and never lowered.
    pub core_version: u16,
    /// Counts its timeline entries; the fence between concurrent writers.
    pub revision: u32,
    /// What the world sees.
    pub label: String,
    /// While being undone: the label it will have.
    pub heading_for: Option<String>,
    /// Why it failed or is failing.
    pub reason: Option<Reason>,
    /// Final once set; never changes.
    pub outcome: Option<SagaOutcome>,
    /// The engine stopped and waits for an operator.
    pub parked: bool,
    /// A command is outstanding or a timer is set.
    pub live: bool,
    /// Never later than anything that is due.
    pub wake_at: Option<DateTime<Utc>>,
    /// The step it is at.
    pub step: String,
    /// Since when it waits there.
    pub since: DateTime<Utc>,
    /// When it was born.
    pub born_at: DateTime<Utc>,
    /// Everything else.
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

/// What an operator sees of a saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SagaState {
    /// Going forward.
    Running,
    /// Being undone.
    Compensating,
    /// Waits for an operator.
    Parked,
    /// Ended, every step completed.
    Completed,
    /// Ended, every effect undone.
    Undone,
}

impl SagaState {
    /// The word used in the admin API.
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

/// The part of a saga that only the core reads. Its instants are written as microseconds since 1970, as Postgres
/// counts them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SagaProgress {
    /// Which way it goes.
    pub direction: Direction,
    /// When it is cancelled unless a step has succeeded by then.
    #[serde(default, with = "ts_microseconds_option", skip_serializing_if = "Option::is_none")]
    pub timeout_at: Option<DateTime<Utc>>,
    /// How many commands each step has; empty where every step has one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<u16>,
    /// Every command ever sent, in order.
    pub commands: Vec<CommandState>,
    /// The row could not be written with what had come; an operator must look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poisoned: Option<Reason>,
}

impl SagaProgress {
    /// The JSON that is stored.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a state has string keys and finite numbers only")
    }
}

/// Which way a saga goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From step to step.
    Forward,
    /// Being undone, in reverse.
    Undoing,
    /// Has an outcome. An orphan may still be undone.
    Ended,
}

impl Saga {
    /// What an operator sees.
    pub fn state(&self) -> SagaState {
        match (self.parked, self.outcome) {
            (true, _) => SagaState::Parked,
            (_, Some(SagaOutcome::Completed)) => SagaState::Completed,
            (_, Some(SagaOutcome::Undone)) => SagaState::Undone,
            _ if self.state.direction == Direction::Undoing => SagaState::Compensating,
            _ => SagaState::Running,
        }
    }

    /// How many commands a step has.
    pub fn parts(&self, step: usize) -> u16 {
        self.state.parts.get(step).copied().unwrap_or(1)
    }

    /// Whether the pivot has succeeded: from then on the saga only goes forward.
    pub fn is_past_pivot(&self, definition: &Definition) -> bool {
        definition
            .steps
            .iter()
            .position(|s| s.kind == StepKind::Pivot)
            .is_some_and(|pivot| self.has_succeeded(pivot))
    }

    /// Whether every command of a step has succeeded in its newest generation.
    pub fn has_succeeded(&self, step: usize) -> bool {
        let done = |part| {
            let newest = self.state.commands.iter().rev().find(|c| c.step == step && c.part == part);
            newest.is_some_and(|c| c.status == Status::Succeeded)
        };
        (0..self.parts(step)).all(done)
    }

    /// What the saga certainly holds, and what it may hold besides because an answer is still open.
    pub fn holds(&self, definition: &Definition, input: Input<'_>) -> (Vec<Exposure>, Vec<Exposure>) {
        let (mut certain, mut possible) = (Vec::new(), Vec::new());
        for command in &self.state.commands {
            // Of what was undone nothing is left, unless less was given back than was held.
            add_exposure(&mut certain, &command.held);
            if command.held.is_empty() && !command.is_undone() && command.may_hold() {
                let call = self.call(command.part, input);
                add_exposure(&mut possible, &(definition.steps[command.step].may_hold)(&call));
            }
        }
        (certain, possible)
    }

    /// What of what it certainly holds its workflow does not account for: more than a command may come to hold, or
    /// more given back than was held. It is counted like all else, and shown.
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

    /// What a payload of this saga is made from.
    pub fn call<'a>(&'a self, part: u16, input: Input<'a>) -> Call<'a> {
        Call { saga_id: self.id, business_key: &self.business_key, part, input }
    }

    /// The commands that are to go out again (or to be asked after), and why, if that is all that there is to do for it
    /// now: it may as well be done later. `None` where there is anything else to do, or nothing.
    pub fn only_repeats_due(&self, now: DateTime<Utc>) -> Option<Vec<(&CommandState, Repeats)>> {
        if self.state.poisoned.is_some() || self.state.timeout_at.is_some_and(|at| at <= now) {
            return None;
        }
        let due = self.state.commands.iter().filter(|c| c.due().is_some_and(|at| at <= now));
        let repeats: Option<Vec<_>> = due.map(|c| Some((c, c.repeats(now)?))).collect();
        repeats.filter(|repeats| !repeats.is_empty())
    }

    /// By when it should be further: its own timeout. A saga that has none counts as if it had promised to pass its step
    /// within [`STEP_PROMISE`], so that those who have one do not always go first.
    pub fn promise(&self) -> DateTime<Utc> {
        self.state.timeout_at.unwrap_or(self.since + STEP_PROMISE)
    }

    /// Whether it sleeps beyond every timer that its commands can have: its alarm was set before the database's clock was
    /// set back. No timer is set further ahead than `reach`, but for the promise that the saga ends in time.
    pub fn oversleeps(&self, now: DateTime<Utc>, reach: Duration) -> bool {
        let sleeps = self.live && self.wake_at.is_some_and(|at| at > now + reach);
        sleeps && self.state.poisoned.is_none() && self.state.commands.iter().any(|c| c.due().is_some())
    }

    /// The next time after `now` at which there is something to do.
    pub fn next_due_after(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let dues = self.state.commands.iter().flat_map(CommandState::dues);
        dues.chain(self.state.timeout_at).filter(|at| *at > now).min()
    }

    /// Why it waits for an operator.
    pub fn parked_reason(&self) -> Option<&Reason> {
        self.state.poisoned.as_ref().or_else(|| self.parked_command().and_then(CommandState::parked))
    }

    /// The newest command that waits for an operator.
    pub fn parked_command(&self) -> Option<&CommandState> {
        self.state.commands.iter().rev().find(|c| c.parked().is_some())
    }

    /// What an operator sees who looks now, and must name to settle what waits for them.
    pub fn seen(&self, definition: &Definition) -> Seen {
        let parked = self.parked_command().filter(|_| self.state.poisoned.is_none());
        Seen {
            revision: self.revision,
            command_id: parked.and_then(|command| command.parked_id(self.id, definition)),
        }
    }
}

/// The number of parts of each step, for [`SagaProgress::parts`].
pub(super) fn parts_of(definition: &Definition, input: &Json) -> Vec<u16> {
    let parts: Vec<u16> = definition.steps.iter().map(|s| (s.parts)(input).max(1)).collect();
    if parts.iter().all(|n| *n == 1) { Vec::new() } else { parts }
}
