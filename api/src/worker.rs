//! Starts workers. What all workers of a kind share is here; the registry of services lists the workers.

use std::{net::SocketAddr, pin::Pin, sync::Arc};

use amends_inventory::{Inventory, events::Publisher};
use amends_kafka::{KafkaSink, KafkaSource};
use amends_notification::{Channel, OrderApi, Recorder, Sender, TOPICS, events as notification_events};
use amends_pool::Pool;
use amends_worker::{
    Backoff, External, ExternalExecutor, Participant, PgRows, PgTx, Settings, Transactional,
    TransactionalExecutor, accepted_keys,
};
use anyhow::{Result, bail};
use axum::{Router, middleware::from_fn_with_state};
use sqlx::migrate::Migrator;
use tokio::sync::Notify;

use crate::{
    failpoints::{Point, point},
    gateway::{ServiceToken, service_token},
    messages,
    process::{Process, bind, database, group, listen, serve},
    routes::health,
    upkeep,
};

/// Number of connections for the HTTP of a worker that serves its own routes.
const WORKER_HTTP_CONNECTIONS: u32 = 2;

/// What a worker is started with.
pub struct Start<'a> {
    /// The process of its loops.
    pub process: &'a Process,
    /// Its name in the registry.
    pub name: &'static str,
    /// Its database.
    pub pool: Pool,
}

/// Completes once the worker's loops run; returns the routes that it serves besides health.
pub type Starting<'a> = Pin<Box<dyn Future<Output = Result<Router>> + Send + 'a>>;

/// Starts the loops of a worker.
pub type StartWorker = for<'a> fn(Start<'a>) -> Starting<'a>;

/// Starts a worker and, if needed, its listener. Returns the listener's address.
///
/// # Errors
/// Its database, its broker or its address cannot be used.
pub async fn start(
    worker: StartWorker,
    name: &'static str,
    migrator: &Migrator,
    process: &Process,
    listens: Listens,
) -> Result<Option<SocketAddr>> {
    let pool = database(process, name, migrator).await?;
    let routes = worker(Start { process, name, pool: pool.clone() }).await?;
    let settings = &process.settings;
    let ready = health::Ready::database(&pool).and(process.broker_ready());
    if settings.metrics_listen.is_some() && listens != Listens::No {
        process.observe(ready.clone()).await?;
        if listens == Listens::ForHealth {
            return Ok(None);
        }
    }
    let Some(address) = settings.listen.filter(|_| listens != Listens::No) else { return Ok(None) };
    // Where metrics have their own address, what this one serves needs the service token.
    let has_tokens = settings.metrics_listen.is_some() && settings.service_token.is_some();
    let listener = if has_tokens { bind(address).await? } else { listen(address, settings.no_auth).await? };
    let address = listener.local_addr()?;
    tracing::info!(worker = name, %address, "the worker runs");
    serve(process, listener, routes.merge(health::router(ready, process.metrics_here())))?;
    Ok(Some(address))
}

/// Why a worker listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listens {
    /// It does not: other roles of its process serve health and metrics.
    No,
    /// For health and metrics.
    ForHealth,
    /// For its own routes too.
    ForItsRoutes,
}

/// Starts a worker whose effects are external calls.
pub fn external<E: ExternalExecutor + Participant + 'static>(start: Start<'_>) -> Starting<'_> {
    Box::pin(async move {
        let Start { process, name, pool } = start;
        let settings = tuned(process, name, E::settings(), &pool).await?;
        let (source, sink) = transport(process, &settings)?;
        let executor = point("executor", E::over(pool.clone()));
        let worker =
            External::new(point("rows", PgRows::new(pool.clone())), executor, source, sink, settings.clone());
        process.watch(name, worker.run(process.stop.clone()));
        upkeep::of_worker::<E>(process, pool, settings).await?;
        Ok(Router::new())
    })
}

/// Starts a worker whose effects are stored in its own database.
fn transactional<E: TransactionalExecutor<PgTx> + Participant + 'static>(
    start: Start<'_>,
    executor: E,
) -> Starting<'_> {
    Box::pin(async move {
        let Start { process, name, pool } = start;
        let settings = tuned(process, name, E::settings(), &pool).await?;
        let (source, sink) = transport(process, &settings)?;
        let executor = point("executor", executor);
        let rows = point("rows", PgRows::new(pool.clone()));
        let worker = Transactional::new(rows, executor, source, sink, settings.clone());
        process.watch(name, worker.run(process.stop.clone()));
        upkeep::of_worker::<E>(process, pool, settings).await?;
        Ok(Router::new())
    })
}

