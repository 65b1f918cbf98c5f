//! Turns replies into messages.

use amends_protocol::{
    Reply,
    transport::{self, Outbound, Placement, Sink},
    wire,
};

use crate::{settings::Settings, traces};

/// A reply, and the trace of the command that it answers.
#[derive(Debug, Clone)]
pub(crate) struct Answered {
    pub(crate) reply: Reply,
    pub(crate) traceparent: Option<String>,
}

/// Sends replies; completes once all are acknowledged.
pub(crate) async fn send<K: Sink>(
    sink: &K,
    settings: &Settings,
    answered: Vec<Answered>,
) -> Result<(), transport::Error> {
    if answered.is_empty() {
        return Ok(());
    }
    for Answered { reply, .. } in &answered {
        metrics::counter!("amends_worker_commands_total", "worker" => settings.name.clone(),
                          "kind" => reply.kind.as_str(), "outcome" => reply.outcome.as_str())
        .increment(1);
    }
    let replies = answered.iter().map(|answered| (&answered.reply, answered.traceparent.as_deref()));
    let spans = traces::replying(settings, replies);
    let message = |Answered { reply, traceparent }: Answered| Outbound {
        topic: settings.reply_topic.clone(),
        placement: Placement::Slot(reply.slot),
        key: reply.saga_id,
        traceparent,
        bytes: wire::write(&reply),
    };
    let sent = sink.send(answered.into_iter().map(message).collect()).await;
    traces::replied(spans, sent.is_ok());
    sent
}

/// Counts a batch of commands.
pub(crate) fn count_batch(settings: &Settings, size: usize) {
    #[expect(clippy::cast_precision_loss, reason = "a batch has far fewer than 2^52 commands")]
    metrics::histogram!("amends_worker_batch_size", "worker" => settings.name.clone()).record(size as f64);
}
