//! Announces what this process knows, and reads what every other live process knows.

use std::sync::Arc;

use amends_engine::{
    port::SagaStore,
    runtime::{
        Engine, Error,
        fleet::{FLEET_HEARTBEAT, run_once},
    },
};
use amends_protocol::transport::Sink;
use uuid::Uuid;

use crate::{clock::TokioClock, process::Process};

/// Announces this process before it writes anything, and from then on until it stops.
///
/// # Errors
/// The database's.
pub async fn join<S, K>(process: &Process, engine: &Arc<Engine<S, K, TokioClock>>) -> Result<(), Error>
where
    S: SagaStore + 'static,
    K: Sink + 'static,
{
    let program = Uuid::now_v7();
    run_once(engine, program).await?;
    let (engine, stop) = (Arc::clone(engine), process.stop.clone());
    process.watch("fleet", async move {
        loop {
            tokio::select! {
                () = tokio::time::sleep(FLEET_HEARTBEAT) => {}
                () = stop.cancelled() => return,
            }
            match tokio::time::timeout(FLEET_HEARTBEAT * 2, run_once(&engine, program)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "this process could not announce itself"),
                Err(_) => tracing::debug!("this process could not announce itself in time"),
            }
        }
    });
    Ok(())
}
