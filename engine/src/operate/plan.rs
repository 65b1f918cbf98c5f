//! What an operator's action would do: the core's decision, without the write.

use amends_protocol::{Exposure, add_exposure, negated};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::situation::{Next, timers};
use crate::core::{
    Change, Decision, Definition, Did, Direction, Event, Illegal, Input, Occurrence, Saga, transition,
};

/// What an action would do to a saga in its present state.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The revision at which it would be done.
    pub revision: u32,
    /// Everything that the plan is made of, as text: saga, revision, event and decision. Two plans with the same basis do
    /// the same. Times are not in it: they are computed anew when the plan is applied.
    pub basis: String,
    /// What it would do.
    pub effects: Effects,
}

/// What a plan would do.
#[derive(Debug, Clone, PartialEq)]
pub struct Effects {
    /// The commands that would be sent at once: `pay compensate`.
    pub commands: Vec<String>,
    /// The label before and after.
    pub label: (String, String),
    /// How what is held in the outside world would change until the saga ends or waits again. A negative amount is given
    /// back.
    pub held: Vec<Exposure>,
    /// What the engine would do next by itself.
    pub timers: Vec<Next>,
    /// Whether the saga could still go the way that it goes now.
    pub is_reversible: bool,
}

/// Why there is no plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlan {
    /// The action is not possible now.
    Illegal(Illegal),
    /// The action would change nothing.
    ChangesNothing,
}

/// Computes what an event would do to a saga.
///
/// # Errors
/// [`NoPlan`].
pub fn plan(
    saga: &Saga,
    definition: &Definition,
    input: Input<'_>,
    event: &Event,
    now: DateTime<Utc>,
) -> Result<Plan, NoPlan> {
    let occurrence = Occurrence { event: event.clone(), at: now, jitter: 0 };
    let change = match transition(definition, saga, &occurrence) {
        Decision::Changed(change) => change,
        Decision::Illegal(why) => return Err(NoPlan::Illegal(why)),
        Decision::Nothing(_) | Decision::Rescheduled(_) => return Err(NoPlan::ChangesNothing),
    };
    let Change { saga: after, entry, sends } = *change;
    let commands: Vec<String> = sends.iter().map(|send| send.name(definition)).collect();
    Ok(Plan {
        revision: saga.revision,
        basis: basis(saga.id, saga.revision, event, &after, entry.did, &commands),
        effects: Effects {
            commands,
            label: (saga.label.clone(), after.label.clone()),
            held: difference(saga, &after, definition, input),
            timers: timers(&after, definition),
            // A command that is sent once more takes effect once.
            is_reversible: matches!(event, Event::ResendRequested(_)),
        },
    })
}

fn basis(saga: Uuid, revision: u32, event: &Event, after: &Saga, did: Did, commands: &[String]) -> String {
    let did = Did { parks_at: None, timeout_at: None, ..did };
    serde_json::to_string(&(saga, revision, event, &after.label, &after.heading_for, did, commands))
        .expect("a plan has string keys and finite numbers only")
}

/// Returns how what is held would change.
fn difference(before: &Saga, after: &Saga, definition: &Definition, input: Input<'_>) -> Vec<Exposure> {
    let (certain, possible) = before.holds(definition, input);
    if after.state.direction != Direction::Forward {
        // All of it is given back in the end.
        return negated(&certain);
    }
    let (mut held, more) = after.holds(definition, input);
    add_exposure(&mut held, &more);
    add_exposure(&mut held, &negated(&certain));
    add_exposure(&mut held, &negated(&possible));
    held
}
