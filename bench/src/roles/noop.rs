//! Workers that answer every command with success and store nothing.

use std::time::Duration;

use amends_api::{process::Process, topics::REPLIES};
use amends_kafka::{KafkaSink, KafkaSource};
use amends_protocol::{
    Outcome,
    transport::{self, Outbound, Placement, Sink, Source},
    wire,
};
use anyhow::Result;
use chrono::Utc;

const BATCH: usize = 500;
const PATIENCE: Duration = Duration::from_millis(500);

/// Starts one worker for each participant, side by side in one process.
pub async fn start(process: &Process) -> Result<()> {
    for participant in amends_workflows::all(&process.settings.workflows()).participants() {
        let (group, topic) = (format!("amends-{participant}"), format!("{participant}.commands"));
        let mut source = KafkaSource::subscribe(&process.kafka, &group, &[&topic])?;
        let (sink, stop) = (KafkaSink::new(&process.kafka)?, process.stop.clone());
        process.watch(participant, async move {
            while !stop.is_cancelled() {
                if let Err(error) = turn(&mut source, &sink).await {
                    tracing::warn!(%error, "trying again");
                    let _ = source.rewind();
                }
            }
        });
    }
    process.observe(process.broker_ready()).await
}

async fn turn(source: &mut KafkaSource, sink: &KafkaSink) -> Result<(), transport::Error> {
    let batch = source.receive(BATCH, PATIENCE).await?;
    let now = Utc::now();
    let commands = batch.messages.iter().filter_map(|message| wire::command(&message.bytes).ok());
    let reply = |command: amends_protocol::Command| Outbound {
        topic: REPLIES.to_owned(),
        placement: Placement::Slot(command.slot),
        key: command.saga_id,
        traceparent: None,
        bytes: wire::write(&command.reply(Outcome::Succeeded, now)),
    };
    sink.send(commands.map(reply).collect()).await?;
    source.commit(batch.receipt)
}
