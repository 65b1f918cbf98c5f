//! What the accounts of a budget receive: regardless of answers, and for each answer.

use amends_protocol::Outcome;

use crate::core::Repeats;

/// Cost of a repetition; all amounts are in thousandths of a repetition.
pub(super) const REPETITION_COST: u64 = 1_000;

/// What an account receives regardless of answers, so that the engine notices when the worker is healthy again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepeatAllowance {
    /// Initial and maximum number of repetitions.
    pub most: u32,
    /// Number of repetitions added per minute.
    pub a_minute: u32,
}

impl RepeatAllowance {
    pub(super) fn most(self) -> u64 {
        u64::from(self.most) * REPETITION_COST
    }
}

/// What the accounts of each participant receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepeatAllowances {
    /// For attempts after an answered failure.
    pub failed: RepeatAllowance,
    /// For repetitions of unanswered commands.
    pub silent: RepeatAllowance,
}

impl Default for RepeatAllowances {
    fn default() -> Self {
        Self {
            failed: RepeatAllowance { most: 50, a_minute: 60 },
            silent: RepeatAllowance { most: 200, a_minute: 600 },
        }
    }
}

impl RepeatAllowances {
    pub(super) fn of(self, why: Repeats) -> RepeatAllowance {
        match why {
            Repeats::Failed => self.failed,
            Repeats::Silent => self.silent,
        }
    }
}

/// Properties of an answer that matter for the budget.
#[derive(Debug, Clone, Copy)]
pub(in crate::runtime) struct AnswerReceived {
    pub outcome: Outcome,
    pub attempt: u32,
    /// The answer arrived soon: the worker has no backlog.
    pub soon: bool,
}

/// Returns what an answer earns. Each success or final answer pays for one more attempt, and each first failure for a
/// tenth of one. If a worker answers soon, its unanswered commands are lost, and each answer pays for a repetition. If
/// it answers late, the unanswered commands wait in its queue, and an answer pays for a tenth.
pub(super) fn earned(why: Repeats, AnswerReceived { outcome, attempt, soon }: AnswerReceived) -> u64 {
    match (why, outcome) {
        (Repeats::Silent, _) => {
            if soon {
                REPETITION_COST
            } else {
                REPETITION_COST / 10
            }
        }
        (Repeats::Failed, Outcome::FailedTransient) if attempt == 1 => REPETITION_COST / 10,
        (
            Repeats::Failed,
            Outcome::Succeeded | Outcome::Refused | Outcome::FailedForGood | Outcome::Fenced,
        ) => REPETITION_COST,
        (Repeats::Failed, _) => 0,
    }
}
