//! The notification worker: consumes domain events and records what it would send. (Sending comes later.)
//!
//! At least once in, exactly once recorded: the event's id is the key.
#![warn(missing_docs)]

mod event;
mod expiry;
mod recorder;

pub use event::{TOPICS, template};
pub use expiry::expire_notifications;
pub use recorder::{Error, Recorder};

/// The migrations of the notification database.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("../../../migrations/notification");
