//! A workflow of three steps whose payloads say nothing: what is left is the engine.

use std::time::Duration;

use amends_engine::core::{Call, Catalog, Definition, Labels, Needs, RetryPolicy, Step, StepKind};
use amends_protocol::Json;

/// The workflow's name.
pub const NAME: &str = "three_steps";
/// The label of a saga that has completed.
pub const DONE: &str = "DONE";

/// Three steps, each of another participant: compensatable, compensatable, pivot.
pub fn definition() -> Definition {
    let step = |name, participant, kind| Step {
        name,
        participant,
        signal: None,
        kind,
        retry: RetryPolicy::attempts(Some(5)),
        undo_retry: RetryPolicy::attempts(Some(5)),
        deadline: Duration::from_secs(10),
        label_done: None,
        label_undone: "UNDONE",
        needs: Needs::Input,
        parts: |_: &Json| 1,
        payload: |call: &Call<'_>| call.input.data.clone(),
        may_hold: |_: &Call<'_>| Vec::new(),
    };
    Definition {
        name: NAME,
        version: 1,
        labels: Labels { initial: "STARTED", undoing: "UNDOING", cancelled: "CANCELLED" },
        relabel: |_| Vec::new(),
        timeout: None,
        unknown_patience: amends_workflows::Settings::default().unknown_patience,
        steps: vec![
            step("first", "inventory", StepKind::Compensatable),
            step("second", "payment", StepKind::Compensatable),
            Step { label_done: Some(DONE), ..step("third", "shipment", StepKind::Pivot) },
        ],
    }
}

/// A catalog of this workflow alone.
pub fn catalog() -> Catalog {
    Catalog::new(vec![definition()]).expect("a test checks that the definition is sound")
}

#[cfg(test)]
mod tests {
    use amends_engine::dialogue::Dialogue;

    use super::*;

    #[test]
    fn three_yeses_and_it_is_done() {
        assert_eq!(catalog().iter().count(), 1);
        let mut saga = Dialogue::begin(definition(), serde_json::json!({ "n": 1 }));
        saga.expect(&["first execute"]).succeeds("first execute");
        saga.expect(&["second execute"]).succeeds("second execute");
        saga.expect(&["third execute"]).succeeds("third execute").label(DONE).expect(&[]);
    }
}
