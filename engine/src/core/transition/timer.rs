//! Timers: actions that are due.

use amends_protocol::{Kind, Reason};
use chrono::{DateTime, Utc};

use super::{Considered, Deciding};
use crate::core::{Decision, Direction, RetryPolicy, Status};

impl Deciding<'_> {
    /// Handles a wake-up at the saga's `wake_at`.
    pub(super) fn wake(&mut self) -> Considered {
        self.woken = true;
        if self.time_out() {
            return Ok(());
        }
        self.take_back_what_is_out_of_reach();
        let due: Vec<usize> = (0..self.saga.state.commands.len())
            .filter(|&at| self.saga.state.commands[at].due().is_some_and(|d| d <= self.now))
            .collect();
        if due.is_empty() || self.saga.state.poisoned.is_some() {
            return Err(Decision::Rescheduled(self.next_due()));
        }
        for at in due {
            self.act(at);
        }
        Ok(())
    }

    /// Makes timers due now that lie further ahead than any timer is set: they were set before the database's clock was
    /// set back. The present attempt then counts from now. The saga's own timeout and the deadline of a signal keep their
    /// time, because they are promises to people.
    fn take_back_what_is_out_of_reach(&mut self) {
        let now = self.now;
        for command in self.saga.state.commands.iter_mut().filter(|c| c.status != Status::Awaited) {
            let reach = self.definition.steps[command.step].timer_reach();
            let is_out_of_reach = |at: Option<DateTime<Utc>>| at.is_some_and(|at| at > now + reach);
            if is_out_of_reach(command.due_at) {
                (command.due_at, command.sent_at) = (Some(now), Some(now));
            }
            if let Some(undo) = command.undo.as_mut().filter(|undo| is_out_of_reach(undo.due_at)) {
                undo.due_at = Some(now);
            }
        }
    }

    /// Cancels a saga whose timeout has passed; returns whether it did.
    pub(super) fn time_out(&mut self) -> bool {
        let over = self.saga.state.timeout_at.is_some_and(|at| at <= self.now)
            && self.saga.state.direction == Direction::Forward;
        if over {
            let reason = self.definition.timeout.map_or("timeout", |t| t.reason);
            let heading = self.definition.labels.cancelled;
            self.give_up(heading, Some(Reason::new(reason, "")));
        }
        over
    }

    /// Sends the due command or its probe.
    pub(super) fn act(&mut self, at: usize) {
        self.concern(at);
        let now = self.now;
        if self.saga.state.commands[at].undo.as_ref().is_some_and(|u| u.due_at.is_some()) {
            return self.send_undo(at);
        }
        match self.saga.state.commands[at].status {
            Status::Waiting if self.deadline(at) > now => {
                self.saga.state.commands[at].due_at = Some(self.deadline(at));
                self.push(at, Kind::Execute);
            }
            Status::Waiting | Status::Unknown => self.ask(at),
            Status::Backoff => self.execute(at),
            Status::Awaited => self.signal_overdue(at),
            _ => self.saga.state.commands[at].due_at = None,
        }
    }

    /// Probes for the outcome of a command. If the last probe stayed unanswered, the command itself is sent again as
    /// well: its id is stable, so this is no second attempt.
    pub(super) fn ask(&mut self, at: usize) {
        let retry = self.retry_policy(at);
        let (now, jitter) = (self.now, self.jitter);
        let command = &mut self.saga.state.commands[at];
        let silent = command.status == Status::Unknown && command.asks > 0;
        command.status = Status::Unknown;
        command.parked = None;
        command.asks += 1;
        command.due_at = Some(now + retry.delay(command.asks, jitter));
        self.push(at, Kind::Probe);
        if silent {
            self.push(at, Kind::Execute);
        }
    }

    pub(super) fn retry_policy(&self, at: usize) -> RetryPolicy {
        self.definition.steps[self.saga.state.commands[at].step].retry
    }

    /// Names the command in the timeline entry.
    pub(super) fn concern(&mut self, at: usize) {
        let command = &self.saga.state.commands[at];
        self.did.step = Some(self.definition.steps[command.step].name.to_owned());
        self.did.attempt = Some(command.undo.as_ref().map_or(command.attempt, |u| u.attempt));
    }
}
