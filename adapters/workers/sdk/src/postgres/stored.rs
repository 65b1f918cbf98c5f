//! A row as the table stores it: read and written.

use amends_protocol::{Json, Resolved};
use chrono::{DateTime, Utc};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::FromRow;
use uuid::Uuid;

use crate::{
    row::{CommandRow, Lease, Status},
    store::Error,
};

/// The columns of [`Stored`], but for the time.
pub(super) const COLUMNS: &str = "command_id, saga_id, status, attempt, epoch, issued_at, unsure, live, owner, \
                                  lease_until, started_at, command, reply, undo, undo_reply, resolved";

/// The table's row as it is stored.
#[derive(FromRow)]
pub(super) struct Stored {
    pub(super) command_id: Uuid,
    saga_id: Uuid,
    status: String,
    attempt: i32,
    epoch: i32,
    issued_at: DateTime<Utc>,
    unsure: bool,
    live: bool,
    owner: Option<Uuid>,
    lease_until: Option<DateTime<Utc>>,
    started_at: Option<DateTime<Utc>>,
    command: Option<String>,
    reply: Option<String>,
    undo: Option<String>,
    undo_reply: Option<String>,
    resolved: Option<String>,
    /// The database's time at the read.
    pub(super) now: DateTime<Utc>,
}

impl TryFrom<Stored> for CommandRow {
    type Error = Error;

    fn try_from(stored: Stored) -> Result<Self, Error> {
        let key = stored.command_id;
        let status = Status::of(&stored.status)
            .ok_or_else(|| Error::Poison(format!("row {key}: status {} is not known", stored.status)))?;
        let resolved = stored.resolved.as_deref().map(|word| {
            let unknown = || Error::Poison(format!("row {key}: resolution {word} is not known"));
            Resolved::of(word).ok_or_else(unknown)
        });
        Ok(CommandRow {
            key,
            saga_id: stored.saga_id,
            status,
            attempt: stored.attempt.unsigned_abs(),
            epoch: stored.epoch.unsigned_abs(),
            issued_at: stored.issued_at,
            unsure: stored.unsure,
            lease: stored
                .lease_until
                .filter(|_| stored.live)
                .map(|until| Lease { owner: stored.owner, until }),
            started_at: stored.started_at,
            command: read(key, stored.command)?,
            details: read(key, stored.reply)?.unwrap_or_default(),
            undo: read(key, stored.undo)?,
            undone: read(key, stored.undo_reply)?,
            resolved: resolved.transpose()?,
        })
    }
}

/// Reads a value that is stored as JSON.
fn read<T: DeserializeOwned>(key: Uuid, text: Option<String>) -> Result<Option<T>, Error> {
    text.map(|t| serde_json::from_str(&t))
        .transpose()
        .map_err(|e| Error::Poison(format!("row {key} cannot be read: {e}")))
}

/// Returns the recorded reply beyond its outcome, if there is anything.
pub(super) fn details(row: &CommandRow) -> Option<String> {
    Some(json(&row.details)).filter(|details| details != "{}")
}

/// Writes a value as JSON.
pub(super) fn json<T: Serialize>(value: &T) -> String {
    Json::of(value).unwrap_or_default().get().to_owned()
}

/// Converts to a signed integer for Postgres; the table's checks reject values that do not fit.
pub(super) fn int(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(-1)
}
