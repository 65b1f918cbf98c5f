//! Odd replies: those that are ignored or dead-lettered. They are kept for operators, and decide nothing.

use amends_protocol::{Kind, Outcome, Reply, transport::Inbound};
use uuid::Uuid;

/// The longest name of a step that is kept.
const STEP_NAME_LONGEST: usize = 64;

/// Why a reply changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OddReason {
    /// It says what is known already, or answers a question that is settled. It is ignored.
    Duplicate,
    /// It is from before the store was restored. It is ignored.
    OldEpoch,
    /// No command of its saga ordered it, and it is no success. It is ignored.
    NotOrdered,
    /// No command of its saga ordered it, and it is a success. It is kept as a [`Stray`](super::Stray).
    SuccessNotOrdered,
    /// It cannot be read, but for the saga that it names. It is dead-lettered.
    Unreadable,
    /// Its token is not its command's. It is dead-lettered.
    Forged,
    /// Its epoch is newer than the deployment's. It is dead-lettered.
    NewerEpoch,
    /// It repeats another command's step, part, generation, workflow or slot. It is dead-lettered.
    WrongEcho,
    /// The store refuses what comes of it; its saga parks. It is dead-lettered.
    NotStorable,
}

impl OddReason {
    /// Each of them. A saga has at most one row for each.
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

    /// The word for a table, a metric or a log.
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

    /// Whether such a reply is put on the dead letter topic.
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

/// Odd replies of one saga for one reason, as they came together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OddReplies {
    /// The saga that they name.
    pub saga_id: Uuid,
    /// Why they change nothing.
    pub reason: OddReason,
    /// How many they are.
    pub count: u32,
    /// The last of them.
    pub last: OddReply,
}

/// Where an odd reply is found, and what it says. Its sender may be anybody, so nothing of it is kept that could be long,
/// or personal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OddReply {
    /// Topic it came from.
    pub topic: String,
    /// Partition it came from.
    pub partition: i32,
    /// Its place there.
    pub offset: i64,
    /// What it says. None if it cannot be read.
    pub says: Option<OddAnswer>,
}

/// What an odd reply says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OddAnswer {
    /// The command that it answers.
    pub command_id: Uuid,
    /// The step that it names. None if that cannot be the name of a step.
    pub step: Option<String>,
    /// The kind of the command.
    pub kind: Kind,
    /// What became of it.
    pub outcome: Outcome,
    /// The attempt.
    pub attempt: u32,
}

impl OddReply {
    /// A message that cannot be read.
    pub fn unreadable(message: &Inbound) -> Self {
        let &Inbound { ref topic, partition, offset, .. } = message;
        Self { topic: topic.clone(), partition, offset, says: None }
    }

    /// A message that says this.
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
