//! The notification worker: consumes domain events and records the messages that it would send. (Sending comes later.)
//!
//! Events are received at least once and recorded exactly once: the event's id is the key.
#![warn(missing_docs)]

mod event;
mod expiry;
mod recorder;

pub use event::{TOPICS, template};
pub use expiry::expire_notifications;
pub use recorder::{Error, Recorder};

/// The migrations of the notification database.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("../../../migrations/notification");
