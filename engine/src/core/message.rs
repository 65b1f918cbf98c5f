//! Builds messages from a decided [`CommandToSend`].

use amends_protocol::{Command, Json, Kind, Resolved, SCHEMA_VERSION, TokenKey, id};
use chrono::{DateTime, Utc};

use super::{CommandState, CommandToSend, Definition, Input, Saga, Status};

/// Builds the message for a decided command; the caller supplies the time of sending. Only an execute has a payload: a
/// compensation must not depend on its target's result.
pub fn command(
    definition: &Definition,
    saga: &Saga,
    send: &CommandToSend,
    input: Input<'_>,
    epoch: u32,
    key: &TokenKey,
) -> Command {
    let step = &definition.steps[send.step];
    let execute = id::execute(saga.id, step.name, send.part, send.generation);
    let command_id = id::of(send.kind, execute);
    let target = saga.state.commands.iter().rev().find(|c| {
        send.kind != Kind::Execute
            && (c.step, c.part, c.generation) == (send.step, send.part, send.generation)
    });
    let payload = match send.kind {
        Kind::Execute => (step.payload)(&saga.call(send.part, input)),
        _ => Json::null(),
    };
    Command {
        schema_version: SCHEMA_VERSION,
        command_id,
        kind: send.kind,
        target: (send.kind != Kind::Execute).then_some(execute),
        saga_id: saga.id,
        slot: saga.slot,
        business_key: saga.business_key.clone(),
        workflow: saga.workflow.clone(),
        workflow_version: saga.workflow_version,
        step: step.name.to_owned(),
        part: send.part,
        generation: send.generation,
        attempt: send.attempt,
        epoch,
        issued_at: send.issued_at,
        sent_at: None,
        target_issued_at: target.map(|target| target.issued_at),
        resolved: target.and_then(|target| resolved(send.kind, target.status)),
        deadline: send.deadline,
        reply_token: key.token(command_id),
        payload,
    }
}

/// Returns what an operator said about a command's target. A fence is sent only for that. Of a compensation's target
/// the engine knows only that it was resolved as not done.
fn resolved(kind: Kind, target: Status) -> Option<Resolved> {
    match (kind, target) {
        (Kind::Compensate | Kind::Fence, Status::NotDone) => Some(Resolved::NotDone),
        (Kind::Fence, Status::Succeeded) => Some(Resolved::Done),
        _ => None,
    }
}

/// Returns the commands of the due repetitions, if nothing else is due. They are sent without a change of the row.
pub fn repetitions(definition: &Definition, saga: &Saga, now: DateTime<Utc>) -> Vec<CommandToSend> {
    let kind = |command: &CommandState| match (&command.undo, command.status) {
        (Some(_), _) => Kind::Compensate,
        (None, Status::Unknown) => Kind::Probe,
        (None, _) => Kind::Execute,
    };
    let due = saga.only_repeats_due(now).unwrap_or_default();
    due.into_iter().map(|(command, _)| CommandToSend::of(definition, command, kind(command))).collect()
}

/// Returns the commands issued at or after `since` that have no answer. A slot's new owner sends them again, because
/// the previous owner may have died between commit and produce.
pub fn outstanding(definition: &Definition, saga: &Saga, since: DateTime<Utc>) -> Vec<CommandToSend> {
    if saga.state.poisoned.is_some() {
        return Vec::new();
    }
    let kind = |command: &CommandState| match &command.undo {
        Some(undo) => {
            let waits = !undo.done && undo.parked.is_none() && undo.asks > 0;
            (waits && undo.issued_at >= since).then_some(Kind::Compensate)
        }
        None => {
            let sent_at = command.sent_at.unwrap_or(command.issued_at);
            (command.status == Status::Waiting && sent_at >= since).then_some(Kind::Execute)
        }
    };
    let commands = saga.state.commands.iter();
    commands.filter_map(|c| kind(c).map(|kind| CommandToSend::of(definition, c, kind))).collect()
}
