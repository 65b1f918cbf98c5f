//! The trace that a saga is born with stays its trace.

use amends_protocol::{trace::TraceContext, wire};
use amends_workflows::{order_refund, order_return};
use uuid::Uuid;

use super::Quiet;
use crate::{bus::REPLIES, clients::trace_of, store::short};

/// Every command, and every reply that repeats a context, carries the trace of its saga: the one that its client named,
/// or the saga's id.
pub fn messages_carry_the_trace(quiet: &Quiet<'_>) -> Vec<String> {
    let mut broken = Vec::new();
    for (topic, _, _, record, _) in quiet.state.bus.records() {
        let Some(carried) = record.traceparent() else { continue };
        let Some(saga) = saga_of(topic, &record.bytes) else { continue };
        let Some(stored) = quiet.state.store.sagas.get(&saga) else { continue };
        let is_of_order = ![order_return::NAME, order_refund::NAME].contains(&&*stored.saga.workflow);
        let named = trace_of(saga).filter(|_| is_of_order);
        let expected = named.unwrap_or_else(|| TraceContext::of_saga(saga));
        let carried = carried.parse::<TraceContext>();
        let is_right = |carried: &TraceContext| {
            carried.trace_id() == expected.trace_id() && carried.is_sampled() == expected.is_sampled()
        };
        if !carried.as_ref().is_ok_and(is_right) {
            broken.push(format!("{}: a message carries {carried:?}, not {expected}", short(saga)));
        }
    }
    broken
}

fn saga_of(topic: usize, bytes: &[u8]) -> Option<Uuid> {
    match topic {
        REPLIES => wire::reply(bytes).ok().map(|reply| reply.saga_id),
        _ => wire::command(bytes).ok().map(|command| command.saga_id),
    }
}
