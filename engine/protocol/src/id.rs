//! Ids that both sides can compute: stable over attempts, and the same again after a restore.

use uuid::Uuid;

use crate::Kind;

/// The id of an execute: UUIDv5 (RFC 9562, 5.5) of the saga's id and step, part and generation.
pub fn execute(saga: Uuid, step: &str, part: u16, generation: u16) -> Uuid {
    Uuid::new_v5(&saga, format!("{step}/{part}/{generation}").as_bytes())
}

/// The id of the compensation of an execute.
pub fn undo(target: Uuid) -> Uuid {
    Uuid::new_v5(&target, b"undo")
}

/// The id of a command of this kind that is about `target`; an execute is about itself.
pub fn of(kind: Kind, target: Uuid) -> Uuid {
    match kind {
        Kind::Execute => target,
        Kind::Compensate => undo(target),
        Kind::Probe => Uuid::new_v5(&target, b"probe"),
        Kind::Fence => Uuid::new_v5(&target, b"fence"),
    }
}
