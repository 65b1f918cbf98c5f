//! Sends webhooks: signed requests to addresses that operators have registered, and that are not trusted.
//!
//! | module | contains |
//! | --- | --- |
//! | [`address`] | which addresses of the internet may be reached |
//! | [`target`] | which URLs may be registered |
//! | [`resolver`] | finds the addresses of a name, and refuses those that may not be reached |
//! | [`secret`] | the secrets that sign, sealed for the database |
//! | [`signature`] | the headers of [Standard Webhooks](https://www.standardwebhooks.com) |
//! | [`sender`] | one attempt, within its limits |
//! | [`retry`] | what follows from an attempt, and when the next one is due |
#![warn(missing_docs)]

pub mod address;
pub mod resolver;
pub mod retry;
pub mod secret;
pub mod sender;
pub mod signature;
pub mod target;

pub use resolver::{Resolver, SystemResolver};
pub use retry::{AfterAttempt, RetryPolicy};
pub use secret::{SealingKeys, SigningSecret};
pub use sender::{Answer, CertificateFault, SendFault, Sender, SenderError};
pub use target::{Reach, TargetFault};
