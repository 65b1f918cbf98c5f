//! Commands as an engine would send them.

use amends_protocol::{Command, Json, Kind, SCHEMA_VERSION, id};
use chrono::Utc;
use serde_json::json;
use uuid::Uuid;

/// The execute of a saga of its own. What is to become of it is in the business key, for those who read it.
pub fn execute(business_key: &str) -> Command {
    let (saga_id, now) = (Uuid::new_v4(), Utc::now());
    Command {
        schema_version: SCHEMA_VERSION,
        command_id: id::execute(saga_id, "pay", 0, 1),
        kind: Kind::Execute,
        target: None,
        saga_id,
        slot: 7,
        business_key: business_key.to_owned(),
        workflow: "order".to_owned(),
        workflow_version: 1,
        step: "pay".to_owned(),
        part: 0,
        generation: 1,
        attempt: 1,
        epoch: 0,
        issued_at: now,
        deadline: now,
        reply_token: "token".to_owned(),
        payload: Json::from(json!({ "amount": 2500 })),
    }
}

/// A compensation, probe or fence of an execute, at attempt 1.
pub fn about(kind: Kind, execute: &Command) -> Command {
    let target = execute.command_id;
    Command {
        command_id: id::of(kind, target),
        kind,
        target: Some(target),
        attempt: 1,
        payload: Json::null(),
        ..execute.clone()
    }
}

pub fn compensate(execute: &Command) -> Command {
    about(Kind::Compensate, execute)
}

pub fn probe(execute: &Command) -> Command {
    about(Kind::Probe, execute)
}

pub fn fence(execute: &Command) -> Command {
    about(Kind::Fence, execute)
}

/// The same command, sent again as a later attempt.
pub fn again(command: &Command, attempt: u32) -> Command {
    Command { attempt, ..command.clone() }
}
