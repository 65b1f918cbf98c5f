//! Turns messages into commands: unreadable ones are dead-lettered, ones of a newer format are answered.

use amends_protocol::{
    Command, SignatureError,
    transport::{self, Batch, Inbound, Sink},
    wire,
};

use crate::settings::Settings;

/// A command, and its message.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) command: Command,
    pub(crate) message: Inbound,
}

impl Delivery {
    /// Returns the command and its message.
    pub(crate) fn parts(&self) -> (&Command, &Inbound) {
        (&self.command, &self.message)
    }
}

/// A message for the dead letter topic, and the reason.
pub(crate) type DeadLetter = (Inbound, String);

/// Reads a batch, and checks its signatures. A command in a newer format is still a delivery.
pub(crate) fn open(batch: Batch, settings: &Settings) -> (Vec<Delivery>, Vec<DeadLetter>) {
    let (mut deliveries, mut unreadable) = (Vec::with_capacity(batch.messages.len()), Vec::new());
    for message in batch.messages {
        if let Err(error) = check_signature(&message, settings) {
            unreadable.push((message, error.to_string()));
            continue;
        }
        match wire::command(&message.bytes) {
            Ok(command) => deliveries.push(Delivery { command, message }),
            Err(error) => unreadable.push((message, error.to_string())),
        }
    }
    (deliveries, unreadable)
}

/// Checks the message's signature: that the sender may give this worker commands.
fn check_signature(message: &Inbound, settings: &Settings) -> Result<(), SignatureError> {
    let Settings { keys, require_signatures, .. } = settings;
    if keys.is_empty() && !require_signatures {
        return Ok(());
    }
    match keys.check(message.signature.as_deref(), &message.bytes) {
        Err(SignatureError::Missing) if !require_signatures => Ok(()),
        checked => checked,
    }
}

/// Returns the commands whose format this worker knows.
pub(crate) fn known(deliveries: &[Delivery]) -> Vec<&Command> {
    deliveries.iter().map(|d| &d.command).filter(|c| !wire::is_newer(c.schema_version)).collect()
}

pub(crate) async fn dead_letter<K: Sink>(
    sink: &K,
    settings: &Settings,
    dead_letters: &[DeadLetter],
) -> Result<(), transport::Error> {
    for (message, reason) in dead_letters {
        // The reason may quote the message, which may contain personal data: it goes to the dead letter topic, not to
        // the log.
        let (worker, topic) = (&settings.name, &message.topic);
        tracing::warn!(worker, topic, partition = message.partition, offset = message.offset, "dead letter");
        sink.dead_letter(message, reason).await?;
        metrics::counter!("amends_worker_dead_letters_total", "worker" => worker.clone()).increment(1);
    }
    Ok(())
}
