//! From a decided [`Send`] to the message.

use amends_protocol::{Command, Json, Kind, SCHEMA_VERSION, TokenKey, id};

use chrono::{DateTime, Utc};

use super::{Definition, Input, Saga, Send, Status};

/// The command that a decision wants sent. Only an execute has a payload: a compensation must not need what
/// its target's result was.
pub fn command(
    definition: &Definition,
    saga: &Saga,
    send: &Send,
    input: Input<'_>,
    epoch: u32,
    key: &TokenKey,
) -> Command {
    let step = &definition.steps[send.step];
    let execute = id::execute(saga.id, step.name, send.part, send.generation);
    let command_id = id::of(send.kind, execute);
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
        deadline: send.deadline,
        reply_token: key.token(command_id),
        payload,
    }
}

/// Commands of a saga that were issued at `since` or later and have no answer: what a new owner of its slot
/// sends again, in case the one before it died between commit and produce.
pub fn outstanding(definition: &Definition, saga: &Saga, since: DateTime<Utc>) -> Vec<Send> {
    let mut sends = Vec::new();
    for command in &saga.state.commands {
        let step = &definition.steps[command.step];
        let sent_at = command.sent_at.unwrap_or(command.issued_at);
        let send = |kind, attempt, issued_at| Send {
            kind,
            step: command.step,
            part: command.part,
            generation: command.generation,
            attempt,
            issued_at,
            deadline: sent_at + step.deadline,
        };
        match &command.undo {
            Some(undo) if !undo.done && undo.parked.is_none() && undo.issued_at >= since => {
                sends.push(send(Kind::Compensate, undo.attempt, undo.issued_at));
            }
            None if command.status == Status::Waiting && sent_at >= since => {
                sends.push(send(Kind::Execute, command.attempt, command.issued_at));
            }
            _ => {}
        }
    }
    sends
}
