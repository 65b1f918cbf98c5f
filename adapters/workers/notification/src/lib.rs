//! The notification worker: consumes domain events, and sends customers messages about their orders by e-mail and SMS.
//!
//! | file | contains |
//! | --- | --- |
//! | `event.rs`, `recorder.rs` | events in, one row an event and channel out |
//! | `store.rs`, `list.rs`, `expiry.rs` | the table `notifications`: recorded, claimed, settled; read; deleted |
//! | `sender.rs` | what is due is sent, a loop a channel |
//! | `contact.rs` | the api is asked for the customer's address when a message is sent |
//! | `text.rs` | what a message says: the files under `templates/` |
//! | `channels/` | SMTP, and the webhook for SMS |
//! | `events.rs` | what was sent is published, `notif.sent` |
//! | `traces.rs` | the spans of what is processed and sent |
//! | `http.rs` | the routes that the api forwards to |
//!
//! Events are received at least once and recorded exactly once; recording never waits for sending. No personal data is
//! stored here: an address is kept in a masked form only.
#![warn(missing_docs)]

pub mod channels;
mod contact;
mod event;
pub mod events;
mod expiry;
mod http;
mod list;
mod mask;
mod recorder;
mod sender;
mod store;
mod text;
mod traces;

pub use contact::{NO_SUCH_ORDER, OrderApi};
pub use event::{Channel, TOPICS};
pub use expiry::{count_waiting, expire_notifications};
pub use http::{NotificationPage, router};
pub use list::{MessageText, Notification, STATUSES};
pub use recorder::{Error, OpenChannels, Recorder};
pub use sender::{Sender, SendingSettings};
pub use text::{LOCALES, Unwritable, has_template, preview};

/// The migrations of the notification database.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("../../../migrations/notification");