/// Starts the inventory worker: a transactional worker that also publishes and serves its stock.
pub fn inventory(start: Start<'_>) -> Starting<'_> {
    Box::pin(async move {
        let (process, name, pool) = (start.process, start.name, start.pool.clone());
        let cache = process.stock_cache.clone();
        let routes = transactional(start, Inventory::with_cache(cache.clone())).await?;
        let events = point("events", KafkaSink::of_events(&process.kafka)?);
        let publisher = Publisher::new(pool, events);
        process.watch(amends_inventory::events::TOPIC, publisher.run(process.stop.clone()));
        let http = http_connections(process, name)?;
        let stock = amends_inventory::router(http, WORKER_HTTP_CONNECTIONS, cache);
        Ok(routes.merge(for_the_api(process, stock)?))
    })
}

/// Returns the connections of a worker's HTTP, which does not use those of its loops.
fn http_connections(process: &Process, name: &str) -> Result<Pool> {
    let url = process.settings.database_of(name)?;
    let http = amends_pool::connect(url, WORKER_HTTP_CONNECTIONS, &format!("amends-{name}-http"))?;
    process.watch_statements(&http);
    Ok(http)
}

/// Serves routes to the api alone, which presents the service token. Without the setting everyone is served, if `no_auth`
/// says so, and only on a loopback address.
fn for_the_api(process: &Process, routes: Router) -> Result<Router> {
    let settings = &process.settings;
    let is_loopback = settings.listen.is_none_or(|address| address.ip().is_loopback());
    if settings.service_token.is_none() && !(settings.no_auth && is_loopback) {
        bail!(
            "setting service_token is needed, the same as the api's; --no-auth serves everyone without, on a loopback address"
        );
    }
    let token = ServiceToken::new(settings.service_token.as_ref());
    Ok(routes.route_layer(from_fn_with_state(token, service_token::required)))
}

/// Starts the notification worker, which reads domain events instead of commands. Recording them never waits for sending.
pub fn notification(start: Start<'_>) -> Starting<'_> {
    Box::pin(async move {
        let Start { process, name, pool } = start;
        let sending = messages::sending(&process.settings)?;
        messages::check_mail(&sending).await?;
        process.follow(messages::followed(&process.settings, &sending));
        let recorded = Arc::<Notify>::default();
        let source = KafkaSource::subscribe(&process.kafka, &group(name), &TOPICS)?;
        let mut recorder = Recorder::new(
            pool.clone(),
            point("source", source),
            point("sink", KafkaSink::new(&process.kafka)?),
            sending.open(),
            Arc::clone(&recorded),
        );
        let api = OrderApi::new(process.settings.url_of("api"), process.settings.service_token.clone())?;
        for channel in Channel::ALL {
            let loop_name = match channel {
                Channel::Email => "e-mails",
                Channel::Sms => "SMS",
            };
            let sender = Sender::new(pool.clone(), api.clone(), channel, &sending)?;
            process.watch(loop_name, sender.run(Arc::clone(&recorded), process.stop.clone()));
        }
        let events = point("events", KafkaSink::of_events(&process.kafka)?);
        let publisher = notification_events::Publisher::new(pool.clone(), events);
        process.watch(notification_events::SENT_TOPIC, publisher.run(process.stop.clone()));
        upkeep::of_notification(process, pool).await?;
        let routes = amends_notification::router(http_connections(process, name)?, WORKER_HTTP_CONNECTIONS);
        let routes = for_the_api(process, routes)?;
        let stop = process.stop.clone();
        process.watch(name, async move {
            let mut backoff = Backoff::default();
            while !stop.is_cancelled() {
                let Err(error) = recorder.run_once().await else {
                    backoff.reset();
                    continue;
                };
                tracing::warn!(%error, name, "the run failed and will be retried");
                tokio::select! {
                    () = tokio::time::sleep(backoff.pause()) => {}
                    () = stop.cancelled() => {}
                }
            }
        });
        Ok(routes)
    })
}

async fn tuned(process: &Process, name: &str, mut settings: Settings, pool: &Pool) -> Result<Settings> {
    settings.keys = accepted_keys(pool).await?;
    settings.require_signatures = process.settings.require_signatures;
    if settings.require_signatures && settings.keys.is_empty() {
        bail!("signatures are required, and the database of {name} has no keys: run `amends migrate`");
    }
    settings.horizon = process.settings.horizon;
    settings.retention = process.settings.retention;
    settings.lease = process.settings.call_lease;
    if let Some(call_timeout) = process.settings.call_timeout_of(name) {
        settings.call_timeout = call_timeout;
    }
    Ok(settings)
}

fn transport(process: &Process, settings: &Settings) -> Result<(Point<KafkaSource>, Point<KafkaSink>)> {
    let source = KafkaSource::subscribe(&process.kafka, &group(&settings.name), &[&settings.command_topic])?;
    Ok((point("source", source), point("sink", KafkaSink::new(&process.kafka)?)))
}
