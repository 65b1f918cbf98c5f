//! Workflow definitions: the steps in order, their compensation, and the public labels.

use std::time::Duration;

use amends_protocol::{Exposure, Json, Reason};
use uuid::Uuid;

use super::{ArrivedSignal, RetryPolicy, transition::RESEND};

/// Default for how long the engine asks for an unknown outcome before the saga parks.
pub const UNKNOWN_PATIENCE: Duration = Duration::from_secs(15 * 60);

/// A versioned workflow.
#[derive(Debug, Clone)]
pub struct Definition {
    /// Its name: `order_fulfilment`.
    pub name: &'static str,
    /// Its version, from 1. A saga keeps the one it was born with.
    pub version: u32,
    /// Labels that do not belong to a step.
    pub labels: Labels,
    /// Labels that a saga's input replaces, as pairs of label and replacement: computed once, at birth.
    pub relabel: fn(&Json) -> Vec<(&'static str, &'static str)>,
    /// When a saga without progress is cancelled automatically.
    pub timeout: Option<SagaTimeout>,
    /// How long the engine keeps asking after an `unknown` answer before the saga parks. It counts from the first of
    /// consecutive `unknown`s, and applies to commands and compensations.
    pub unknown_patience: Duration,
    /// The steps in order: compensatable ones, at most one pivot, then retriable ones. Without a pivot, all of them are
    /// compensatable or all are retriable.
    pub steps: Vec<Step>,
}

/// Labels that do not belong to a step. For the engine a label is plain data; everywhere else it is public.
#[derive(Debug, Clone, Copy)]
pub struct Labels {
    /// The label from birth on.
    pub initial: &'static str,
    /// The label while effects are being undone.
    pub undoing: &'static str,
    /// The label of a cancelled saga once it is undone.
    pub cancelled: &'static str,
}

/// Cancels a saga unless a given step has succeeded in time. It measures wall-clock time and is never suspended.
#[derive(Debug, Clone, Copy)]
pub struct SagaTimeout {
    /// Index of the step whose success ends the timeout.
    pub until_step: usize,
    /// Duration, counted from the saga's birth.
    pub after: Duration,
    /// The reason code of a saga that timed out.
    pub reason: &'static str,
}

/// What happens when a step does not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepKind {
    /// The step can be undone; it stands before the pivot.
    Compensatable,
    /// The last step that may be refused. Its compensation serves while its outcome is outstanding.
    Pivot,
    /// A step after the pivot: it is tried until it succeeds, and a refusal parks the saga.
    Retriable,
}

/// Arguments from which a step's payload is built.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The saga.
    pub saga_id: Uuid,
    /// The saga's business key, such as the order's id.
    pub business_key: &'a str,
    /// Index of the command within its step.
    pub part: u16,
    /// The saga's immutable input and, for a step with [`Needs::Personal`], its personal fields.
    pub input: Input<'a>,
    /// The signals that have arrived.
    pub signals: &'a [ArrivedSignal],
}

/// A saga's immutable input.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The input without personal fields.
    pub data: &'a Json,
    /// Personal fields, if the step needs them.
    pub personal: Option<&'a Json>,
}

/// Which parts of a saga's input a step's payload needs. The engine reads only these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// Nothing: the saga's id is enough.
    Nothing,
    /// The input without personal fields.
    Input,
    /// The input with personal fields.
    Personal,
}

/// One step of a workflow.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its name, unique in the workflow: `pay`.
    pub name: &'static str,
    /// The participant that executes it; its commands go to `<participant>.commands`. Empty for a signal.
    pub participant: &'static str,
    /// Set if the step waits for a signal of its name instead of a worker's reply. It has no command and no effect, so
    /// that nothing of it is undone.
    pub signal: Option<SignalStep>,
    /// What happens when the step does not succeed.
    pub kind: StepKind,
    /// When and how often a failed attempt is repeated.
    pub retry: RetryPolicy,
    /// The same for its compensation.
    pub undo_retry: RetryPolicy,
    /// How long an attempt may stay unanswered before the engine probes for its outcome.
    pub deadline: Duration,
    /// The saga's label once the step has succeeded.
    pub label_done: Option<&'static str>,
    /// The saga's label once everything is undone because this step was refused or given up.
    pub label_undone: &'static str,
    /// Which input the payload needs.
    pub needs: Needs,
    /// Number of commands of the step (one per warehouse, for example), computed from the saga's input.
    pub parts: fn(&Json) -> u16,
    /// Builds the command's payload.
    pub payload: fn(&Call<'_>) -> Json,
    /// Computes what a command of this step may come to hold.
    pub may_hold: fn(&Call<'_>) -> Vec<Exposure>,
}

/// A step that waits for an event from outside: a person's decision, a parcel that comes back.
#[derive(Debug, Clone, Copy)]
pub struct SignalStep {
    /// How long the saga waits, counted from the step's beginning. `None`: as long as it takes.
    pub deadline: Option<Duration>,
    /// Says what the payload means.
    pub judge: fn(&Json) -> SignalVerdict,
}

/// What a signal's payload means for the step that waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignalVerdict {
    /// The step is done.
    Accepted,
    /// The step is given up with this reason.
    Declined(Reason),
    /// The workflow does not understand the payload: the signal is refused.
    Malformed,
}

