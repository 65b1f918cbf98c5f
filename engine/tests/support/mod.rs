//! A workflow for tests of the engine, and fakes of its ports.
#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod actions;
pub(crate) mod worker;
pub(crate) mod world;

use std::time::Duration;

use amends_engine::core::{
    Call, Definition, Input, Labels, Needs, RetryPolicy, SagaTimeout, SignalStep, SignalVerdict, Step,
    StepKind,
};
use amends_engine::dialogue::Dialogue;
use amends_protocol::{Exposure, Json, Outcome, Reason};
use serde_json::json;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// How long the engine keeps asking about an unknown outcome.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// book (one command per room, compensatable) → charge (compensatable) → confirm (pivot) → file (retriable).
pub(crate) fn stay() -> Definition {
    let step = |name, kind, label_done, label_undone| Step {
        name,
        participant: "hotel",
        signal: None,
        kind,
        retry: RetryPolicy::attempts(Some(5)),
        undo_retry: RetryPolicy::attempts(Some(10)),
        deadline: Duration::from_secs(10),
        label_done,
        label_undone,
        needs: Needs::Input,
        parts: |_| 1,
        payload: |call| json!({ "part": call.part }).into(),
        may_hold: |_| Vec::new(),
    };
    Definition {
        name: "stay",
        version: 1,
        labels: Labels { initial: "NEW", undoing: "UNDOING", cancelled: "CANCELLED" },
        relabel: |_| Vec::new(),
        timeout: Some(SagaTimeout { until_step: 0, after: Duration::from_secs(900), reason: "too_late" }),
        unknown_patience: PATIENCE,
        steps: vec![
            Step {
                retry: RetryPolicy::attempts(None),
                parts: rooms,
                may_hold: |call| vec![Exposure::new("room_booked", format!("room-{}", call.part), 1)],
                ..step("book", StepKind::Compensatable, Some("BOOKED"), "FULL")
            },
            Step { may_hold: price, ..step("charge", StepKind::Compensatable, Some("CHARGED"), "DECLINED") },
            Step {
                may_hold: |_| vec![Exposure::new("key_cut", "key", 1)],
                ..step("confirm", StepKind::Pivot, Some("CONFIRMED"), "UNCONFIRMED")
            },
            Step { retry: RetryPolicy::attempts(None), ..step("file", StepKind::Retriable, None, "UNFILED") },
        ],
    }
}

/// Creates a step that waits for `{"yes":true}`, or is given up by `{"yes":false}`.
fn asks(kind: StepKind, deadline: Option<Duration>) -> Step {
    let judge = |payload: &Json| match payload.read::<serde_json::Value>().map(|v| v["yes"].as_bool()) {
        Ok(Some(true)) => SignalVerdict::Accepted,
        Ok(Some(false)) => SignalVerdict::Declined(Reason::new("said_no", "")),
        _ => SignalVerdict::Malformed,
    };
    Step {
        signal: Some(SignalStep { deadline, judge }),
        label_done: Some("ASKED"),
        label_undone: "TURNED_DOWN",
        ..Step::signal("ask", kind)
    }
}

/// book → ask (a signal) → charge → confirm → file.
pub(crate) fn asking(deadline: Option<Duration>) -> Definition {
    let mut definition = stay();
    definition.steps.insert(1, asks(StepKind::Compensatable, deadline));
    Definition { name: "asking", ..definition }
}

/// ask (a signal, the pivot) → file.
pub(crate) fn asking_first() -> Definition {
    let file = stay().steps.remove(3);
    Definition {
        name: "asking_first",
        timeout: None,
        steps: vec![asks(StepKind::Pivot, None), file],
        ..stay()
    }
}

/// confirm (pivot) → ask (a signal, retriable) → file.
pub(crate) fn asking_last() -> Definition {
    let mut definition = Definition { name: "asking_last", timeout: None, ..stay() };
    definition.steps.drain(0..2);
    definition.steps.insert(1, asks(StepKind::Retriable, None));
    definition
}

fn rooms(input: &Json) -> u16 {
    input.read::<serde_json::Value>().ok().and_then(|v| v["rooms"].as_u64()).unwrap_or(1) as u16
}

fn price(_: &Call<'_>) -> Vec<Exposure> {
    vec![Exposure::new("money_captured", "EUR", 100)]
}

/// Begins a stay in this many rooms; its first commands are already expected.
pub(crate) fn begin(rooms: u16) -> Dialogue {
    let mut stay = Dialogue::begin(stay(), json!({ "rooms": rooms }));
    stay.sent.clear();
    stay
}

/// Returns a stay in one room that waits for this step's answer.
pub(crate) fn waiting_for(step: &str) -> Dialogue {
    let mut stay = begin(1);
    for done in ["book", "charge", "confirm", "file"].into_iter().take_while(|s| *s != step) {
        stay.succeeds(&format!("{done} execute"));
    }
    stay.sent.clear();
    stay
}

/// Returns a stay that is parked because the outcome of this step is unknown.
pub(crate) fn unknown_until_parked(step: &str) -> Dialogue {
    let mut stay = waiting_for(step);
    stay.passes(10 * SECOND);
    while !stay.saga.parked {
        stay.answers(&format!("{step} probe"), Outcome::Unknown);
        let wait =
            stay.saga.wake_at.map_or(Duration::ZERO, |at| (at - stay.now).to_std().unwrap_or_default());
        stay.passes(wait);
    }
    stay.sent.clear();
    stay
}

/// Returns what the stay may hold beyond what it certainly holds.
pub(crate) fn possible(of: &Dialogue) -> Vec<Exposure> {
    let input = json!({ "rooms": 1 }).into();
    of.saga.holds(&stay(), Input { data: &input, personal: None }).1
}

/// Asserts that nothing is due before `wake_at`, that `live` says whether anything is due, and that the timeline
/// replays to the row.
#[track_caller]
pub(crate) fn wakes(stay: &Dialogue) {
    let state = &stay.saga.state;
    let commands = state.commands.iter().filter(|_| state.poisoned.is_none());
    let next = commands.filter_map(|c| c.due()).chain(state.timeout_at).min();
    assert_eq!(stay.saga.live, next.is_some());
    assert_eq!(stay.saga.wake_at.is_some(), next.is_some());
    assert!(stay.saga.wake_at <= next, "{:?} after {next:?}", stay.saga.wake_at);
    stay.replays();
}
