//! Operator actions: cancel, retry, resend, resolve.

use amends_protocol::{Kind, Reason, add_exposure, id};

use super::{Considered, Deciding, next_attempt};
use crate::core::{
    CommandState, Decision, Direction, Illegal, Nothing, Resend, Resolution, Retry, Seen, Status,
};

impl Deciding<'_> {
    /// Cancels the saga. Legal until the pivot's success is committed, whether the saga goes forward or is parked.
    pub(super) fn cancel(&mut self) -> Considered {
        let cancelled = self.relabelled(self.definition.labels.cancelled);
        match self.saga.state.direction {
            _ if self.saga.outcome.is_some() => Err(Decision::Illegal(Illegal::Ended)),
            Direction::Undoing if self.saga.heading_for.as_deref() == Some(cancelled) => {
                Err(Decision::Nothing(Nothing::AlreadyCancelling))
            }
            Direction::Undoing => Err(Decision::Illegal(Illegal::UndoneOtherwise)),
            _ if self.saga.is_past_pivot(self.definition) => Err(Decision::Illegal(Illegal::PastPivot)),
            _ => {
                self.give_up(self.definition.labels.cancelled, None);
                Ok(())
            }
        }
    }

    /// Retries the parked command that the operator saw. If the saga is poisoned, retries what became due meanwhile.
    pub(super) fn retry(&mut self, retry: &Retry) -> Considered {
        let Some(at) = self.parked_as_seen(retry.seen)? else {
            self.saga.state.poisoned = None;
            // The database's clock may have been set back meanwhile. Nothing is due later than a timer reaches.
            let latest = self.now + self.definition.timer_reach();
            for command in self.saga.state.commands.iter_mut().filter(|c| c.status != Status::Awaited) {
                let undo = command.undo.as_mut().map(|undo| &mut undo.due_at);
                for due in [Some(&mut command.due_at), undo].into_iter().flatten() {
                    *due = due.map(|at| at.min(latest));
                }
            }
            return Ok(());
        };
        self.concern(at);
        let command = &mut self.saga.state.commands[at];
        if let Some(undo) = command.undo.as_mut().filter(|u| u.parked.is_some()) {
            undo.attempt = next_attempt(undo.attempt);
            (undo.failures, undo.asks) = (0, 0);
            (undo.unknowns, undo.parks_at) = (0, None);
            self.send_undo(at);
        } else if matches!(command.status, Status::Unknown | Status::Expired) {
            command.status = Status::Unknown;
            (command.unknowns, command.parks_at) = (0, None);
            command.asks = 0;
            self.ask(at);
        } else {
            // The worker would repeat its recorded answer for ever. Once settled, the command may have a successor.
            command.parked = None;
            let (step, part, generation) = (command.step, command.part, command.generation + 1);
            self.issue(step, part, generation);
        }
        Ok(())
    }

    /// Returns the index of the command that waits for an operator, if it is the one that they saw; `None` if the saga
    /// is poisoned.
    fn parked_as_seen(&self, seen: Seen) -> Result<Option<usize>, Decision> {
        let state = &self.saga.state;
        if seen.revision != self.saga.revision {
            return Err(Decision::Illegal(Illegal::Stale));
        }
        if !self.saga.parked {
            return Err(Decision::Illegal(Illegal::NotParked));
        }
        match seen.command_id {
            None if state.poisoned.is_some() => Ok(None),
            None => Err(Decision::Illegal(Illegal::NeedsCommand)),
            Some(_) if state.poisoned.is_some() => Err(Decision::Illegal(Illegal::Stale)),
            id => {
                let named = |c: &CommandState| c.parked_id(self.saga.id, self.definition) == id;
                let at = state.commands.iter().rposition(named);
                at.map(Some).ok_or(Decision::Illegal(Illegal::Stale))
            }
        }
    }

    /// Sends now what would be sent or probed for later. It keeps its id and attempt, as at its regular time.
    pub(super) fn resend(&mut self, resend: &Resend) -> Considered {
        let seen = resend.seen.unwrap_or(Seen { revision: self.saga.revision, command_id: None });
        if seen.revision != self.saga.revision {
            return Err(Decision::Illegal(Illegal::Stale));
        }
        let named = |c: &CommandState| {
            let execute = c.id(self.saga.id, self.definition);
            seen.command_id.is_none_or(|id| id == execute || id == id::undo(execute))
        };
        let waits = |c: &CommandState| {
            c.due().is_some() && c.status != Status::Awaited && self.saga.state.poisoned.is_none()
        };
        let waiting: Vec<usize> = (0..self.saga.state.commands.len())
            .filter(|&at| waits(&self.saga.state.commands[at]) && named(&self.saga.state.commands[at]))
            .collect();
        if waiting.is_empty() {
            return Err(Decision::Illegal(Illegal::NothingToSend));
        }
        for at in waiting {
            self.act(at);
        }
        Ok(())
    }

    /// Settles the parked command by an operator's evidence.
    pub(super) fn resolve(&mut self, resolution: &Resolution) -> Considered {
        let Some(at) = self.parked_as_seen(resolution.seen)? else {
            return Err(Decision::Illegal(Illegal::OnlyRetry));
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
        let step = self.saga.state.commands[at].step;
        if undoing {
            let command = &mut self.saga.state.commands[at];
            command.held.clear();
            if let Some(undo) = &mut command.undo {
                undo.by_hand = true;
                (undo.given_back, undo.given_back_at) = (Vec::new(), 0);
            }
            self.undo_done(at);
            return Ok(());
        }
        let command = &mut self.saga.state.commands[at];
        command.parked = None;
        command.due_at = None;
        command.parks_at = None;
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

    /// Sends a fence with the operator's resolution to the worker of a command whose outcome was unknown, so that the
    /// worker no longer calls the external system for it. If the step is undone instead, the compensation carries the
    /// resolution.
    fn tell_worker(&mut self, at: usize, was_unknown: bool) {
        if was_unknown {
            self.push(at, Kind::Fence);
        }
    }
}
