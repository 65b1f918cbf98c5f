//! What a workflow is: its steps in order, what undoes them, and the labels that the world sees.

use std::time::Duration;

use amends_protocol::{Exposure, Json};
use uuid::Uuid;

use super::{RetryPolicy, transition::RESEND};

/// How long an outcome that nobody knows is asked after before its saga parks, unless a workflow says otherwise.
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
    /// When a saga that does not get on is cancelled by itself.
    pub timeout: Option<SagaTimeout>,
    /// How long what is answered `unknown` is asked after before the saga parks: from the first of consecutive
    /// `unknown`s on, whether to a command or to its compensation.
    pub unknown_patience: Duration,
    /// In order. Compensatable ones, at most one pivot, then retriable ones.
    pub steps: Vec<Step>,
}

/// Labels that do not belong to a step. A label is plain data for the engine and public for everybody else.
#[derive(Debug, Clone, Copy)]
pub struct Labels {
    /// From birth on.
    pub initial: &'static str,
    /// While effects are being undone.
    pub undoing: &'static str,
    /// Once a cancelled saga is undone.
    pub cancelled: &'static str,
}

/// A promise that a saga is cancelled unless a step has succeeded in time. Wall-clock; it never stops.
#[derive(Debug, Clone, Copy)]
pub struct SagaTimeout {
    /// Index of the step that ends the promise.
    pub until_step: usize,
    /// From birth.
    pub after: Duration,
    /// The reason code that the saga then carries.
    pub reason: &'static str,
}

/// What may become of a step when it does not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepKind {
    /// Can be undone; before the pivot.
    Compensatable,
    /// The last that may be refused. Its compensation serves while it is outstanding.
    Pivot,
    /// After the pivot: tried until it succeeds; a refusal parks the saga.
    Retriable,
}

/// What a step's payload is made from.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The saga.
    pub saga_id: Uuid,
    /// What the saga is about.
    pub business_key: &'a str,
    /// Which of the step's commands.
    pub part: u16,
    /// The saga's immutable input and, for a step with [`Needs::Personal`], its personal fields.
    pub input: Input<'a>,
}

/// A saga's immutable input.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Everything but personal fields.
    pub data: &'a Json,
    /// Personal fields, where the step needs them.
    pub personal: Option<&'a Json>,
}

/// What of a saga's input a step's payload is made from. What is not needed is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// Nothing of it: the saga's id is enough.
    Nothing,
    /// Everything but personal fields.
    Input,
    /// Personal fields as well.
    Personal,
}

/// One step of a workflow.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its name, unique in the workflow: `pay`.
    pub name: &'static str,
    /// The participant that does it; its commands go to `<participant>.commands`.
    pub participant: &'static str,
    /// What may become of it.
    pub kind: StepKind,
    /// How often and when it is tried again after an answered failure.
    pub retry: RetryPolicy,
    /// The same for its compensation.
    pub undo_retry: RetryPolicy,
    /// How long an attempt may be without an answer before the engine asks what became of it.
    pub deadline: Duration,
    /// The saga's label once the step has succeeded.
    pub label_done: Option<&'static str>,
    /// The saga's label once everything is undone because this step was refused or given up.
    pub label_undone: &'static str,
    /// What the payload is made from.
    pub needs: Needs,
    /// How many commands the step has (one per warehouse), from the saga's input.
    pub parts: fn(&Json) -> u16,
    /// The command's payload.
    pub payload: fn(&Call<'_>) -> Json,
    /// What a command of this step may come to hold.
    pub may_hold: fn(&Call<'_>) -> Vec<Exposure>,
}

impl Step {
    /// No timer of this step's commands is set further ahead than this. One that is further ahead was set before the
    /// database's clock was set back.
    pub fn timer_reach(&self) -> Duration {
        let longest = self.deadline.max(self.retry.max).max(self.undo_retry.max);
        2 * longest.max(RESEND.to_std().unwrap_or_default())
    }
}

/// What is wrong with a definition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// There is nothing to do.
    #[error("a workflow needs a step")]
    NoSteps,
    /// Two steps have one name.
    #[error("two steps are called {0}")]
    TwiceNamed(&'static str),
    /// Compensatable steps come first, then at most one pivot, then retriable ones.
    #[error("step {0} is out of order: compensatable, then one pivot, then retriable")]
    OutOfOrder(&'static str),
    /// The timeout names a step that is not there, or one after the pivot.
    #[error("the timeout must end with a compensatable step")]
    Timeout,
}

impl Definition {
    /// `order_fulfilment@1`.
    pub fn title(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    /// The step of that name, and its index.
    pub fn step(&self, name: &str) -> Option<(usize, &Step)> {
        self.steps.iter().enumerate().find(|(_, s)| s.name == name)
    }

    /// The longest [`Step::timer_reach`] of its steps.
    pub fn timer_reach(&self) -> Duration {
        self.steps.iter().map(Step::timer_reach).max().unwrap_or_default()
    }

    /// Checks what the core relies on.
    ///
    /// # Errors
    /// The first [`Fault`].
    pub fn validate(&self) -> Result<(), Fault> {
        if self.steps.is_empty() {
            return Err(Fault::NoSteps);
        }
        let mut passed_pivot = false;
        for (i, step) in self.steps.iter().enumerate() {
            if self.steps[..i].iter().any(|s| s.name == step.name) {
                return Err(Fault::TwiceNamed(step.name));
            }
            if passed_pivot != (step.kind == StepKind::Retriable) {
                return Err(Fault::OutOfOrder(step.name));
            }
            passed_pivot |= step.kind == StepKind::Pivot;
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
    /// A catalog of definitions that were checked.
    ///
    /// # Errors
    /// The title of the first that is at fault, and its [`Fault`].
    pub fn new(definitions: Vec<Definition>) -> Result<Self, (String, Fault)> {
        for definition in &definitions {
            definition.validate().map_err(|fault| (definition.title(), fault))?;
        }
        Ok(Self(definitions))
    }

    /// The definition that a saga was born with; `None` if this program is older (or has dropped it).
    pub fn get(&self, name: &str, version: u32) -> Option<&Definition> {
        self.0.iter().find(|d| d.name == name && d.version == version)
    }

    /// No timer of any of its workflows' commands is set further ahead than this.
    pub fn timer_reach(&self) -> Duration {
        self.iter().map(Definition::timer_reach).max().unwrap_or_default()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Definition> {
        self.0.iter()
    }
}
