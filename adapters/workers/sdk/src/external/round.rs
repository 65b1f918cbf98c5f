//! One round of calls for a row: the call itself and, once it is unsure, the look-ups about it.

use std::future::Future;

use amends_protocol::{Reason, Resolved};

use super::{Call, Shared};
use crate::{
    executor::{Action, Answer, ExternalExecutor, LookUp, Port, Void},
    timer::{Timer, within},
    traces::{self, CallResult},
};

/// The result of a round.
pub(super) struct Finished {
    pub(super) call: Call,
    pub(super) found: Found,
    /// A call of this round, or an earlier one, got no answer.
    pub(super) unsure: bool,
}

/// The port's answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Found {
    /// An answer, possibly that the outcome is unknown.
    Answer(Answer),
    /// The promise that the key never takes effect.
    Voided,
}

/// Makes the call. If it gets no answer (or an earlier one did not), looks up its outcome, and calls again under the
/// same key where the port allows that.
pub(super) async fn round<R, E, K, C>(shared: &Shared<R, E, K, C>, call: Call) -> Finished
where
    E: ExternalExecutor,
    C: Timer,
{
    let port = shared.executor.port();
    if !call.unsure {
        match make(shared, &call).await {
            Answer::Unknown(_) => {}
            answer => return Finished { call, found: Found::Answer(answer), unsure: false },
        }
    }
    let found = inquire(shared, &call, port).await;
    Finished { call, found, unsure: true }
}

async fn inquire<R, E, K, C>(shared: &Shared<R, E, K, C>, call: &Call, port: Port) -> Found
where
    E: ExternalExecutor,
    C: Timer,
{
    let (executor, work) = (&shared.executor, &call.work);
    if (call.unwanted || call.resolved == Some(Resolved::NotDone)) && port.can_void {
        match timely(shared, call, "void", executor.void(work)).await {
            Some(Void::Voided) => return Found::Voided,
            Some(Void::TooLate) => {}
            Some(Void::NoAnswer(reason)) => return Found::Answer(Answer::Unknown(reason)),
            None => return no_answer(),
        }
    }
    if port.can_look_up {
        match timely(shared, call, "look up", executor.look_up(work)).await {
            Some(LookUp::Found(answer)) => return Found::Answer(answer),
            // No outcome: the call may still be on its way, or its process paused before it.
            Some(LookUp::Nothing) => {}
            Some(LookUp::NoAnswer(reason)) => return Found::Answer(Answer::Unknown(reason)),
            None => return no_answer(),
        }
    }
    // What an operator has settled was done elsewhere, or must not be done.
    if call.resolved.is_some() {
        return Found::Answer(Answer::unknown("resolved_by_hand"));
    }
    if port.idempotent && !call.stale {
        return Found::Answer(make(shared, call).await);
    }
    Found::Answer(Answer::unknown("cannot_ask_again"))
}

async fn make<R, E, K, C>(shared: &Shared<R, E, K, C>, call: &Call) -> Answer
where
    E: ExternalExecutor,
    C: Timer,
{
    let answer = match call.work.action {
        Action::Execute => timely(shared, call, "execute", shared.executor.execute(&call.work)).await,
        Action::Undo => timely(shared, call, "undo", shared.executor.undo(&call.work)).await,
    };
    answer.unwrap_or_else(|| Answer::Unknown(Reason::new("no_answer", "")))
}

async fn timely<R, E, K, C, F>(
    shared: &Shared<R, E, K, C>,
    call: &Call,
    verb: &'static str,
    future: F,
) -> Option<F::Output>
where
    C: Timer,
    F: Future<Output: CallResult>,
{
    let traceparent = call.asker.as_ref().and_then(|asker| asker.traceparent.as_deref());
    let answer = within(&shared.timer, shared.settings.call_timeout, future);
    traces::calling(&shared.settings, verb, &call.work.command, traceparent, answer).await
}

fn no_answer() -> Found {
    Found::Answer(Answer::unknown("no_answer"))
}
