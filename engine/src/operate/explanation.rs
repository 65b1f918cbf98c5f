//! One sentence about a saga: what it waits for, and until when.

use amends_protocol::Reason;
use chrono::{DateTime, SecondsFormat, Utc};

use crate::core::{CommandState, Definition, Direction, Saga, SagaOutcome, Status, Undo};

/// What a saga waits for, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The sentence.
    pub sentence: String,
    /// When the engine acts by itself; `None` if it waits for an operator, or for nothing.
    pub until: Option<DateTime<Utc>>,
}

impl Explanation {
    fn new(sentence: String, until: Option<DateTime<Utc>>) -> Self {
        Self { sentence, until }
    }
}

/// Explains a saga to an operator. Without its definition, this program does not know its workflow in that version.
pub fn explain(saga: &Saga, definition: Option<&Definition>) -> Explanation {
    let Some(definition) = definition else {
        let (name, version) = (&saga.workflow, saga.workflow_version);
        let sentence =
            format!("This program does not know `{name}@{version}`: a newer one decides about it.");
        return Explanation::new(sentence, None);
    };
    if let Some(reason) = &saga.state.poisoned {
        let why = code(Some(reason));
        let sentence = format!(
            "Is parked, because its new events cannot be stored{why}: the engine's log says why, and an operator retries it."
        );
        return Explanation::new(sentence, None);
    }
    // The newest command is what the saga waits for.
    let commands = || saga.state.commands.iter().rev();
    if saga.parked
        && let Some((command, reason)) = commands().find_map(|c| Some((c, parked(c)?)))
    {
        return waits_for_an_operator(definition, command, reason);
    }
    if let Some((command, undo)) =
        commands().find_map(|c| Some((c, c.undo.as_ref().filter(|undo| !undo.done)?)))
    {
        return is_being_undone(saga, definition, command, undo);
    }
    if saga.outcome.is_none()
        && let Some((signal, since)) = saga.awaited(definition)
    {
        return waits_for_a_signal(saga, definition, signal, since);
    }
    match (saga.outcome, commands().find(|c| c.status.is_open())) {
        (Some(SagaOutcome::Completed), _) => {
            Explanation::new("Has ended: every step is done.".to_owned(), None)
        }
        (Some(SagaOutcome::Undone), _) => {
            let why = code(saga.reason.as_ref());
            Explanation::new(format!("Has ended {}{why}: every effect is undone.", saga.label), None)
        }
        (None, Some(command)) => waits_for_a_reply(saga, definition, command),
        (None, None) => Explanation::new("Waits for the engine to go on.".to_owned(), saga.wake_at),
    }
}

fn parked(command: &CommandState) -> Option<&Reason> {
    let undo = command.undo.as_ref().and_then(|undo| undo.parked.as_ref());
    undo.or(command.parked.as_ref())
}

fn waits_for_an_operator(definition: &Definition, command: &CommandState, reason: &Reason) -> Explanation {
    let step = &definition.steps[command.step];
    let (name, participant) = (step.name, step.participant);
    let is_undo = command.undo.as_ref().is_some_and(|undo| undo.parked.is_some());
    let what = match (is_undo, command.status) {
        (true, _) => format!("{participant} has not undone it"),
        (false, Status::Unknown | Status::Expired) => {
            format!("{participant} does not know whether it was done")
        }
        (false, _) => format!("{participant} did not do it"),
    };
    let code = &reason.code;
    let sentence =
        format!("Is parked at `{name}`, because {what} ({code}): an operator retries or resolves it.");
    Explanation::new(sentence, None)
}

fn is_being_undone(saga: &Saga, definition: &Definition, command: &CommandState, undo: &Undo) -> Explanation {
    let step = &definition.steps[command.step];
    let towards = match (&saga.heading_for, saga.outcome) {
        (_, Some(_)) => "Has ended, and an effect that was found later is being undone".to_owned(),
        (Some(label), None) => format!("Is being undone towards {label}{}", code(saga.reason.as_ref())),
        (None, None) => "Is being undone".to_owned(),
    };
    let sentence = format!(
        "{towards}: waits for {}'s answer to undoing `{}`, sent at {} (attempt {}){}.",
        step.participant,
        step.name,
        time(undo.issued_at),
        undo.attempt,
        undo.due_at.map(|at| format!("; it is sent again at {}", time(at))).unwrap_or_default(),
    );
    Explanation::new(sentence, undo.due_at)
}

fn waits_for_a_signal(
    saga: &Saga,
    definition: &Definition,
    signal: &str,
    since: DateTime<Utc>,
) -> Explanation {
    let command = saga.state.commands.iter().rev().find(|c| definition.steps[c.step].name == signal);
    let deadline = command.and_then(|command| command.due_at);
    let until = deadline
        .map(|at| format!("; unless it comes by {}, the step is given up", time(at)))
        .unwrap_or_default();
    let sentence = format!("Waits for the signal `{signal}`, since {}{until}.", time(since));
    Explanation::new(sentence, deadline)
}

fn waits_for_a_reply(saga: &Saga, definition: &Definition, command: &CommandState) -> Explanation {
    let step = &definition.steps[command.step];
    let (name, participant, attempt) = (step.name, step.participant, command.attempt);
    let sent_at = time(command.sent_at.unwrap_or(command.issued_at));
    let again = |what: &str| command.due_at.map(|at| format!("; {what} at {}", time(at))).unwrap_or_default();
    let mut sentence = match command.status {
        Status::Backoff => {
            let times = match command.failures {
                1 => "once".to_owned(),
                failures => format!("{failures} times"),
            };
            format!("`{name}` has failed {times} at {participant}{}", again("it is tried again"))
        }
        Status::Unknown => format!(
            "Waits to learn from {participant} whether `{name}` was done, sent at {sent_at} (attempt {attempt}){}",
            again("it is asked again")
        ),
        _ => format!(
            "Waits for {participant}'s answer to `{name}`, sent at {sent_at} (attempt {attempt}){}",
            again("it is sent or asked for again")
        ),
    };
    if let Some(at) = command.parks_at {
        sentence.push_str(&format!("; from {} on, an unknown outcome waits for an operator", time(at)));
    }
    let timeout = saga.state.timeout_at.filter(|_| {
        saga.state.direction == Direction::Forward
            && definition.timeout.is_some_and(|timeout| !saga.has_succeeded(timeout.until_step))
    });
    if let (Some(at), Some(timeout)) = (timeout, definition.timeout) {
        let step = definition.steps[timeout.until_step].name;
        sentence.push_str(&format!("; unless `{step}` is done by {}, it is cancelled", time(at)));
    }
    Explanation::new(sentence + ".", command.due_at)
}

fn code(reason: Option<&Reason>) -> String {
    reason.map(|reason| format!(" ({})", reason.code)).unwrap_or_default()
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
