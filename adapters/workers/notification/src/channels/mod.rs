//! The channels: how a message leaves this deployment.

pub mod email;
pub mod sms;

/// Why a message was not taken, with a word for programs. Nothing that the other side has said is kept: it may contain the
/// address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotTaken {
    /// It may be taken later, or was taken and that is not known.
    Later(String),
    /// It never will be.
    Refused(String),
}

/// A setting with which nothing can be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(pub String);
