//! What the author of a worker writes: an executor. All else (rows, tombstones, probes, fences, batches,
//! leases, replies, dead letters) is the SDK's.

use std::{future::Future, time::Duration};

use amends_protocol::{Command, Exposure, Json, Outcome, Reason};
use uuid::Uuid;

use crate::{row::Said, store};

/// What an executor says of one command.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Done; for an undo: undone.
    Succeeded {
        /// What it brought, for the timeline; no personal data.
        result: Option<Json>,
        /// What is held more (or, of an undo, less) since.
        exposure: Vec<Exposure>,
    },
    /// A business no; nothing happened.
    Refused(Reason),
    /// Certainly without effect, now and later.
    Failed {
        /// Why.
        reason: Reason,
        /// Whether another attempt may succeed.
        transient: bool,
    },
    /// Nobody can say whether it took effect.
    Unknown(Reason),
    /// Nothing was done, because another transaction holds what it needs ([`TransactionalExecutor::run_past`]). The
    /// command is left; the engine sends it again.
    PassedOver,
}

impl Answer {
    /// Done, with this result and this much more (or less) held.
    pub fn succeeded(result: Option<Json>, exposure: Vec<Exposure>) -> Self {
        Answer::Succeeded { result, exposure }
    }

    /// A business no.
    pub fn refused(code: &str, text: &str) -> Self {
        Answer::Refused(Reason::new(code, text))
    }

    /// Without effect; another attempt may succeed.
    pub fn failed_for_now(code: &str, text: &str) -> Self {
        Answer::Failed { reason: Reason::new(code, text), transient: true }
    }

    /// Without effect; another attempt would fail too.
    pub fn failed_for_good(code: &str, text: &str) -> Self {
        Answer::Failed { reason: Reason::new(code, text), transient: false }
    }

    /// Its outcome, and what it said beyond that.
    pub(crate) fn split(self) -> (Outcome, Said) {
        match self {
            Answer::Succeeded { result, exposure } => {
                (Outcome::Succeeded, Said { result, reason: None, exposure })
            }
            Answer::Refused(reason) => (Outcome::Refused, Said::because(reason)),
            Answer::Failed { reason, transient: true } => (Outcome::FailedTransient, Said::because(reason)),
            Answer::Failed { reason, transient: false } => (Outcome::FailedForGood, Said::because(reason)),
            Answer::Unknown(reason) => (Outcome::Unknown, Said::because(reason)),
            Answer::PassedOver => (Outcome::Unknown, Said::because(Reason::new("passed_over", ""))),
        }
    }

    /// No answer.
    pub fn unknown(code: &str) -> Self {
        Answer::Unknown(Reason::new(code, ""))
    }
}

/// Whether a piece of work does or undoes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Do the command's work.
    Execute,
    /// Undo what the target of the command did.
    Undo,
}

/// One piece of work for an executor.
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    /// Do or undo.
    pub action: Action,
    /// The execute, or the compensation whose target is to be undone. Its id is the key of the effect.
    pub command: Command,
    /// Of an undo: what the effect holds.
    pub held: Vec<Exposure>,
}

impl Work {
    /// The id of the execute that this is, or undoes.
    pub fn target(&self) -> Uuid {
        self.command.row_key()
    }
}

/// An executor whose effects live in the worker's own database: rows, effects and recorded replies of a whole
/// batch are one transaction.
pub trait TransactionalExecutor<Tx>: Send + Sync {
    /// Does and undoes what the batch asks, in this transaction, and answers each piece in its place. Nothing
    /// may be written for a piece that is answered refused or failed. Lock what several commands share in one
    /// order, and once a batch.
    ///
    /// A database error takes the whole batch back: it is tried again, or halved until the command that
    /// causes it is alone. Commands that seem new are done on trial: if one of them turns out to be known, the
    /// transaction is dropped, and with it what was done. So nothing may be done outside of the transaction.
    fn run(
        &self,
        tx: &mut Tx,
        work: &[Work],
    ) -> impl Future<Output = Result<Vec<Answer>, store::Error>> + Send;

    /// The same, after [`run`](Self::run) has waited in vain for a row that another transaction holds
    /// ([`store::Error::Locked`]): passes over such rows, and answers [`Answer::PassedOver`] where one is needed.
    ///
    /// By default it waits again, and the batch is halved until only those commands are left that cannot be done.
    fn run_past(
        &self,
        tx: &mut Tx,
        work: &[Work],
    ) -> impl Future<Output = Result<Vec<Answer>, store::Error>> + Send {
        self.run(tx, work)
    }
}

/// What is true of the port behind an external executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// A call repeated under its key has one effect.
    pub idempotent: bool,
    /// The first final answer under a key, a refusal too, is the answer for ever.
    pub first_answer_binds: bool,
    /// It can be asked what became of a key.
    pub can_look_up: bool,
    /// It can promise that a key never takes effect.
    pub can_void: bool,
    /// How long it recognises a key.
    pub keeps_keys_for: Duration,
}

/// What a look-up found.
#[derive(Debug, Clone, PartialEq)]
pub enum LookUp {
    /// The answer under this key.
    Found(Answer),
    /// Nothing yet. That is no outcome: the call may still be on its way.
    Nothing,
    /// The port could not be asked.
    NoAnswer(Reason),
}

/// What became of voiding a key.
#[derive(Debug, Clone, PartialEq)]
pub enum Void {
    /// The key never takes effect.
    Voided,
    /// It has taken effect, or an answer under it is final.
    TooLate,
    /// The port did not answer.
    NoAnswer(Reason),
}

/// An executor whose effect is a call to someone else.
///
/// Each call has a time limit and may be dropped at any await. Use the work's `command.command_id` as the
/// idempotency key; an undo has a key of its own.
pub trait ExternalExecutor: Send + Sync {
    /// What is true of the port. Declare no more than it promises.
    fn port(&self) -> Port;

    /// Does the command's work.
    fn execute(&self, work: &Work) -> impl Future<Output = Answer> + Send;

    /// Undoes the effect of [`Work::target`]; must not need its result, which may be unknown.
    fn undo(&self, work: &Work) -> impl Future<Output = Answer> + Send;

    /// Asks what became of the call, of either action, under the work's key.
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
