//! What follows from an answer.

use amends_protocol::{Kind, Outcome, Reason, add_exposure, id};

use super::verdict::{Verdict as Meaning, verdict};
use super::{DUPLICATE, Deciding, Verdict};
use crate::core::{Decision, Direction, Nothing, ReplyEvent, Status, StepKind};

/// A command whose probes are answered `unknown` this often parks its saga.
const UNKNOWNS: u32 = 5;

impl Deciding<'_> {
    /// A worker answered. It settles a command only if its kind and id are that command's.
    pub(super) fn answer(&mut self, reply: &ReplyEvent) -> Verdict {
        let saga = self.saga.id;
        // Mostly it is the newest.
        let found =
            self.saga.state.commands.iter().rposition(|c| c.id(saga, self.definition) == reply.row_key());
        let Some(at) = found.filter(|_| reply.command_id == id::of(reply.kind, reply.row_key())) else {
            return Err(Decision::Nothing(Nothing::NotMine));
        };
        self.concern(at);
        self.did.attempt = Some(reply.attempt);
        if reply.kind == Kind::Compensate {
            self.undo_answered(at, reply)?;
        } else {
            self.execute_answered(at, reply)?;
        }
        // An answer that moves the saga and can be stored: it is well again.
        if self.did.noted.is_none() {
            self.saga.state.poisoned = None;
        }
        Ok(())
    }

    fn execute_answered(&mut self, at: usize, reply: &ReplyEvent) -> Verdict {
        let command = &self.saga.state.commands[at];
        let step = command.step;
        let order = reply.attempt.cmp(&command.attempt);
        let mut meaning = verdict(command.status, reply.kind, reply.outcome, order);
        let forward = self.saga.state.direction == Direction::Forward;
        // While it is undone an open command is neither asked after nor sent again: its compensation is.
        let superseded = !forward || command.undo.is_some();
        if superseded && !matches!(meaning, Meaning::Settle(_) | Meaning::Orphan | Meaning::Nothing) {
            meaning = Meaning::Note;
        }
        match meaning {
            Meaning::Settle(Status::Succeeded) if self.undo_again(at, reply) => {}
            Meaning::Settle(status) => {
                self.settle(at, status, reply);
                match (forward, status) {
                    (false, Status::Refused) => self.undo_next(),
                    (false, _) => {}
                    (true, Status::Succeeded) => self.advance(step),
                    (true, _) => self.stopped(at, reply),
                }
            }
            Meaning::TryAgain => self.try_again(at, reply),
            Meaning::SendAgain => {
                self.saga.state.commands[at].asks = 0;
                self.execute(at);
            }
            Meaning::Ask => {
                let (delay, now) = (self.retry_policy(at).delay(1, self.jitter), self.now);
                let command = &mut self.saga.state.commands[at];
                command.status = Status::Unknown;
                command.asks = 0;
                command.due_at = Some(now + delay);
            }
            Meaning::StillUnknown => return self.still_unknown(at, reply),
            Meaning::HoldOff => return self.hold_off(at),
            Meaning::Orphan => self.orphan(at, reply),
            Meaning::Note => return self.note(at, reply.outcome),
            Meaning::Nothing if reply.outcome == Outcome::InFlight => {
                return Err(Decision::Nothing(Nothing::InFlight));
            }
            Meaning::Nothing => return Err(DUPLICATE),
        }
        Ok(())
    }

    /// An answer ends the question what became of an execute.
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

    /// A step going forward has got an answer that ends it otherwise than by success.
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
        command.attempt = command.attempt.max(reply.attempt);
        command.parked = None;
        if only_forward || retry.allows_another(command.attempt) {
            let delay = retry.delay(command.attempt, jitter);
            command.attempt = command.attempt.saturating_add(1);
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

    /// The worker is older than the command: it has not begun, so the step's deadline starts anew later.
    fn hold_off(&mut self, at: usize) -> Verdict {
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

    fn still_unknown(&mut self, at: usize, reply: &ReplyEvent) -> Verdict {
        let retry = self.retry_policy(at);
        let (now, jitter) = (self.now, self.jitter);
        let command = &mut self.saga.state.commands[at];
        // No question is open: this answered an earlier one.
        if command.asks == 0 {
            return Err(DUPLICATE);
        }
        command.unknowns += 1;
        command.asks = 0;
        if command.unknowns < UNKNOWNS {
            command.due_at = Some(now + retry.delay(command.unknowns, jitter));
        } else {
            command.due_at = None;
            let text = reply.reason.as_ref().map_or("", |r| &r.code);
            command.parked = Some(Reason::new("outcome_unknown", text));
        }
        Ok(())
    }

    /// An odd answer is recorded once and changes nothing.
    pub(super) fn note(&mut self, at: usize, outcome: Outcome) -> Verdict {
        let command = &mut self.saga.state.commands[at];
        if command.noted.contains(&outcome) {
            return Err(DUPLICATE);
        }
        command.noted.push(outcome);
        self.did.noted = Some(outcome);
        Ok(())
    }
}
