//! The space: the initial state, the possible steps, and what must not happen.

use super::*;

impl Space for OneRow {
    type State = RowSystem;

    fn initial(&self) -> RowSystem {
        RowSystem {
            row: None,
            lapsed: false,
            calls: [None, None],
            late: Vec::new(),
            charge: Charge::None,
            charges: 0,
            left: self.budget,
            sent: (0, 0),
            answered_undone: false,
            answered_failed: false,
            called_when_resolved: false,
        }
    }

    fn next(&self, state: &RowSystem) -> Vec<(String, RowSystem)> {
        let mut next = Vec::new();
        for instance in 0..2 {
            // While an instance calls for the row, further commands are decided by the row and begin no second call.
            let idle = state.calls[instance].is_none();
            let (executes, compensations) = state.sent;
            for (kind, left, attempt) in [
                (Kind::Execute, state.left.executes, executes + 1),
                (Kind::Compensate, state.left.compensations, compensations + 1),
                (Kind::Probe, state.left.probes, 1),
            ] {
                if left == 0 || !idle {
                    continue;
                }
                // An earlier attempt may arrive late, or once more.
                for attempt in 1..=attempt {
                    let mut before = state.clone();
                    match kind {
                        Kind::Execute => {
                            before.left.executes -= 1;
                            before.sent.0 = before.sent.0.max(attempt);
                        }
                        Kind::Compensate => {
                            before.left.compensations -= 1;
                            before.sent.1 = before.sent.1.max(attempt);
                        }
                        _ => before.left.probes -= 1,
                    }
                    let after = self.receive(&before, instance, kind, attempt, None);
                    next.push((format!("instance {instance} receives {kind:?} {attempt}"), after));
                    if kind == Kind::Compensate && state.left.resolutions > 0 {
                        before.left.resolutions -= 1;
                        let after = self.receive(&before, instance, kind, attempt, Some(Resolved::NotDone));
                        next.push((
                            format!("instance {instance} receives {kind:?} {attempt}, settled by hand"),
                            after,
                        ));
                    }
                }
            }
            if let Some(call) = &state.calls[instance] {
                self.step(state, instance, call, &mut next);
                if state.left.lapses > 0 {
                    let mut after = state.clone();
                    after.left.lapses -= 1;
                    // The call that it waited for may still arrive.
                    if call.stage == Stage::Waiting {
                        after.late.push(call.action);
                    }
                    after.calls[instance] = None;
                    next.push((format!("instance {instance} dies"), after));
                }
            }
            let waits = state.row.as_ref().filter(|row| row.lease.is_some() && state.lapsed);
            if let Some(row) = waits.filter(|_| idle) {
                let mut after = state.clone();
                let mut row = row.clone();
                row.unsure = row.started_at.is_some();
                after.begin(&mut row, instance, None);
                after.row = Some(row);
                next.push((format!("instance {instance} takes over"), after));
            }
        }
        let owner_of = |row: &CommandRow| row.lease.and_then(|l| l.owner);
        if let Some(of) = state.row.as_ref().and_then(owner_of).filter(|_| !state.lapsed) {
            // The lease of a dead instance lapses in any case; that of a live one only if it is paused.
            let calls = (0..2).any(|i| owner(i) == of && state.calls[i].is_some());
            if !calls || state.left.lapses > 0 {
                let mut after = state.clone();
                after.left.lapses -= u8::from(calls);
                after.lapsed = true;
                if let Some(lease) = after.row.as_mut().and_then(|row| row.lease.as_mut()) {
                    lease.until = now();
                }
                next.push(("the lease lapses".to_owned(), after));
            }
        }
        for at in 0..state.late.len() {
            let mut before = state.clone();
            let action = before.late.remove(at);
            for (what, after, _) in before.land(action) {
                next.push((format!("a late call lands: {what}"), after));
            }
        }
        for (_, after) in &mut next {
            after.late.sort_by_key(|action| *action == Action::Undo);
        }
        next
    }

    fn broken(&self, state: &RowSystem, at_rest: bool) -> Option<String> {
        if state.charges > 1 {
            return Some("charged twice".to_owned());
        }
        if state.called_when_resolved {
            return Some("called for what a person has settled".to_owned());
        }
        if !at_rest {
            return None;
        }
        let Some(row) = &state.row else { return None };
        let charged = state.charge == Charge::Charged;
        match row.status {
            Status::Succeeded if charged => None,
            // The engine repeats an undo that failed.
            Status::Started | Status::Undoing => Some("a call that nobody makes any more".to_owned()),
            _ if charged => Some(format!("{:?}, and the money is kept", row.status)),
            Status::Succeeded if state.charge != Charge::Refunded => {
                Some("succeeded without a charge".to_owned())
            }
            _ if state.answered_failed && charged => {
                Some("said that it failed, and the money is kept".to_owned())
            }
            _ => None,
        }
        .or_else(|| {
            (state.answered_undone && charged && row.undone.is_none()).then(|| "said undone, kept".to_owned())
        })
    }
}
