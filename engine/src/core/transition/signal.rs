//! Waiting for signals, and their arrival.

use amends_protocol::Reason;
use chrono::{DateTime, TimeDelta, Utc};

use super::{Considered, DUPLICATE, Deciding};
use crate::core::{ArrivedSignal, Decision, Direction, Illegal, Signal, SignalVerdict, Status};

impl Deciding<'_> {
    /// Begins a step that waits for a signal. One that arrived early is there already.
    pub(super) fn await_signal(&mut self, step: usize) {
        let signal = self.definition.steps[step].signal;
        self.record(step, 0, 1, Status::Awaited);
        let at = self.saga.state.commands.len() - 1;
        let deadline = signal.and_then(|signal| signal.deadline);
        // A deadline beyond all dates is none.
        self.saga.state.commands[at].due_at =
            deadline.and_then(|deadline| self.now.checked_add_signed(TimeDelta::from_std(deadline).ok()?));
        if self.arrived(self.definition.steps[step].name).is_some() {
            self.signal_settles(at);
        }
    }

    /// Handles a signal. It takes effect at most once: at once if its step waits for it, otherwise when its step begins.
    pub(super) fn signal(&mut self, signal: &Signal) -> Considered {
        let illegal = |why| Err(Decision::Illegal(why));
        let Some((step, definition)) = self.definition.step(&signal.name).filter(|(_, s)| s.signal.is_some())
        else {
            return illegal(Illegal::UnknownSignal);
        };
        if let Some(arrived) = self.arrived(definition.name) {
            return if arrived.payload == signal.payload {
                Err(DUPLICATE)
            } else {
                illegal(Illegal::SignalledOtherwise)
            };
        }
        if self.saga.outcome.is_some() {
            return illegal(Illegal::Ended);
        }
        let waits = self.saga.state.commands.iter().rposition(|c| c.step == step);
        let deadline = waits.and_then(|at| self.saga.state.commands[at].due_at);
        // What has passed counts, even if the timer has not been read yet.
        let has_passed = |at: Option<DateTime<Utc>>| at.is_some_and(|at| at <= self.now);
        if self.saga.state.direction != Direction::Forward
            || has_passed(self.saga.state.timeout_at)
            || has_passed(deadline)
        {
            return illegal(Illegal::NoLongerAwaited);
        }
        match definition.signal.map(|step| (step.judge)(&signal.payload)) {
            Some(SignalVerdict::Malformed) => return illegal(Illegal::MalformedSignal),
            Some(SignalVerdict::Declined(_)) if self.is_retriable(step) => {
                return illegal(Illegal::MustAccept);
            }
            _ => {}
        }
        let (name, payload) = (signal.name.clone(), signal.payload.clone());
        self.saga.state.signals.push(ArrivedSignal { name, payload, at: self.now });
        // The signal can be stored, so the saga is no longer poisoned.
        self.saga.state.poisoned = None;
        self.did.step = Some(definition.name.to_owned());
        if let Some(at) = waits {
            self.signal_settles(at);
        }
        Ok(())
    }

    fn arrived(&self, name: &str) -> Option<&ArrivedSignal> {
        self.saga.state.signals.iter().find(|signal| signal.name == name)
    }

    /// Completes or gives up a step whose signal is there.
    fn signal_settles(&mut self, at: usize) {
        let step = self.saga.state.commands[at].step;
        let definition = &self.definition.steps[step];
        let judged = match (definition.signal, self.arrived(definition.name)) {
            (Some(signal), Some(arrived)) => (signal.judge)(&arrived.payload),
            _ => return,
        };
        let command = &mut self.saga.state.commands[at];
        match judged {
            SignalVerdict::Accepted => {
                (command.status, command.due_at) = (Status::Succeeded, None);
                self.advance(step);
            }
            SignalVerdict::Declined(reason) => {
                (command.status, command.due_at) = (Status::Refused, None);
                self.give_up(definition.label_undone, Some(reason));
            }
            // Refused on delivery.
            SignalVerdict::Malformed => {}
        }
    }

    /// Gives up a step whose signal did not arrive in time.
    pub(super) fn signal_overdue(&mut self, at: usize) {
        let step = &self.definition.steps[self.saga.state.commands[at].step];
        self.saga.state.commands[at].status = Status::Refused;
        self.give_up(step.label_undone, Some(Reason::new("signal_overdue", step.name)));
    }
}
