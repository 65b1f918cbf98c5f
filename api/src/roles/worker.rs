//! `amends worker NAME`: does a participant's steps.

use std::net::SocketAddr;

use amends_inventory::{Inventory, events::Publisher};
use amends_kafka::{KafkaSink, KafkaSource};
use amends_notification::{Recorder, TOPICS};
use amends_payment::{BuiltInGateway, Payments};
use amends_shipment::{BuiltInCarrier, Shipments};
use amends_worker::{Backoff, External, PgRows, Settings, Transactional};
use anyhow::Result;
use axum::Router;
use sqlx::PgPool;

use super::{Process, database, listen, serve};
use crate::{
    cli::Worker,
    failpoints::{Point, point},
    routes::{guarded, health},
    upkeep,
};

/// Starts a worker and, where it is a process of its own (or has something to serve), its listener, whose
/// address is answered.
pub async fn start(name: Worker, process: &Process, observed: bool) -> Result<Option<SocketAddr>> {
    match name {
        Worker::Inventory => {
            let pool = database(process, "inventory_database_url", &amends_inventory::MIGRATOR).await?;
            let settings = tuned(process, amends_inventory::settings());
            let (source, sink) = transport(process, &settings)?;
            let (rows, executor) = (point("rows", PgRows::new(pool.clone())), point("executor", Inventory));
            let worker = Transactional::new(rows, executor, source, sink, settings.clone());
            process.watch("inventory", worker.run(process.stop.clone()));
            upkeep::of_worker(process, pool.clone(), settings).await?;
            let publisher =
                Publisher::new(pool.clone(), point("events", KafkaSink::in_order(&process.kafka)?));
            process.watch("inventory.updated", publisher.run(process.stop.clone()));
            let routes = amends_inventory::router(pool.clone());
            serve_health(process, "inventory", ready(process, pool), routes, observed).await
        }
        Worker::Payment => {
            let pool = database(process, "payment_database_url", &amends_payment::MIGRATOR).await?;
            let mut settings = tuned(process, amends_payment::settings());
            settings.call_timeout = process.settings.payment_call_timeout;
            let (source, sink) = transport(process, &settings)?;
            let payments = point("executor", Payments::new(BuiltInGateway::new(pool.clone())));
            let rows = point("rows", PgRows::new(pool.clone()));
            let worker = External::new(rows, payments, source, sink, settings.clone());
            process.watch("payment", worker.run(process.stop.clone()));
            upkeep::of_worker(process, pool.clone(), settings).await?;
            serve_health(process, "payment", ready(process, pool), Router::new(), observed).await
        }
        Worker::Shipment => {
            let pool = database(process, "shipment_database_url", &amends_shipment::MIGRATOR).await?;
            let mut settings = tuned(process, amends_shipment::settings());
            settings.call_timeout = process.settings.shipment_call_timeout;
            let (source, sink) = transport(process, &settings)?;
            let shipments = point("executor", Shipments::new(BuiltInCarrier::new(pool.clone())));
            let rows = point("rows", PgRows::new(pool.clone()));
            let worker = External::new(rows, shipments, source, sink, settings.clone());
            process.watch("shipment", worker.run(process.stop.clone()));
            upkeep::of_worker(process, pool.clone(), settings).await?;
            serve_health(process, "shipment", ready(process, pool), Router::new(), observed).await
        }
        Worker::Notification => {
            let pool = database(process, "notification_database_url", &amends_notification::MIGRATOR).await?;
            let source =
                point("source", KafkaSource::subscribe(&process.kafka, "amends-notification", &TOPICS)?);
            let sink = point("sink", KafkaSink::new(&process.kafka)?);
            let mut recorder = Recorder::new(pool.clone(), source, sink);
            let stop = process.stop.clone();
            process.watch("notification", async move {
                let mut backoff = Backoff::default();
                while !stop.is_cancelled() {
                    let Err(error) = recorder.run_once().await else {
                        backoff.reset();
                        continue;
                    };
                    tracing::warn!(%error, "notification: trying again");
                    tokio::select! {
                        () = tokio::time::sleep(backoff.pause()) => {}
                        () = stop.cancelled() => {}
                    }
                }
            });
            serve_health(process, "notification", ready(process, pool), Router::new(), observed).await
        }
    }
}

fn tuned(process: &Process, mut settings: Settings) -> Settings {
    settings.horizon = process.settings.horizon;
    settings.lease = process.settings.call_lease;
    settings
}

fn transport(process: &Process, settings: &Settings) -> Result<(Point<KafkaSource>, Point<KafkaSink>)> {
    let group = format!("amends-{}", settings.name);
    let source = KafkaSource::subscribe(&process.kafka, &group, &[&settings.command_topic])?;
    Ok((point("source", source), point("sink", KafkaSink::new(&process.kafka)?)))
}

fn ready(process: &Process, pool: PgPool) -> health::Ready {
    health::Ready::database(pool).and(process.broker_ready())
}

async fn serve_health(
    process: &Process,
    name: &str,
    ready: health::Ready,
    routes: Router,
    observed: bool,
) -> Result<Option<SocketAddr>> {
    let Some(address) = process.settings.listen.filter(|_| observed) else { return Ok(None) };
    let listener = listen(address, process.settings.no_auth).await?;
    let address = listener.local_addr()?;
    tracing::info!("{name} works; listens on http://{address}");
    serve(process, listener, guarded(routes.merge(health::router(ready, process.metrics.clone()))));
    Ok(Some(address))
}
