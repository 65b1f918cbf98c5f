//! Giving up, compensating in reverse, and orphans.

use amends_protocol::{Kind, Outcome, Reason, add_exposure};

use super::{DUPLICATE, Deciding, RESEND, Verdict};
use crate::core::{CommandState, Decision, Direction, Nothing, ReplyEvent, SagaOutcome, Status, Undo};

impl Deciding<'_> {
    /// Stops going forward. Every command sent and not refused, the given-up one and all parts included, gets
    /// a compensation before the saga ends, in reverse.
    pub(super) fn give_up(&mut self, heading: &str, reason: Option<Reason>) {
        self.saga.state.direction = Direction::Undoing;
        self.saga.state.timeout_at = None;
        self.saga.state.poisoned = None;
        self.saga.since = self.now;
        self.saga.reason = reason;
        for command in &mut self.saga.state.commands {
            command.due_at = None;
            command.parked = None;
        }
        self.saga.heading_for = Some(heading.to_owned());
        self.undo_next();
        if self.saga.outcome.is_none() {
            self.did.heading_for = Some(heading.to_owned());
            self.label(self.definition.labels.undoing);
        }
    }

    /// Compensates the last step that is not undone; ends the saga when there is none.
    pub(super) fn undo_next(&mut self) {
        let open = |c: &CommandState| !c.status.needs_no_undo() && !c.is_undone();
        let under_way = |c: &CommandState| c.undo.as_ref().is_some_and(|u| !u.done);
        let commands = &self.saga.state.commands;
        if self.saga.state.direction != Direction::Undoing || commands.iter().any(under_way) {
            return;
        }
        let Some(step) = commands.iter().filter(|c| open(c)).map(|c| c.step).max() else {
            return self.undone();
        };
        let last: Vec<usize> =
            (0..commands.len()).filter(|&at| commands[at].step == step && open(&commands[at])).collect();
        self.saga.step = self.definition.steps[step].name.to_owned();
        self.saga.since = self.now;
        for at in last {
            self.compensate(at);
        }
    }

    fn undone(&mut self) {
        if let Some(heading) = self.saga.heading_for.take() {
            self.label(&heading);
        }
        self.end(SagaOutcome::Undone);
    }

    fn compensate(&mut self, at: usize) {
        let issued_at = self.now;
        self.saga.state.commands[at].undo = Some(Undo {
            attempt: 1,
            issued_at,
            done: false,
            by_hand: false,
            due_at: None,
            asks: 0,
            failures: 0,
            parked: None,
        });
        self.send_undo(at);
    }

    /// Sends a compensation at its present attempt. It is never probed, only sent again.
    pub(super) fn send_undo(&mut self, at: usize) {
        let policy = self.definition.steps[self.saga.state.commands[at].step].undo_retry;
        let (now, jitter) = (self.now, self.jitter);
        if let Some(undo) = &mut self.saga.state.commands[at].undo {
            undo.asks += 1;
            undo.parked = None;
            let wait = if undo.asks == 1 { RESEND } else { RESEND.max(policy.delay(undo.asks + 3, jitter)) };
            undo.due_at = Some(now + wait);
            self.push(at, Kind::Compensate);
        }
    }

    /// An answer to a compensation.
    pub(super) fn undo_answered(&mut self, at: usize, reply: &ReplyEvent) -> Verdict {
        let policy = self.definition.steps[self.saga.state.commands[at].step].undo_retry;
        let (now, jitter) = (self.now, self.jitter);
        let command = &mut self.saga.state.commands[at];
        let Some(undo) = &mut command.undo else {
            return self.note(at, reply.outcome);
        };
        if undo.done {
            return match reply.outcome {
                Outcome::Succeeded | Outcome::InFlight => Err(DUPLICATE),
                other => self.note(at, other),
            };
        }
        let older = reply.attempt < undo.attempt;
        match reply.outcome {
            // Its worker does not know either, and will undo what may yet turn up. The evidence counts till then.
            Outcome::Unknown if command.status == Status::NotDone && !older => {
                undo.by_hand = true;
                self.undo_done(at, &[]);
                return Ok(());
            }
            Outcome::Succeeded => {
                self.undo_done(at, &reply.exposure);
                return Ok(());
            }
            Outcome::InFlight => return Err(Decision::Nothing(Nothing::InFlight)),
            _ if older || undo.parked.is_some() => return Err(DUPLICATE),
            // Sent again sooner than after silence, once.
            Outcome::Unsupported => {
                let sooner = now + policy.delay(undo.asks, jitter);
                if undo.asks == 0 || undo.due_at.is_none_or(|due| due <= sooner) {
                    return Err(DUPLICATE);
                }
                undo.due_at = Some(sooner);
            }
            Outcome::FailedTransient => {
                undo.attempt = undo.attempt.max(reply.attempt);
                undo.failures += 1;
                undo.asks = 0;
                if policy.allows_another(undo.failures) {
                    undo.attempt = undo.attempt.saturating_add(1);
                    undo.due_at = Some(now + policy.delay(undo.failures, jitter));
                } else {
                    let text = reply.reason.as_ref().map_or("", |r| &r.code);
                    undo.due_at = None;
                    undo.parked = Some(Reason::new("compensation_unavailable", text));
                }
            }
            Outcome::Refused | Outcome::FailedForGood | Outcome::Unknown | Outcome::Expired => {
                undo.attempt = undo.attempt.max(reply.attempt);
                let fallback = || Reason::new(format!("compensation_{}", reply.outcome.as_str()), "");
                undo.due_at = None;
                undo.parked = Some(reply.reason.clone().unwrap_or_else(fallback));
            }
            Outcome::NotSeen | Outcome::Fenced => return self.note(at, reply.outcome),
        }
        Ok(())
    }

    /// The effect is undone, or can never happen.
    pub(super) fn undo_done(&mut self, at: usize, given_back: &[amends_protocol::Exposure]) {
        let command = &mut self.saga.state.commands[at];
        if let Some(undo) = &mut command.undo {
            undo.done = true;
            undo.due_at = None;
            undo.parked = None;
        }
        command.due_at = None;
        if !command.held.is_empty() {
            add_exposure(&mut command.held, given_back);
            if !command.held.is_empty() {
                self.did.incident = Some("exposure_not_netted".to_owned());
            }
        }
        self.undo_next();
    }

    /// A success of a command that was settled as having no effect. Where no compensation is under way it is
    /// an incident, and undone at once: an ended saga is live again until it is; its outcome does not change.
    /// A step that cannot be undone counts as done.
    pub(super) fn orphan(&mut self, at: usize, reply: &ReplyEvent) {
        if self.undo_again(at, reply) {
            return;
        }
        self.settle(at, Status::Succeeded, reply);
        let command = &self.saga.state.commands[at];
        if command.undo.is_some() {
            return;
        }
        self.did.incident = Some("late_success".to_owned());
        let (step, part) = (command.step, command.part);
        let is_newest = !self.saga.state.commands[at + 1..].iter().any(|c| (c.step, c.part) == (step, part));
        if !self.is_retriable(step) {
            self.compensate(at);
        } else if is_newest && self.saga.state.direction == Direction::Forward {
            self.advance(step);
        }
    }

    /// A success of what was called undone by evidence from elsewhere: it happened after somebody had looked. It is
    /// an incident, and undone by its worker. Answers whether it is such a success.
    pub(super) fn undo_again(&mut self, at: usize, reply: &ReplyEvent) -> bool {
        if !self.saga.state.commands[at].is_undone_by_hand() {
            return false;
        }
        if let Some(undo) = &mut self.saga.state.commands[at].undo {
            (undo.done, undo.by_hand) = (false, false);
            undo.attempt = undo.attempt.saturating_add(1);
            (undo.asks, undo.failures) = (0, 0);
        }
        self.did.incident = Some("late_success".to_owned());
        self.settle(at, Status::Succeeded, reply);
        self.send_undo(at);
        true
    }
}
