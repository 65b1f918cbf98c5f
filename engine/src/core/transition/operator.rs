//! What people may ask for: cancel, retry, resolve.

use super::{Deciding, Verdict};
use crate::core::{Decision, Direction, Illegal, Nothing, Resolution, Status};
use amends_protocol::{Kind, Reason, add_exposure, negated};

impl Deciding<'_> {
    /// Legal until the pivot's success is committed, going forward or parked.
    pub(super) fn cancel(&mut self) -> Verdict {
        let cancelled = self.definition.labels.cancelled;
        match self.saga.state.direction {
            _ if self.saga.outcome.is_some() => Err(Decision::Illegal(Illegal::Ended)),
            Direction::Undoing if self.saga.heading_for.as_deref() == Some(cancelled) => {
                Err(Decision::Nothing(Nothing::AlreadyCancelling))
            }
            Direction::Undoing => Err(Decision::Illegal(Illegal::UndoneOtherwise)),
            _ if self.saga.is_past_pivot(self.definition) => Err(Decision::Illegal(Illegal::PastPivot)),
            _ => {
                self.give_up(cancelled, None);
                Ok(())
            }
        }
    }

    /// Tries again whatever is parked.
    pub(super) fn retry(&mut self) -> Verdict {
        if !self.saga.parked {
            return Err(Decision::Illegal(Illegal::NotParked));
        }
        self.saga.state.poisoned = None;
        let parked: Vec<usize> = (0..self.saga.state.commands.len())
            .filter(|&at| self.saga.state.commands[at].parked().is_some())
            .collect();
        for at in parked {
            self.concern(at);
            let command = &mut self.saga.state.commands[at];
            if let Some(undo) = command.undo.as_mut().filter(|u| u.parked.is_some()) {
                undo.attempt = undo.attempt.saturating_add(1);
                undo.failures = 0;
                undo.asks = 0;
                self.send_undo(at);
            } else if matches!(command.status, Status::Unknown | Status::Expired) {
                command.status = Status::Unknown;
                command.unknowns = 0;
                command.asks = 0;
                self.ask(at);
            } else {
                // Its worker would answer from the record for ever; settled, it may have a successor.
                command.parked = None;
                let (step, part, generation) = (command.step, command.part, command.generation + 1);
                self.issue(step, part, generation);
            }
        }
        Ok(())
    }

    /// Settles what is parked by evidence from elsewhere.
    pub(super) fn resolve(&mut self, resolution: &Resolution) -> Verdict {
        let found = self.saga.state.commands.iter().rposition(|c| c.parked().is_some());
        let Some(at) = found else {
            let illegal = if self.saga.parked { Illegal::OnlyRetry } else { Illegal::NotParked };
            return Err(Decision::Illegal(illegal));
        };
        let command = &self.saga.state.commands[at];
        let undoing = command.undo.as_ref().is_some_and(|u| u.parked.is_some());
        let unknown = !undoing && matches!(command.status, Status::Unknown | Status::Expired);
        if resolution.reference.is_empty() && (unknown || resolution.done) {
            return Err(Decision::Illegal(Illegal::NeedsReference));
        }
        if undoing && !resolution.done {
            return Err(Decision::Illegal(Illegal::UndoneOnly));
        }
        if !undoing && !unknown && !resolution.done {
            return Err(Decision::Illegal(Illegal::OnlyRetry));
        }
        self.concern(at);
        self.saga.state.poisoned = None;
        let step = self.saga.state.commands[at].step;
        if undoing {
            if let Some(undo) = &mut self.saga.state.commands[at].undo {
                undo.by_hand = true;
            }
            let given_back = negated(&self.saga.state.commands[at].held);
            self.undo_done(at, &given_back);
            return Ok(());
        }
        let command = &mut self.saga.state.commands[at];
        command.parked = None;
        command.due_at = None;
        if resolution.done {
            command.status = Status::Succeeded;
            add_exposure(&mut command.held, &resolution.exposure);
            self.tell_worker(at, unknown);
            self.advance(step);
        } else {
            command.status = Status::NotDone;
            let (part, generation) = (command.part, command.generation + 1);
            if self.is_retriable(step) {
                self.tell_worker(at, unknown);
                self.issue(step, part, generation);
            } else {
                let label = self.definition.steps[step].label_undone;
                self.give_up(label, Some(Reason::new("resolved_not_done", "")));
            }
        }
        Ok(())
    }

    /// Sends the worker of a command whose outcome nobody knew what a person has settled, as a fence: it must not call
    /// for it any more. Where the step is undone instead, the compensation says so.
    fn tell_worker(&mut self, at: usize, was_unknown: bool) {
        if was_unknown {
            self.push(at, Kind::Fence);
        }
    }
}
