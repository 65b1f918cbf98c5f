//! Giving up, compensating in reverse order, and orphans.

use amends_protocol::{Kind, Outcome, Reason, add_exposure, negated};

use super::{Considered, DUPLICATE, Deciding, RESEND, next_attempt};
use crate::core::{CommandState, Decision, Direction, Nothing, ReplyEvent, SagaOutcome, Status, Undo};

/// Reason of a saga that parks because its worker reports an effect as undone without giving back what it held.
pub(super) const NOT_NETTED: &str = "exposure_not_netted";

impl Deciding<'_> {
    /// Stops going forward. Every command that was sent and not refused, including the given-up one and all parts, gets
    /// a compensation before the saga ends, in reverse order.
    pub(super) fn give_up(&mut self, heading: &str, reason: Option<Reason>) {
        self.saga.state.direction = Direction::Undoing;
        self.saga.state.timeout_at = None;
        self.saga.state.poisoned = None;
        self.saga.since = self.now;
        self.saga.reason = reason;
        for command in &mut self.saga.state.commands {
            command.due_at = None;
            command.parks_at = None;
            command.parked = None;
        }
        let heading = self.relabelled(heading).to_owned();
        self.saga.heading_for = Some(heading.clone());
        self.undo_next();
        if self.saga.outcome.is_none() {
            self.did.heading_for = Some(heading);
            self.label(self.definition.labels.undoing);
        }
    }

    /// Compensates the last step that is not undone; ends the saga if there is none.
    pub(super) fn undo_next(&mut self) {
        let definition = self.definition;
        let open = |c: &CommandState| c.may_have_effect(definition) && !c.is_undone();
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
            self.set_label(&heading);
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
            unknowns: 0,
            parks_at: None,
            given_back: Vec::new(),
            given_back_at: 0,
            parked: None,
        });
        self.send_undo(at);
    }

    /// Sends a compensation at its present attempt. A compensation is never probed, only sent again.
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

    /// Handles an answer to a compensation.
    pub(super) fn undo_answered(&mut self, at: usize, reply: &ReplyEvent) -> Considered {
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
            // The worker does not know either, and will undo the effect if it appears later. Until then the evidence
            // counts.
            Outcome::Unknown if command.status == Status::NotDone && !older => {
                undo.by_hand = true;
                self.undo_done(at);
                return Ok(());
            }
            Outcome::Succeeded => return self.undo_succeeded(at, reply),
            Outcome::InFlight => return Err(Decision::Nothing(Nothing::InFlight)),
            _ if older || undo.parked.is_some() => return Err(DUPLICATE),
            // Sent again once, sooner than after silence.
            Outcome::Unsupported => {
                let sooner = now + policy.delay(undo.asks, jitter);
                if undo.asks == 0 || undo.due_at.is_none_or(|due| due <= sooner) {
                    return Err(DUPLICATE);
                }
                (undo.unknowns, undo.parks_at) = (0, None);
                undo.due_at = Some(sooner);
            }
            Outcome::Unknown => return self.undo_unknown(at, reply),
            Outcome::FailedTransient => {
                undo.attempt = undo.attempt.max(reply.attempt);
                undo.failures += 1;
                undo.asks = 0;
                (undo.unknowns, undo.parks_at) = (0, None);
                if policy.allows_another(undo.failures) {
                    undo.attempt = next_attempt(undo.attempt);
                    undo.due_at = Some(now + policy.delay(undo.failures, jitter));
                } else {
                    let text = reply.reason.as_ref().map_or("", |r| &r.code);
                    undo.due_at = None;
                    undo.parked = Some(Reason::new("compensation_unavailable", text));
                }
            }
            Outcome::Refused | Outcome::FailedForGood | Outcome::Expired => {
                undo.attempt = undo.attempt.max(reply.attempt);
                let fallback = || Reason::new(format!("compensation_{}", reply.outcome.as_str()), "");
                undo.due_at = None;
                undo.parked = Some(reply.reason.clone().unwrap_or_else(fallback));
            }
            Outcome::NotSeen | Outcome::Fenced => return self.note(at, reply.outcome),
        }
        Ok(())
    }

    /// Handles `succeeded`: the worker says that the effect is undone or can never happen. If the success is known,
    /// what it brought must have been given back: a worker that knows nothing of it has undone nothing.
    fn undo_succeeded(&mut self, at: usize, reply: &ReplyEvent) -> Considered {
        let command = &mut self.saga.state.commands[at];
        let Some(undo) = command.undo.as_mut().filter(|_| command.status == Status::Succeeded) else {
            self.undo_done(at);
            return Ok(());
        };
        let before = command.held.clone();
        // An attempt reports all that it gave back, however often its answer arrives. A different attempt reports what
        // it gave back in addition.
        if reply.attempt >= undo.given_back_at {
            if reply.attempt == undo.given_back_at {
                add_exposure(&mut command.held, &negated(&undo.given_back));
            }
            add_exposure(&mut command.held, &reply.exposure);
        }
        if command.held.is_empty() {
            (undo.given_back, undo.given_back_at) = (Vec::new(), 0);
            self.undo_done(at);
            return Ok(());
        }
        if command.held == before && undo.parked.as_ref().is_some_and(|reason| reason.code == NOT_NETTED) {
            return Err(DUPLICATE);
        }
        if reply.attempt >= undo.given_back_at {
            (undo.given_back, undo.given_back_at) = (reply.exposure.clone(), reply.attempt);
        }
        undo.attempt = undo.attempt.max(reply.attempt);
        undo.due_at = None;
        undo.parked =
            Some(Reason::new(NOT_NETTED, "its worker says undone, and what it held is not given back"));
        self.did.incident = Some(NOT_NETTED.to_owned());
        Ok(())
    }

    /// Handles `unknown`: the worker cannot say whether the effect is undone. The compensation is sent again, at the
    /// same attempt, as long as the patience lasts.
    fn undo_unknown(&mut self, at: usize, reply: &ReplyEvent) -> Considered {
        let policy = self.definition.steps[self.saga.state.commands[at].step].undo_retry;
        let (now, jitter, until) = (self.now, self.jitter, self.patience_from_now());
        let undo = self.saga.state.commands[at].undo.as_mut();
        // A compensation that has not been sent since the last answer has no new answer.
        let Some(undo) = undo.filter(|undo| undo.asks > 0) else { return Err(DUPLICATE) };
        // It can only be later if the database's clock was set back since.
        if undo.parks_at.is_none_or(|at| at > until) {
            (undo.parks_at, self.did.parks_at) = (Some(until), Some(until));
        }
        let parks_at = undo.parks_at.unwrap_or(until);
        undo.unknowns = undo.unknowns.saturating_add(1);
        undo.asks = 0;
        if now < parks_at {
            undo.due_at = Some(parks_at.min(now + policy.delay(undo.unknowns, jitter)));
        } else {
            let text = reply.reason.as_ref().map_or("", |r| &r.code);
            undo.due_at = None;
            undo.parked = Some(Reason::new("outcome_unknown", text));
        }
        Ok(())
    }

    /// Marks the effect as undone, or as one that can never happen.
    pub(super) fn undo_done(&mut self, at: usize) {
        let command = &mut self.saga.state.commands[at];
        if let Some(undo) = &mut command.undo {
            undo.done = true;
            undo.due_at = None;
            undo.parks_at = None;
            undo.parked = None;
        }
        command.due_at = None;
        self.undo_next();
    }

    /// Handles a success of a command that was settled as having no effect. If no compensation is in progress, this is
    /// an incident and the effect is undone at once: an ended saga is live again until then, and keeps its outcome. A
    /// step that cannot be undone counts as done.
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

    /// Handles a success of a command that counts as undone by an operator's evidence: it happened after the operator
    /// had looked. It is an incident, and the worker undoes it. Returns whether the answer is such a success.
    pub(super) fn undo_again(&mut self, at: usize, reply: &ReplyEvent) -> bool {
        if !self.saga.state.commands[at].is_undone_by_hand() {
            return false;
        }
        if let Some(undo) = &mut self.saga.state.commands[at].undo {
            (undo.done, undo.by_hand) = (false, false);
            undo.attempt = next_attempt(undo.attempt);
            (undo.asks, undo.failures) = (0, 0);
            (undo.unknowns, undo.parks_at) = (0, None);
        }
        self.did.incident = Some("late_success".to_owned());
        self.settle(at, Status::Succeeded, reply);
        self.send_undo(at);
        true
    }
}
