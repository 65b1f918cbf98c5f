//! The space: the initial state, the possible steps, and what must not happen.

use super::*;

impl Space for TwoSteps {
    type State = SagaSystem;

    fn initial(&self) -> SagaSystem {
        let now = DateTime::from_timestamp(1_767_225_600, 0).unwrap_or_default();
        let new = NewSaga { id: super::super::saga_id(), business_key: "k".to_owned(), trace: None };
        let born = start(&self.definition, new, &Json::null(), now);
        SagaSystem {
            saga: born.saga,
            now,
            engines: [At::Idle, At::Idle],
            messages: born.sends.into_iter().map(Message::Command).collect(),
            rows: BTreeMap::new(),
            effects: BTreeMap::new(),
            left: self.budget,
            promised: false,
            changed_outcome: false,
            page: None,
            mistaken: false,
            acknowledged: None,
        }
    }

    fn next(&self, state: &SagaSystem) -> Vec<(String, SagaSystem)> {
        let mut next = Vec::new();
        for (e, at) in state.engines.iter().enumerate() {
            if e == 0 || !matches!((at, &state.engines[0]), (At::Idle, At::Idle)) {
                self.engine(state, e, &mut next);
            }
        }
        for at in 0..state.messages.len() {
            self.worker(state, at, false, &mut next);
            self.garbled(state, at, &mut next);
            if state.left.duplicates > 0 {
                self.worker(state, at, true, &mut next);
                if let Message::Reply(_) = &state.messages[at] {
                    for e in 0..2 {
                        if let (At::Idle, Message::Reply(reply)) = (&state.engines[e], &state.messages[at]) {
                            let mut after = state.clone();
                            after.left.duplicates -= 1;
                            self.read(&mut after, e, Event::Replied(reply.clone()), None);
                            next.push((format!("engine {e} reads for {:?}, twice", reply.outcome), after));
                        }
                    }
                }
            }
            if state.left.losses > 0 {
                let mut after = state.clone();
                after.left.losses -= 1;
                after.messages.remove(at);
                next.push(("a message is lost".to_owned(), after));
            }
        }
        next.into_iter().map(|(step, state)| (step, state.canonical())).collect()
    }

    fn describe(&self, state: &SagaSystem, into: &mut dyn Write) {
        let saga = |saga: &Saga, into: &mut dyn Write| {
            let wake = saga.wake_at.map(|at| at.timestamp_micros());
            let (since, state) = (saga.since.timestamp_micros(), saga.state.to_json());
            let _ = write!(into, "{} {wake:?} {since} {} {state};", saga.revision, saga.label);
        };
        saga(&state.saga, into);
        let _ = write!(into, "{} ", state.now.timestamp_micros());
        let send = |s: &CommandToSend, into: &mut dyn Write| {
            let _ = write!(into, "{} {:?} {} {};", s.step, s.kind, s.attempt, s.issued_at.timestamp_micros());
        };
        let message = |m: &Message, into: &mut dyn Write| match m {
            Message::Command(s) => send(s, into),
            Message::Reply(r) => {
                let gives = r.exposure.len();
                let _ = write!(
                    into,
                    "{} {:?} {} {:?} {gives} {:?};",
                    r.step, r.kind, r.attempt, r.outcome, r.target
                );
            }
        };
        for at in &state.engines {
            match at {
                At::Idle => {
                    let _ = into.write_str("idle;");
                }
                At::Read { saga: read, event, message: m } => {
                    saga(read, into);
                    let _ = into.write_str(event.name());
                    match event {
                        Event::Replied(r) => message(&Message::Reply(r.clone()), into),
                        Event::Resolved(Resolution { seen, .. })
                        | Event::RetryRequested(Retry { seen, .. }) => {
                            let _ = write!(into, "{seen:?}");
                        }
                        Event::Signalled(signal) => {
                            let _ = into.write_str(signal.payload.get());
                        }
                        _ => {}
                    }
                    let _ = write!(into, "{};", m.is_some());
                }
                At::Written { sends, message: m } => {
                    sends.iter().for_each(|s| send(s, into));
                    if let Some(m) = m {
                        message(m, into);
                    }
                    let _ = into.write_str("written;");
                }
            }
        }
        state.messages.iter().for_each(|m| message(m, into));
        for (key, row) in &state.rows {
            let undone = row.undone.as_ref().map(|u| (u.outcome, u.attempt));
            let _ = write!(into, "{} {:?} {} {undone:?};", key.as_u128() as u16, row.status, row.attempt);
        }
        let (left, promised, page) = (&state.left, state.promised, &state.page);
        let _ = write!(
            into,
            "{:?} {left:?} {promised} {page:?} {:?}",
            state.effects.values(),
            state.acknowledged
        );
    }

    fn broken(&self, state: &SagaSystem, at_rest: bool) -> Option<String> {
        if state.changed_outcome {
            return Some("an outcome changed".to_owned());
        }
        if state.effects.values().any(|(times, _)| *times > 1) {
            return Some("a command took effect twice".to_owned());
        }
        if state.mistaken {
            return Some("what was meant for something else was believed".to_owned());
        }
        let saga = &state.saga;
        let arrived: Vec<Option<bool>> = saga.state.signals.iter().map(|s| s.payload.read().ok()).collect();
        if arrived != Vec::from_iter(state.acknowledged.map(Some)) {
            return Some(format!("{:?} was acknowledged, and {arrived:?} arrived", state.acknowledged));
        }
        let asks = self.budget.signals > 0;
        if asks && saga.outcome == Some(SagaOutcome::Completed) && state.acknowledged != Some(true) {
            return Some("completed, though nobody said yes".to_owned());
        }
        let holds = saga.state.commands.iter().any(|c| !c.held.is_empty());
        if saga.outcome == Some(SagaOutcome::Undone) && !saga.live && !saga.parked && holds {
            return Some("undone, and its ledger holds something".to_owned());
        }
        if !at_rest {
            return None;
        }
        let held = state.effects.values().filter(|(_, held)| *held).count();
        match state.saga.outcome {
            _ if state.saga.parked => None,
            None => Some("neither ended nor parked".to_owned()),
            Some(SagaOutcome::Completed) if held != 2 => Some(format!("completed with {held} effects")),
            Some(SagaOutcome::Undone) if held != 0 => Some(format!("undone with {held} effects")),
            Some(_) if state.promised && state.saga.label != "CANCELLED" => {
                Some(format!("a cancellation was promised, and it is {}", state.saga.label))
            }
            Some(_) => None,
        }
    }
}
