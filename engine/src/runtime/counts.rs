//! Metrics of the loops whose labels come from definitions: the values are added up for a batch, and recorded at once.
//! No label is unbounded: participants, workflows and steps are those of the program's workflows.

use std::collections::HashMap;

use amends_protocol::{Kind, Outcome, Reply};
use chrono::{DateTime, Utc};

use crate::{
    core::{CommandState, CommandToSend, Definition, Entry, Event, RESEND, ReplyEvent, SagaOutcome, Step},
    port::Write,
};

/// The commands of a batch: participant, kind, and whether each is sent for the first time.
#[derive(Debug, Default)]
pub(super) struct CommandCounts(HashMap<(&'static str, Kind, bool), u64>);

impl CommandCounts {
    /// Counts a command that is sent at this time.
    pub(super) fn add(&mut self, step: &Step, send: &CommandToSend, sent_at: Option<DateTime<Utc>>) {
        let is_late = sent_at.is_some_and(|sent_at| sent_at - send.issued_at >= RESEND);
        let is_first = send.attempt == 1 && !is_late;
        *self.0.entry((step.participant, send.kind, is_first)).or_default() += 1;
    }

    /// Adds them to the metric.
    pub(super) fn record(self) {
        for ((participant, kind, is_first), count) in self.0 {
            let sent = if is_first { "first" } else { "again" };
            let labels = [("participant", participant), ("kind", kind.as_str()), ("sent", sent)];
            metrics::counter!("amends_engine_commands_total", &labels).increment(count);
        }
    }
}

/// The accepted replies of a batch: participant, kind, outcome.
#[derive(Debug, Default)]
pub(super) struct AnswerCounts(HashMap<(&'static str, Kind, Outcome), u64>);

impl AnswerCounts {
    /// Counts a reply to a command of this workflow. One that this program does not know is not counted.
    pub(super) fn add(&mut self, definition: Option<&Definition>, reply: &Reply) {
        if let Some((_, step)) = definition.and_then(|definition| definition.step(&reply.step)) {
            *self.0.entry((step.participant, reply.kind, reply.outcome)).or_default() += 1;
        }
    }

    /// Adds them to the metric.
    pub(super) fn record(self) {
        for ((participant, kind, outcome), count) in self.0 {
            let labels =
                [("participant", participant), ("kind", kind.as_str()), ("outcome", outcome.as_str())];
            metrics::counter!("amends_engine_answers_total", &labels).increment(count);
        }
    }
}

/// Records how long the commands took that these writes settle: from the first issue, over all attempts.
pub(super) fn time_steps(definition: &Definition, write: &Write) {
    for entry in &write.entries {
        let Event::Replied(reply) = &entry.occurrence.event else { continue };
        if !matches!(reply.outcome, Outcome::Succeeded | Outcome::Refused) || entry.did.noted.is_some() {
            continue;
        }
        let Some((step, command)) = command_of(definition, &write.saga.state.commands, reply) else {
            continue;
        };
        let (kind, issued_at) = match (&reply.kind, &command.undo) {
            (Kind::Compensate, Some(undo)) => (Kind::Compensate, undo.issued_at),
            _ => (Kind::Execute, command.issued_at),
        };
        let took = (entry.occurrence.at - issued_at).to_std().unwrap_or_default();
        let labels = [("workflow", definition.name), ("step", step.name), ("kind", kind.as_str())];
        metrics::histogram!("amends_engine_step_seconds", &labels).record(took.as_secs_f64());
    }
}

/// Counts events that should be impossible.
pub(super) fn count_incidents(entries: &[Entry]) {
    for incident in entries.iter().filter_map(|e| e.did.incident.as_ref()) {
        metrics::counter!("amends_engine_incidents_total", "kind" => incident.clone()).increment(1);
    }
}

/// Records how long sagas that ended had taken since their birth.
pub(super) fn time_ended(Write { saga, entries, .. }: &Write) {
    for (entry, ended) in entries.iter().filter_map(|entry| Some((entry, entry.did.ended?))) {
        let outcome = match ended {
            SagaOutcome::Completed => "completed",
            SagaOutcome::Undone => "undone",
        };
        let took = (entry.occurrence.at - saga.born_at).to_std().unwrap_or_default();
        metrics::histogram!("amends_engine_saga_seconds", "workflow" => saga.workflow.clone(), "outcome" => outcome)
            .record(took.as_secs_f64());
    }
}

/// Returns the newest command of the step that a reply names, and the step.
fn command_of<'a>(
    definition: &'a Definition,
    commands: &'a [CommandState],
    reply: &ReplyEvent,
) -> Option<(&'a Step, &'a CommandState)> {
    let (index, step) = definition.step(&reply.step)?;
    let is_of_part = |command: &CommandState| reply.echo.is_none_or(|echo| echo.part == command.part);
    let command = commands.iter().rev().find(|command| command.step == index && is_of_part(command))?;
    Some((step, command))
}
