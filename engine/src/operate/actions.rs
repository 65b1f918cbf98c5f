//! Which actions on a saga are possible now, and why others are not. The core is asked; nothing is written.

use chrono::{DateTime, Utc};

use crate::core::{
    Actor, Decision, Definition, Event, Illegal, Nothing, Occurrence, Resend, Resolution, Retry, Saga,
    transition,
};

/// An action of an operator, and whether it is possible now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// `retry`, `resend`, `cancel`, `resolve done`, `resolve notDone` or `signal`.
    pub name: &'static str,
    /// Why it is not possible now; `None` if it is.
    pub refused: Option<String>,
}

impl Action {
    /// Returns whether it is possible now.
    pub fn is_legal(&self) -> bool {
        self.refused.is_none()
    }
}

/// Returns every action on a saga, and what the core would say to it now.
pub fn actions(saga: &Saga, definition: &Definition, now: DateTime<Utc>) -> Vec<Action> {
    let (by, seen) = (Actor::new("", ""), saga.seen(definition));
    let resolution =
        |done| Resolution { by: by.clone(), seen, done, reference: "?".to_owned(), exposure: Vec::new() };
    let candidates = [
        ("retry", Event::RetryRequested(Retry { by: by.clone(), seen })),
        ("resend", Event::ResendRequested(Resend { by: by.clone(), seen: None })),
        ("cancel", Event::CancelRequested(by.clone())),
        ("resolve done", Event::Resolved(resolution(true))),
        ("resolve notDone", Event::Resolved(resolution(false))),
    ];
    let refused = |event| match transition(definition, saga, &Occurrence { event, at: now, jitter: 0 }) {
        Decision::Changed(_) => None,
        Decision::Illegal(why) => Some(why.to_string()),
        Decision::Nothing(Nothing::AlreadyCancelling) => Some("it is being cancelled already".to_owned()),
        Decision::Nothing(_) | Decision::Rescheduled(_) => Some("it would change nothing".to_owned()),
    };
    let settled = candidates.map(|(name, event)| Action { name, refused: refused(event) });
    settled.into_iter().chain([signal(saga, definition)]).collect()
}

/// Whether a signal is possible depends on its payload; so this says only whether one is awaited.
fn signal(saga: &Saga, definition: &Definition) -> Action {
    let refused = match (saga.awaited(definition), definition.signals().next()) {
        (Some(_), _) => None,
        (None, Some(_)) => Some("it waits for no signal now".to_owned()),
        (None, None) => Some(Illegal::UnknownSignal.to_string()),
    };
    Action { name: "signal", refused }
}
