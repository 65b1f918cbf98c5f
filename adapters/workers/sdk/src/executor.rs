//! The executor: what a worker's author writes. The SDK does all else (rows, tombstones, probes, fences, batches,
//! leases, replies, dead letters).

use std::{future::Future, time::Duration};

use amends_protocol::{Command, Exposure, Json, Outcome, Reason, Reply};
use uuid::Uuid;

use crate::{row::AnswerDetails, store};

/// An executor's answer to one command.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Done; for an undo: undone.
    Succeeded {
        /// The result, for the timeline; no personal data.
        result: Option<Json>,
        /// Change of what is held: positive, or negative for an undo.
        exposure: Vec<Exposure>,
    },
    /// Refused for a business reason; nothing happened.
    Refused(Reason),
    /// Certainly without effect, now and later.
    Failed {
        /// The reason.
        reason: Reason,
        /// Whether another attempt may succeed.
        transient: bool,
    },
    /// It is unknown whether the command took effect.
    Unknown(Reason),
    /// Nothing was done, because another transaction holds what the command needs
    /// ([`TransactionalExecutor::run_past`]). The command is left; the engine sends it again.
    PassedOver,
}

impl Answer {
    /// Success, with this result and this change of what is held.
    pub fn succeeded(result: Option<Json>, exposure: Vec<Exposure>) -> Self {
        Answer::Succeeded { result, exposure }
    }

    /// Refusal for a business reason.
    pub fn refused(code: &str, text: &str) -> Self {
        Answer::Refused(Reason::new(code, text))
    }

    /// Failure without effect; another attempt may succeed.
    pub fn failed_for_now(code: &str, text: &str) -> Self {
        Answer::Failed { reason: Reason::new(code, text), transient: true }
    }

    /// Failure without effect; another attempt would fail too.
    pub fn failed_for_good(code: &str, text: &str) -> Self {
        Answer::Failed { reason: Reason::new(code, text), transient: false }
    }

    /// Splits the answer into its outcome and the rest.
    pub(crate) fn split(self) -> (Outcome, AnswerDetails) {
        match self {
            Answer::Succeeded { result, exposure } => {
                (Outcome::Succeeded, AnswerDetails { result, reason: None, exposure })
            }
            Answer::Refused(reason) => (Outcome::Refused, AnswerDetails::of_reason(reason)),
            Answer::Failed { reason, transient: true } => {
                (Outcome::FailedTransient, AnswerDetails::of_reason(reason))
            }
            Answer::Failed { reason, transient: false } => {
                (Outcome::FailedForGood, AnswerDetails::of_reason(reason))
            }
            Answer::Unknown(reason) => (Outcome::Unknown, AnswerDetails::of_reason(reason)),
            Answer::PassedOver => {
                (Outcome::Unknown, AnswerDetails::of_reason(Reason::new("passed_over", "")))
            }
        }
    }

    /// Unknown outcome, because there was no answer.
    pub fn unknown(code: &str) -> Self {
        Answer::Unknown(Reason::new(code, ""))
    }
}

/// Whether a piece of work executes or undoes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Do the command's work.
    Execute,
    /// Undo what the command's target did.
    Undo,
}

/// One piece of work for an executor.
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    /// Execute or undo.
    pub action: Action,
    /// The execute, or the compensation whose target is to be undone. Its id is the key of the effect.
    pub command: Command,
    /// For an undo: what the effect holds.
    pub held: Vec<Exposure>,
}

impl Work {
    /// Returns the id of the execute that this is, or undoes.
    pub fn target(&self) -> Uuid {
        self.command.row_key()
    }
}

/// An executor whose effects are stored in the worker's own database: rows, effects and recorded replies of a whole
/// batch are one transaction.
pub trait TransactionalExecutor<Tx>: Send + Sync {
    /// Executes and undoes the batch's work in this transaction, and returns the answers in the same order. Nothing may
    /// be written for a piece of work that is answered refused or failed. Lock what several commands share in one
    /// order, and once per batch.
    ///
    /// A database error rolls the whole batch back: it is tried again, or halved until the command that causes the
    /// error is alone. Commands that seem new are run on trial: if one of them turns out to be known, the transaction
    /// is dropped with everything done in it. So nothing may be done outside of the transaction.
    fn run(
        &self,
        tx: &mut Tx,
        work: &[Work],
    ) -> impl Future<Output = Result<Vec<Answer>, store::Error>> + Send;

    /// The same, after [`run`](Self::run) has waited in vain for a row that another transaction holds
    /// ([`store::Error::Locked`]): passes over such rows, and answers [`Answer::PassedOver`] where one is needed.
    ///
    /// By default it waits again, and the batch is halved until only the blocked commands are left.
    fn run_past(
        &self,
        tx: &mut Tx,
        work: &[Work],
    ) -> impl Future<Output = Result<Vec<Answer>, store::Error>> + Send {
        self.run(tx, work)
    }

    /// Learns of replies whose transaction has been committed, now or earlier, before they are sent: the place for what
    /// must be true outside of the database before anyone learns of the effects, such as forgetting what a cache holds.
    /// A repeated command's replies are among them, because the process may have died before this the first time.
    fn committed(&self, replies: &[&Reply]) -> impl Future<Output = ()> + Send {
        let _ = replies;
        async {}
    }
}

/// Properties of the port behind an external executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// A call repeated under its key has one effect.
    pub idempotent: bool,
    /// The first final answer under a key, including a refusal, is the answer for ever.
    pub first_answer_binds: bool,
    /// The port can be asked for the outcome of a key.
    pub can_look_up: bool,
    /// The port can promise that a key never takes effect.
    pub can_void: bool,
    /// How long the port recognises a key.
    pub keeps_keys_for: Duration,
}

/// The result of a look-up.
#[derive(Debug, Clone, PartialEq)]
pub enum LookUp {
    /// The answer under this key.
    Found(Answer),
    /// Nothing yet. That is no outcome: the call may still be on its way.
    Nothing,
    /// The look-up itself failed.
    NoAnswer(Reason),
}

/// The result of voiding a key.
#[derive(Debug, Clone, PartialEq)]
pub enum Void {
    /// The key never takes effect.
    Voided,
    /// The key has taken effect, or its answer is final.
    TooLate,
    /// The port did not answer.
    NoAnswer(Reason),
}

/// An executor whose effect is a call to an external system.
///
/// Each call has a time limit and may be dropped at any await. Use the work's `command.command_id` as the idempotency
/// key; an undo has its own key.
pub trait ExternalExecutor: Send + Sync {
    /// Returns the port's properties. Declare no more than it guarantees.
    fn port(&self) -> Port;

    /// Executes the command.
    fn execute(&self, work: &Work) -> impl Future<Output = Answer> + Send;

    /// Undoes the effect of [`Work::target`]; must not need its result, which may be unknown.
    fn undo(&self, work: &Work) -> impl Future<Output = Answer> + Send;

    /// Looks up the outcome of the call, of either action, under the work's key.
    fn look_up(&self, work: &Work) -> impl Future<Output = LookUp> + Send {
        let _ = work;
        async { LookUp::NoAnswer(Reason::new("cannot_look_up", "")) }
    }

    /// Asks for the promise that an execute's key never takes effect.
    fn void(&self, work: &Work) -> impl Future<Output = Void> + Send {
        let _ = work;
        async { Void::NoAnswer(Reason::new("cannot_void", "")) }
    }
}
