//! Odd replies: those that are ignored or dead-lettered. They are stored for operators, and decide nothing.

use amends_protocol::{Kind, Outcome, Reply, transport::Inbound};
use uuid::Uuid;

/// The longest name of a step that is stored.
const STEP_NAME_LONGEST: usize = 64;

/// Why a reply changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OddReason {
    /// It repeats what is already recorded, or answers a settled command. It is ignored.
    Duplicate,
    /// It is from before the store was restored. It is ignored.
    OldEpoch,
    /// It matches no command of its saga, and is no success. It is ignored.
    NotOrdered,
    /// It matches no command of its saga, and is a success. It is stored as a [`Stray`](super::Stray).
    SuccessNotOrdered,
    /// It cannot be read, except for the saga that it names. It is dead-lettered.
    Unreadable,
    /// Its token is not its command's. It is dead-lettered.
    Forged,
    /// Its epoch cannot have begun yet. It is dead-lettered.
    NewerEpoch,
    /// It repeats another command's step, part, generation, workflow or slot. It is dead-lettered.
    WrongEcho,
    /// The store refuses its result; its saga parks. It is dead-lettered.
    NotStorable,
}

impl OddReason {
    /// All reasons. A saga has at most one row for each.
    pub const ALL: [OddReason; 9] = [
        OddReason::Duplicate,
        OddReason::OldEpoch,
        OddReason::NotOrdered,
        OddReason::SuccessNotOrdered,
        OddReason::Unreadable,
        OddReason::Forged,
        OddReason::NewerEpoch,
        OddReason::WrongEcho,
        OddReason::NotStorable,
    ];

    /// Returns the word used in tables, metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            OddReason::Duplicate => "duplicate",
            OddReason::OldEpoch => "old_epoch",
            OddReason::NotOrdered => "not_ordered",
            OddReason::SuccessNotOrdered => "success_not_ordered",
            OddReason::Unreadable => "unreadable",
            OddReason::Forged => "forged",
            OddReason::NewerEpoch => "newer_epoch",
            OddReason::WrongEcho => "wrong_echo",
            OddReason::NotStorable => "not_storable",
        }
    }

    /// Returns whether such a reply is dead-lettered.
    pub fn is_dead_lettered(self) -> bool {
        match self {
            OddReason::Duplicate
            | OddReason::OldEpoch
            | OddReason::NotOrdered
            | OddReason::SuccessNotOrdered => false,
            OddReason::Unreadable
            | OddReason::Forged
            | OddReason::NewerEpoch
            | OddReason::WrongEcho
            | OddReason::NotStorable => true,
        }
    }
}

/// Odd replies of one batch, of one saga and for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OddReplies {
    /// The saga that they name.
    pub saga_id: Uuid,
    /// Why they change nothing.
    pub reason: OddReason,
    /// Their number.
    pub count: u32,
    /// The last of them.
    pub last: OddReply,
}

/// The location and content of an odd reply. Any sender may have produced it, so nothing is stored that could be long
/// or personal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OddReply {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The content; `None` if it cannot be read.
    pub says: Option<OddAnswer>,
}

/// The content of an odd reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OddAnswer {
    /// The command that it answers.
    pub command_id: Uuid,
    /// The step that it names; `None` if the text cannot be a step's name.
    pub step: Option<String>,
    /// The kind of the command.
    pub kind: Kind,
    /// The outcome.
    pub outcome: Outcome,
    /// The attempt.
    pub attempt: u32,
}

impl OddReply {
    /// Creates it for an unreadable message.
    pub fn unreadable(message: &Inbound) -> Self {
        let &Inbound { ref topic, partition, offset, .. } = message;
        Self { topic: topic.clone(), partition, offset, says: None }
    }

    /// Creates it for a message with this reply.
    pub fn of(message: &Inbound, reply: &Reply) -> Self {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let is_name = |step: &&String| step.len() <= STEP_NAME_LONGEST && step.chars().all(fits);
        let says = OddAnswer {
            command_id: reply.command_id,
            step: Some(&reply.step).filter(is_name).cloned(),
            kind: reply.kind,
            outcome: reply.outcome,
            attempt: reply.attempt,
        };
        Self { says: Some(says), ..Self::unreadable(message) }
    }
}
