//! Handling of a worker's answer.

use amends_protocol::{Kind, Outcome, Reason, add_exposure, id};
use chrono::{DateTime, Utc};

use super::verdict::{Verdict, verdict};
use super::{Considered, DUPLICATE, Deciding, next_attempt};
use crate::core::{Decision, Direction, Echo, Nothing, ReplyEvent, Status, StepKind};

impl Deciding<'_> {
    /// Handles a worker's answer. The answer settles a command only if kind, id and all repeated fields match the
    /// command.
    pub(super) fn answer(&mut self, reply: &ReplyEvent) -> Considered {
        let saga = self.saga.id;
        // It is usually the newest command.
        let found =
            self.saga.state.commands.iter().rposition(|c| c.id(saga, self.definition) == reply.row_key());
        // A wait for a signal has no command that a reply could answer.
        let found = found.filter(|at| !self.definition.is_signal(self.saga.state.commands[*at].step));
        let Some(at) = found.filter(|_| reply.command_id == id::of(reply.kind, reply.row_key())) else {
            return Err(Decision::Nothing(Nothing::NotMine));
        };
        if !self.echoes(at, reply) {
            return Err(Decision::Nothing(Nothing::WrongEcho));
        }
        self.concern(at);
        self.did.attempt = Some(reply.attempt);
        if reply.kind == Kind::Compensate {
            self.undo_answered(at, reply)?;
        } else {
            self.execute_answered(at, reply)?;
        }
        // The answer moves the saga and can be stored, so the saga is no longer poisoned.
        if self.did.noted.is_none() {
            self.saga.state.poisoned = None;
        }
        Ok(())
    }

    /// Returns whether a reply repeats the fields of its command.
    fn echoes(&self, at: usize, reply: &ReplyEvent) -> bool {
        let (command, definition) = (&self.saga.state.commands[at], self.definition);
        let sent = Echo {
            part: command.part,
            generation: command.generation,
            slot: self.saga.slot,
            workflow: Some((definition.name, definition.version)),
        };
        reply.step == definition.steps[command.step].name && reply.echo.is_none_or(|echo| echo == sent)
    }

    fn execute_answered(&mut self, at: usize, reply: &ReplyEvent) -> Considered {
        let command = &self.saga.state.commands[at];
        let step = command.step;
        let order = reply.attempt.cmp(&command.attempt);
        let mut verdict = verdict(command.status, reply.kind, reply.outcome, order);
        let forward = self.saga.state.direction == Direction::Forward;
        // While the command is being undone it is neither probed nor sent again; its compensation is.
        let superseded = !forward || command.undo.is_some();
        if superseded && !matches!(verdict, Verdict::Settle(_) | Verdict::Orphan | Verdict::Nothing) {
            verdict = Verdict::Note;
        }
        match verdict {
            Verdict::Settle(Status::Succeeded) if self.undo_again(at, reply) => {}
            Verdict::Settle(status) => {
                self.settle(at, status, reply);
                match (forward, status) {
                    (false, Status::Refused) => self.undo_next(),
                    (false, _) => {}
                    (true, Status::Succeeded) => self.advance(step),
                    (true, _) => self.stopped(at, reply),
                }
            }
            Verdict::TryAgain => self.try_again(at, reply),
            Verdict::SendAgain => {
                self.saga.state.commands[at].asks = 0;
                self.execute(at);
            }
            Verdict::Ask => {
                let (delay, now) = (self.retry_policy(at).delay(1, self.jitter), self.now);
                let parks_at = self.patience(at);
                let command = &mut self.saga.state.commands[at];
                command.status = Status::Unknown;
                command.asks = 0;
                command.due_at = Some(parks_at.min(now + delay));
            }
            Verdict::StillUnknown => return self.still_unknown(at, reply),
            Verdict::HoldOff => return self.hold_off(at),
            Verdict::Orphan => self.orphan(at, reply),
            Verdict::Note => return self.note(at, reply.outcome),
            Verdict::Nothing if reply.outcome == Outcome::InFlight => {
                return Err(Decision::Nothing(Nothing::InFlight));
            }
            Verdict::Nothing => return Err(DUPLICATE),
        }
        Ok(())
    }

    /// Settles an execute whose outcome an answer reports.
    pub(super) fn settle(&mut self, at: usize, status: Status, reply: &ReplyEvent) {
        let command = &mut self.saga.state.commands[at];
        command.attempt = command.attempt.max(reply.attempt);
        command.status = status;
        command.due_at = None;
        command.parked = None;
        if status == Status::Succeeded && !command.is_undone() {
            add_exposure(&mut command.held, &reply.exposure);
        }
    }

    /// Ends a forward step that was answered otherwise than by success.
    fn stopped(&mut self, at: usize, reply: &ReplyEvent) {
        let reason = reply.reason.clone().unwrap_or_else(|| Reason::new(reply.outcome.as_str(), ""));
        let step = self.saga.state.commands[at].step;
        if self.is_retriable(step) {
            self.saga.state.commands[at].parked = Some(reason);
        } else {
            self.give_up(self.definition.steps[step].label_undone, Some(reason));
        }
    }

    fn try_again(&mut self, at: usize, reply: &ReplyEvent) {
        let retry = self.retry_policy(at);
        let (now, jitter) = (self.now, self.jitter);
        let command = &mut self.saga.state.commands[at];
        let only_forward = self.definition.steps[command.step].kind == StepKind::Retriable;
        // The worker's row may stand at a later attempt than any that was sent. It counts as one failure, and the next
        // attempt must exceed it.
        command.attempt = command.attempt.max(reply.attempt);
        command.failures += 1;
        command.parked = None;
        if only_forward || retry.allows_another(command.failures) {
            let delay = retry.delay(command.failures, jitter);
            command.attempt = next_attempt(command.attempt);
            command.status = Status::Backoff;
            command.asks = 0;
            command.due_at = Some(now + delay);
        } else {
            command.status = Status::Failed;
            command.due_at = None;
            let text = reply.reason.as_ref().map_or("", |r| &r.code);
            let label = self.definition.steps[command.step].label_undone;
            self.give_up(label, Some(Reason::new("unavailable", text)));
        }
    }

    /// The worker is older than the command's format and has not begun. The command is sent later, and the step's
    /// deadline starts anew.
    fn hold_off(&mut self, at: usize) -> Considered {
        let retry = self.retry_policy(at);
        let (now, jitter) = (self.now, self.jitter);
        let command = &mut self.saga.state.commands[at];
        if command.parked.is_some() {
            return Err(DUPLICATE);
        }
        command.status = Status::Backoff;
        command.asks += 1;
        command.due_at = Some(now + retry.delay(command.asks, jitter));
        Ok(())
    }

    fn still_unknown(&mut self, at: usize, reply: &ReplyEvent) -> Considered {
        let retry = self.retry_policy(at);
        let (now, jitter) = (self.now, self.jitter);
        // No probe is outstanding: this answers an earlier one.
        if self.saga.state.commands[at].asks == 0 {
            return Err(DUPLICATE);
        }
        let parks_at = self.patience(at);
        let command = &mut self.saga.state.commands[at];
        command.unknowns = command.unknowns.saturating_add(1);
        command.asks = 0;
        if now < parks_at {
            command.due_at = Some(parks_at.min(now + retry.delay(command.unknowns, jitter)));
        } else {
            command.due_at = None;
            let text = reply.reason.as_ref().map_or("", |r| &r.code);
            command.parked = Some(Reason::new("outcome_unknown", text));
        }
        Ok(())
    }

    /// Returns the time from which an `unknown` answer parks. It counts from the first of consecutive `unknown`s, which
    /// may be this one.
    fn patience(&mut self, at: usize) -> DateTime<Utc> {
        let until = self.patience_from_now();
        let parks_at = &mut self.saga.state.commands[at].parks_at;
        // It can only be later if the database's clock was set back since.
        if parks_at.is_none_or(|at| at > until) {
            (*parks_at, self.did.parks_at) = (Some(until), Some(until));
        }
        parks_at.unwrap_or(until)
    }

    /// Records an unexpected answer once; nothing else changes.
    pub(super) fn note(&mut self, at: usize, outcome: Outcome) -> Considered {
        let command = &mut self.saga.state.commands[at];
        if command.noted.contains(&outcome) {
            return Err(DUPLICATE);
        }
        command.noted.push(outcome);
        self.did.noted = Some(outcome);
        Ok(())
    }
}
