//! Calls of the instances, and the gateway that they reach.

use super::*;

/// The stage of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// About to be made. A paused process stays here.
    ToCall,
    /// On its way; the instance waits for the answer.
    Waiting,
    /// About to be looked up.
    ToAsk,
}

/// A call of an instance.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) action: Action,
    pub(super) attempt: u32,
    pub(super) stage: Stage,
    pub(super) unsure: bool,
    pub(super) unwanted: bool,
    pub(super) resolved: bool,
    pub(super) asker: Option<(Kind, u32)>,
}

/// What the gateway has recorded under the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Charge {
    None,
    Charged,
    Declined,
    Refunded,
}

impl OneRow {
    /// Adds what may happen next to a call.
    pub(super) fn step(
        &self,
        state: &RowSystem,
        instance: usize,
        call: &Call,
        next: &mut Vec<(String, RowSystem)>,
    ) {
        let name = format!("instance {instance}, {:?}", call.action);
        let mut at = |stage: Stage, what: &str, change: &dyn Fn(&mut RowSystem)| {
            let mut after = state.clone();
            if let Some(call) = &mut after.calls[instance] {
                call.stage = stage;
            }
            change(&mut after);
            next.push((format!("{name}: {what}"), after));
        };
        match call.stage {
            Stage::ToCall => {
                let resolved = call.resolved;
                at(Stage::Waiting, "calls", &|after| after.called_when_resolved |= resolved);
            }
            Stage::Waiting => {
                if state.left.silences > 0 {
                    // There is no answer in time: the call may still arrive.
                    let mut after = state.clone();
                    after.left.silences -= 1;
                    after.late.push(call.action);
                    let done = if call.unsure {
                        self.finish(&after, instance, Answer::unknown("no_answer"), true)
                    } else {
                        if let Some(call) = &mut after.calls[instance] {
                            (call.stage, call.unsure) = (Stage::ToAsk, true);
                        }
                        if self.planted == Some(Planted::SilenceFails) {
                            self.finish(&after, instance, Answer::unknown("no_answer"), false)
                        } else {
                            after
                        }
                    };
                    next.push((format!("{name}: no answer in time"), done));
                }
                if state.left.refusals > 0 {
                    let mut after = state.clone();
                    after.left.refusals -= 1;
                    let answer = Answer::failed_for_now("out_of_order", "");
                    next.push((
                        format!("{name}: out of order"),
                        self.finish(&after, instance, answer, call.unsure),
                    ));
                }
                for (what, after, answer) in state.land(call.action) {
                    next.push((
                        format!("{name}: {what}"),
                        self.finish(&after, instance, answer, call.unsure),
                    ));
                }
            }
            Stage::ToAsk => match (call.action, state.charge) {
                (Action::Execute, Charge::None) if call.resolved => {
                    let after = self.finish(state, instance, Answer::unknown("resolved_by_hand"), true);
                    next.push((format!("{name}: finds nothing, and leaves it"), after));
                }
                (Action::Execute, Charge::None)
                | (Action::Undo, Charge::Charged | Charge::None | Charge::Declined) => {
                    if self.planted == Some(Planted::NothingIsTombstone) {
                        let mut after = state.clone();
                        after.calls[instance] = None;
                        if let Some(row) = &mut after.row {
                            row.make_tombstone();
                        }
                        after.answered_undone = true;
                        next.push((format!("{name}: finds nothing, and makes a tombstone of it"), after));
                    } else {
                        at(Stage::ToCall, "finds nothing", &|_| {});
                    }
                }
                (action, _) => {
                    let (_, after, answer) = state.land(action).swap_remove(0);
                    next.push((format!("{name}: finds it"), self.finish(&after, instance, answer, true)));
                }
            },
        }
    }
}

impl RowSystem {
    /// Begins (or resumes) the call of a row.
    pub(super) fn begin(&mut self, row: &mut CommandRow, instance: usize, asker: Option<(Kind, u32)>) {
        let (action, attempt) = match row.status {
            Status::Started => (Action::Execute, row.command.as_ref().map_or(1, |c| c.attempt)),
            _ => (Action::Undo, row.undo.as_ref().map_or(1, |c| c.attempt)),
        };
        row.started_at.get_or_insert(now());
        row.lease = Some(Lease { owner: Some(owner(instance)), until: now() + TimeDelta::seconds(30) });
        self.lapsed = false;
        let stage = if row.unsure { Stage::ToAsk } else { Stage::ToCall };
        let unwanted = action == Action::Execute && row.undo.is_some();
        let resolved = action == Action::Execute && row.resolved.is_some();
        // An instance has one call per row; earlier askers are answered from the row.
        self.calls[instance] =
            Some(Call { action, attempt, stage, unsure: row.unsure, unwanted, resolved, asker });
    }

    /// Lets a call arrive at the gateway: what happens, and its answer.
    pub(super) fn land(&self, action: Action) -> Vec<(String, RowSystem, Answer)> {
        let held = Exposure::new("money", "EUR", 1);
        let charged = || Answer::succeeded(None, vec![held.clone()]);
        let refunded = || Answer::succeeded(None, negated(std::slice::from_ref(&held)));
        let declined = || Answer::refused("declined", "");
        let with = |charge: Charge| RowSystem { charge, ..self.clone() };
        match (action, self.charge) {
            (Action::Execute, Charge::None) => vec![
                (
                    "charged".to_owned(),
                    RowSystem { charges: self.charges + 1, ..with(Charge::Charged) },
                    charged(),
                ),
                ("declined".to_owned(), with(Charge::Declined), declined()),
            ],
            (Action::Execute, Charge::Charged | Charge::Refunded) => {
                vec![("charged before".to_owned(), self.clone(), charged())]
            }
            (Action::Execute, Charge::Declined) => {
                vec![("declined before".to_owned(), self.clone(), declined())]
            }
            (Action::Undo, Charge::Charged) => {
                vec![("refunded".to_owned(), with(Charge::Refunded), refunded())]
            }
            (Action::Undo, Charge::Refunded) => {
                vec![("refunded before".to_owned(), self.clone(), refunded())]
            }
            (Action::Undo, _) => vec![("nothing to refund".to_owned(), self.clone(), declined())],
        }
    }
}