impl Step {
    /// Creates a step that waits for a signal of its name, without a deadline. Any payload completes it.
    pub fn signal(name: &'static str, kind: StepKind) -> Self {
        let once = RetryPolicy::attempts(Some(1));
        Self {
            name,
            participant: "",
            signal: Some(SignalStep { deadline: None, judge: |_| SignalVerdict::Accepted }),
            kind,
            retry: once,
            undo_retry: once,
            deadline: Duration::ZERO,
            label_done: None,
            label_undone: "",
            needs: Needs::Nothing,
            parts: |_| 1,
            payload: |_| Json::null(),
            may_hold: |_| Vec::new(),
        }
    }

    /// Returns the furthest distance at which a timer of this step's commands is set. A timer beyond it was set before
    /// the database's clock was set back. A signal's deadline is no such timer: it is a promise to people, like the
    /// saga's own timeout, and keeps its time.
    pub fn timer_reach(&self) -> Duration {
        let longest = self.deadline.max(self.retry.max).max(self.undo_retry.max);
        2 * longest.max(RESEND.to_std().unwrap_or_default())
    }
}

/// Why a definition is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The workflow has no steps.
    #[error("a workflow needs a step")]
    NoSteps,
    /// Two steps share a name.
    #[error("two steps are called {0}")]
    TwiceNamed(&'static str),
    /// Compensatable steps come first, then at most one pivot, then retriable ones.
    #[error("step {0} is out of order: compensatable, then one pivot, then retriable")]
    OutOfOrder(&'static str),
    /// The timeout names a missing step, or one after the pivot.
    #[error("the timeout must end with a compensatable step")]
    Timeout,
    /// After the pivot a saga only goes forward, so that nothing can follow from a deadline.
    #[error("signal {0} stands after the pivot and has a deadline")]
    SignalDeadline(&'static str),
    /// A step has both a participant and a signal, or neither.
    #[error("step {0} must have a participant, or wait for a signal")]
    Participant(&'static str),
}

impl Definition {
    /// Returns name and version, as in `order_fulfilment@1`.
    pub fn title(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    /// Returns the step with the given name, and its index.
    pub fn step(&self, name: &str) -> Option<(usize, &Step)> {
        self.steps.iter().enumerate().find(|(_, s)| s.name == name)
    }

    /// Returns the participants of its steps.
    pub fn participants(&self) -> impl Iterator<Item = &'static str> {
        self.steps.iter().filter(|step| step.signal.is_none()).map(|step| step.participant)
    }

    /// Returns whether there is nothing to go back to: it begins with a retriable step.
    pub(super) fn only_goes_forward(&self) -> bool {
        self.steps.first().is_some_and(|step| step.kind == StepKind::Retriable)
    }

    /// Returns its steps that wait for signals, as `workflow/step`.
    pub fn signals(&self) -> impl Iterator<Item = String> {
        let signals = self.steps.iter().filter(|step| step.signal.is_some());
        signals.map(|step| format!("{}/{}", self.name, step.name))
    }

    /// Returns whether a step waits for a signal.
    pub(super) fn is_signal(&self, step: usize) -> bool {
        self.steps[step].signal.is_some()
    }

    /// Returns the longest [`Step::timer_reach`] of the steps.
    pub fn timer_reach(&self) -> Duration {
        self.steps.iter().map(Step::timer_reach).max().unwrap_or_default()
    }

    /// Checks the rules that the core relies on.
    ///
    /// # Errors
    /// The first [`Fault`].
    pub fn validate(&self) -> Result<(), Fault> {
        if self.steps.is_empty() {
            return Err(Fault::NoSteps);
        }
        let mut passed_pivot = self.only_goes_forward();
        for (i, step) in self.steps.iter().enumerate() {
            if self.steps[..i].iter().any(|s| s.name == step.name) {
                return Err(Fault::TwiceNamed(step.name));
            }
            if passed_pivot != (step.kind == StepKind::Retriable) {
                return Err(Fault::OutOfOrder(step.name));
            }
            passed_pivot |= step.kind == StepKind::Pivot;
            if step.signal.is_some() != step.participant.is_empty() {
                return Err(Fault::Participant(step.name));
            }
            let has_deadline = step.signal.is_some_and(|signal| signal.deadline.is_some());
            if has_deadline && step.kind == StepKind::Retriable {
                return Err(Fault::SignalDeadline(step.name));
            }
        }
        match self.timeout {
            Some(t) if self.steps.get(t.until_step).is_none_or(|s| s.kind != StepKind::Compensatable) => {
                Err(Fault::Timeout)
            }
            _ => Ok(()),
        }
    }
}

/// The workflows that this program knows.
#[derive(Debug, Clone, Default)]
pub struct Catalog(Vec<Definition>);

impl Catalog {
    /// Builds a catalog and validates its definitions.
    ///
    /// # Errors
    /// The title of the first invalid definition, and its [`Fault`].
    pub fn new(definitions: Vec<Definition>) -> Result<Self, (String, Fault)> {
        for definition in &definitions {
            definition.validate().map_err(|fault| (definition.title(), fault))?;
        }
        Ok(Self(definitions))
    }

    /// Returns the definition of the given version. `None` means that this program is older or has dropped it.
    pub fn get(&self, name: &str, version: u32) -> Option<&Definition> {
        self.0.iter().find(|d| d.name == name && d.version == version)
    }

    /// Returns the longest [`Definition::timer_reach`] of the workflows.
    pub fn timer_reach(&self) -> Duration {
        self.iter().map(Definition::timer_reach).max().unwrap_or_default()
    }

    /// Iterates over all definitions.
    pub fn iter(&self) -> impl Iterator<Item = &Definition> {
        self.0.iter()
    }
}
