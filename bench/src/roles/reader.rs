//! A reader of all domain events, as another system would be.

use std::time::Duration;

use amends_api::process::Process;
use amends_kafka::KafkaSource;
use amends_protocol::{transport::Source, wire};
use amends_workflows::events::DomainEvent;
use anyhow::Result;

const BATCH: usize = 500;
const PATIENCE: Duration = Duration::from_millis(500);

/// Reads and parses every domain event and keeps nothing.
pub async fn start(process: &Process) -> Result<()> {
    let types: Vec<_> =
        amends_workflows::all(&process.settings.workflows()).event_types().into_iter().collect();
    let mut source = KafkaSource::subscribe(&process.kafka, "amends-bench-reader", &types)?;
    let stop = process.stop.clone();
    process.watch("reader", async move {
        while !stop.is_cancelled() {
            let Ok(batch) = source.receive(BATCH, PATIENCE).await else { continue };
            let unreadable = |bytes: &Vec<u8>| wire::read::<DomainEvent>(bytes).is_err();
            let strange = batch.messages.iter().filter(|message| unreadable(&message.bytes)).count();
            if strange > 0 {
                tracing::error!(strange, "events that cannot be read");
            }
            let _ = source.commit(batch.receipt);
        }
    });
    process.observe(process.broker_ready()).await
}
