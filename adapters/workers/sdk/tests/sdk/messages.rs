//! Commands as an engine would send them.

use amends_protocol::{Command, Json, Kind, id};
use amends_worker::conformance;
use serde_json::json;

/// Creates the execute of a new saga. Executors that read the business key take its outcome from it.
pub fn execute(business_key: &str) -> Command {
    let payload = Json::from(json!({ "amount": 2500 }));
    Command { business_key: business_key.to_owned(), payload, ..conformance::execute() }
}

/// Creates a compensation, probe or fence of an execute, at attempt 1.
pub fn about(kind: Kind, execute: &Command) -> Command {
    let target = execute.command_id;
    Command {
        command_id: id::of(kind, target),
        kind,
        target: Some(target),
        target_issued_at: Some(execute.issued_at),
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

/// Returns the same command at a later attempt.
pub fn again(command: &Command, attempt: u32) -> Command {
    Command { attempt, ..command.clone() }
}
