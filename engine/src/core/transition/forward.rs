//! Sending a step's commands, and advancing to the next step.

use amends_protocol::Kind;
use chrono::{DateTime, Utc};

use super::{Deciding, RESEND};
use crate::core::{CommandState, CommandToSend, SagaOutcome, Status, StepKind};

impl Deciding<'_> {
    /// Issues every command of a step, or begins to wait for its signal.
    pub(super) fn send_step(&mut self, step: usize) {
        self.saga.step = self.definition.steps[step].name.to_owned();
        self.saga.since = self.now;
        if self.definition.is_signal(step) {
            return self.await_signal(step);
        }
        for part in 0..self.saga.parts(step) {
            self.issue(step, part, 1);
        }
    }

    /// Issues one command for the first time.
    pub(super) fn issue(&mut self, step: usize, part: u16, generation: u16) {
        self.record(step, part, generation, Status::Waiting);
        self.execute(self.saga.state.commands.len() - 1);
    }

    /// Adds a command to the row.
    pub(super) fn record(&mut self, step: usize, part: u16, generation: u16, status: Status) {
        self.saga.state.commands.push(CommandState {
            step,
            part,
            generation,
            attempt: 1,
            issued_at: self.now,
            sent_at: None,
            status,
            due_at: None,
            asks: 0,
            failures: 0,
            unknowns: 0,
            parks_at: None,
            parked: None,
            held: Vec::new(),
            noted: Vec::new(),
            undo: None,
        });
    }

    /// Sends an execute at its present attempt; its deadline counts from now.
    pub(super) fn execute(&mut self, at: usize) {
        let now = self.now;
        let command = &mut self.saga.state.commands[at];
        command.status = Status::Waiting;
        command.parked = None;
        (command.unknowns, command.parks_at) = (0, None);
        command.sent_at = (command.issued_at != now).then_some(now);
        let deadline = self.deadline(at);
        self.saga.state.commands[at].due_at = Some(deadline.min(now + RESEND));
        self.push(at, Kind::Execute);
    }

    /// Returns the time from which the present attempt's outcome counts as unknown.
    pub(super) fn deadline(&self, at: usize) -> DateTime<Utc> {
        self.saga.state.commands[at].deadline(self.definition)
    }

    /// Adds a command to those to send.
    pub(super) fn push(&mut self, at: usize, kind: Kind) {
        let command = &self.saga.state.commands[at];
        self.sends.push(CommandToSend::of(self.definition, command, kind));
    }

    /// Handles the success of a forward step's command. If it was the last of the step, the saga advances.
    pub(super) fn advance(&mut self, step: usize) {
        if !self.saga.has_succeeded(step) {
            return;
        }
        if self.definition.timeout.is_some_and(|t| t.until_step == step) {
            self.saga.state.timeout_at = None;
        }
        if let Some(label) = self.definition.steps[step].label_done {
            self.label(label);
        }
        if step + 1 < self.definition.steps.len() {
            self.send_step(step + 1);
        } else {
            self.end(SagaOutcome::Completed);
        }
    }

    /// Returns whether the step can only be completed, not undone.
    pub(super) fn is_retriable(&self, step: usize) -> bool {
        self.definition.steps[step].kind == StepKind::Retriable
    }
}
