//! A process: what its roles share, its loops, and its end.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use amends_http::{Limits, Rules, guarded};
use amends_inventory::cache::StockCache;
use amends_kafka::{
    Contact, KafkaSettings,
    topics::{self, Topic},
};
use amends_pool::{Bounds, Pool};
use amends_postgres::{
    Database, Homes,
    deployment::{Deployment, deployment},
};
use amends_redis::Redis;
use anyhow::{Context, Result, bail};
use axum::Router;
use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::ExposeSecret;
use sqlx::migrate::Migrator;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinError,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    links::{self, Pools},
    routes,
    secrets::{self, FollowedFile},
    settings::Settings,
    telemetry,
};

/// What every role of a process receives.
pub struct Process {
    pub settings: Settings,
    pub kafka: KafkaSettings,
    pub metrics: PrometheusHandle,
    /// The Redis of the settings.
    pub redis: Option<Redis>,
    /// The cache of stock that readers and writers of this process share.
    pub stock_cache: StockCache,
    /// Cancelled when the process must stop.
    pub stop: CancellationToken,
    /// The connections to databases.
    pools: Pools,
    /// Whether the broker answered the last check.
    broker: Arc<AtomicBool>,
    tasks: TaskTracker,
    /// A loop or a statement has failed for good.
    failed: Arc<AtomicBool>,
}

/// Interval between checks of the broker.
const BROKER_LOOK: Duration = Duration::from_secs(2);
/// How long a stopping process waits for its loops.
const STOP_GRACE: Duration = Duration::from_secs(20);

impl Process {
    /// Creates a process without a role.
    pub fn new(
        settings: Settings,
        kafka: KafkaSettings,
        metrics: PrometheusHandle,
        stop: CancellationToken,
    ) -> Result<Self> {
        let broker = Arc::new(AtomicBool::new(true));
        let redis = links::redis(&settings)?;
        let stock_cache = redis.clone().map_or(StockCache::Off, StockCache::in_redis);
        let process = Self {
            settings,
            kafka,
            metrics,
            redis,
            stock_cache,
            stop,
            pools: Pools::default(),
            broker,
            tasks: TaskTracker::new(),
            failed: Arc::default(),
        };
        let contact = Contact::new(&process.kafka)?;
        let (broker, stop) = (Arc::clone(&process.broker), process.stop.clone());
        process.watch("broker", async move {
            while !stop.is_cancelled() {
                broker.store(contact.check(BROKER_LOOK).await.is_ok(), Ordering::Relaxed);
                tokio::select! {
                    () = tokio::time::sleep(BROKER_LOOK) => {}
                    () = stop.cancelled() => {}
                }
            }
        });
        if let Some(export) = telemetry::traces(&process.settings) {
            process.watch("traces", export.run(process.stop.clone()));
        }
        let (kafka, redis) = (&process.kafka.credentials, process.redis.as_ref());
        process.follow(secrets::of_links(&process.settings, &process.pools, kafka, redis));
        let measuring =
            telemetry::measure(process.metrics.clone(), process.pools.clone(), process.stop.clone());
        process.watch("metrics", measuring);
        Ok(process)
    }

    /// Begins a separate process, once the broker answers and has the topics.
    pub async fn begin(
        settings: Settings,
        topics: &[Topic],
        metrics: PrometheusHandle,
        stop: CancellationToken,
    ) -> Result<Self> {
        let kafka = kafka(&settings, settings.brokers()?.to_owned());
        let checked = amends_kafka::check(&kafka, settings.start_timeout);
        within(&settings, "the broker", checked).await.context("setting kafka_brokers")?;
        topics::ensure(&kafka, topics, settings.start_timeout).await?;
        Self::new(settings, kafka, metrics, stop)
    }

    /// Begins a separate process without waiting for the broker: topics are created once the broker is available.
    pub fn begin_before_broker(
        settings: Settings,
        topics: Vec<Topic>,
        metrics: PrometheusHandle,
        stop: CancellationToken,
    ) -> Result<Self> {
        let kafka = kafka(&settings, settings.brokers()?.to_owned());
        let process = Self::new(settings, kafka, metrics, stop)?;
        let (kafka, patience, stop) =
            (process.kafka.clone(), process.settings.start_timeout, process.stop.clone());
        process.watch("topics", async move {
            let seen_to = async {
                let mut is_told = false;
                while let Err(error) = topics::ensure(&kafka, &topics, patience).await {
                    if !is_told {
                        tracing::warn!(%error, "starting without the broker; checking for it continues");
                        is_told = true;
                    }
                    tokio::time::sleep(BROKER_LOOK).await;
                }
                if is_told {
                    tracing::info!("the broker is available, with all topics");
                }
            };
            tokio::select! {
                () = seen_to => stop.cancelled().await,
                () = stop.cancelled() => {}
            }
        });
        Ok(process)
    }

    /// Serves health and metrics until the process stops: at their own address, or else at the role's.
    pub async fn observe(&self, ready: routes::health::Ready) -> Result<()> {
        let settings = &self.settings;
        let listener = match (settings.metrics_listen, settings.listen) {
            (Some(address), _) => bind(address).await.context("setting metrics_listen")?,
            (None, Some(address)) => listen(address, settings.no_auth).await?,
            (None, None) => return Ok(()),
        };
        tracing::info!(address = %listener.local_addr()?, "serving health and metrics");
        serve(self, listener, routes::health::router(ready, Some(self.metrics.clone())))
    }

    /// Returns the metrics for the role's own address; `None` if they have another.
    pub fn metrics_here(&self) -> Option<PrometheusHandle> {
        self.settings.metrics_listen.is_none().then(|| self.metrics.clone())
    }

    /// Runs a loop until the process stops. A loop that ends earlier is a bug and stops the process: after a restart
    /// the process recovers from its rows, but without the loop it would only seem to work.
    pub fn watch(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let (stop, failed) = (self.stop.clone(), Arc::clone(&self.failed));
        self.tasks.spawn(async move {
            let ended = tokio::spawn(work).await;
            // Only a runtime that shuts down cancels it, for example after a failed start.
            let shut_down = ended.as_ref().is_err_and(JoinError::is_cancelled);
            if !stop.is_cancelled() && !shut_down {
                let why = ended.err().map_or_else(|| "it ended".to_owned(), |e| e.to_string());
                tracing::error!(name, why, "a loop ended without being stopped; stopping the process");
                failed.store(true, Ordering::Relaxed);
                stop.cancel();
            }
        });
    }

    /// Follows files of secrets until the process stops.
    pub fn follow(&self, files: Vec<FollowedFile>) {
        self.watch("secrets", secrets::follow(files, self.stop.clone()));
    }

    /// Stops the process with a failure once the pool's database can never execute a statement: repeated, the statement
    /// would look like an endless outage. A database that was restored to an earlier state executes no write of a program
    /// that was started before. The pool's new connections follow a changed password.
    pub fn watch_statements(&self, pool: &Pool) {
        self.pools.add(pool);
        let (pool, stop, failed) = (pool.clone(), self.stop.clone(), Arc::clone(&self.failed));
        self.tasks.spawn(async move {
            tokio::select! {
                said = pool.program_fault() => {
                    tracing::error!(said, "the database can never execute a statement of this program; stopping");
                    failed.store(true, Ordering::Relaxed);
                    stop.cancel();
                }
                () = stop.cancelled() => {}
            }
        });
    }

    /// Returns the readiness check of the broker.
    pub fn broker_ready(&self) -> routes::health::Ready {
        let broker = Arc::clone(&self.broker);
        routes::health::Ready::asking(move || {
            let answers = broker.load(Ordering::Relaxed);
            let broker = if answers { Ok(()) } else { Err(amends_pool::Unwritable::Down) };
            async move { vec![("broker", broker)] }
        })
    }

    /// Waits, up to a limit, until all loops have ended; returns whether none had failed before the stop.
    pub async fn ended(&self) -> bool {
        self.tasks.close();
        if tokio::time::timeout(STOP_GRACE, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                seconds = STOP_GRACE.as_secs(),
                "some loops have not ended in time; their work continues from its rows"
            );
        }
        !self.failed.load(Ordering::Relaxed)
    }
}

/// The first signal stops the process in order, the second at once. Signals are received from this call on: before its
/// future is awaited for the first time, a signal would otherwise kill a process that has begun to work.
pub fn signalled(interrupted: CancellationToken) -> impl Future<Output = ()> {
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
            return tracing::error!("signals cannot be received");
        };
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        next().await;
        interrupted.cancel();
        next().await;
        std::process::exit(130);
    }
}

/// Returns the consumer group of a worker.
pub fn group(worker: &str) -> String {
    format!("amends-{worker}")
}

/// Returns the settings of Kafka's clients.
pub fn kafka(settings: &Settings, brokers: String) -> KafkaSettings {
    let mut properties = settings.kafka_security().properties();
    let given = settings.kafka_properties.iter();
    properties.extend(given.map(|(key, value)| (key.clone(), value.expose_secret().to_owned())));
    KafkaSettings {
        session_timeout: settings.session_timeout,
        fetch_wait: settings.fetch_wait,
        properties,
        ..KafkaSettings::new(brokers)
    }
}

/// Waits for something that a start needs, up to the limit of a start.
pub async fn within<T, E: std::error::Error + Send + Sync + 'static>(
    settings: &Settings,
    what: &'static str,
    asked: impl Future<Output = Result<T, E>>,
) -> Result<T> {
    let bound = settings.start_timeout + Duration::from_secs(1);
    tokio::time::timeout(bound, asked)
        .await
        .with_context(|| format!("{what} did not answer within {}s", settings.start_timeout.as_secs()))?
        .with_context(|| format!("{what} cannot be used"))
}

/// Returns a service's (or the api's) connections to its database, once the database answers and has this program's
/// schema.
pub async fn database(process: &Process, user: &str, migrator: &Migrator) -> Result<Pool> {
    let url = process.settings.database_of(user)?;
    let name = format!("amends-{user}");
    let pool = amends_pool::connect(url, process.settings.database_connections, &name)?;
    let checked = amends_pool::check(&pool, process.settings.start_timeout);
    let checked = within(&process.settings, "the database", checked).await;
    checked.with_context(|| format!("setting {}", process.settings.database_key_of(user)))?;
    amends_pool::is_at(&pool, migrator).await?;
    process.watch_statements(&pool);
    Ok(pool)
}

/// Returns the connections of the engine, or of the api, to the engine's database, and the deployment's properties. The
/// statements of a distributed database are planned in another way, and that is known only once the deployment is.
pub async fn engine_database(process: &Process, user: &str) -> Result<(Database, Deployment)> {
    let pool = database(process, user, &amends_postgres::MIGRATOR).await?;
    let deployment = deployment(&pool).await?;
    if deployment.is_suspended {
        bail!(
            "the database has lost commits that it had acknowledged (table lost_commits), and on_lost_commits is \
             \"stop\": look at the orders at risk, then run `amends restore`"
        );
    }
    let on_lost = process.settings.on_lost_commits.into();
    if deployment.homes == Homes::ONE {
        let database = Database::from(pool).in_epoch(deployment.epoch);
        database.watch_for_lost_commits(on_lost);
        return Ok((database, deployment));
    }
    pool.close().await;
    let (url, name) = (process.settings.database_of(user)?, format!("amends-{user}"));
    let connections = process.settings.database_connections;
    let database = Database::connect(url, connections, &name, Bounds::default(), deployment.homes)?;
    process.watch_statements(&database.pool);
    let database = database.in_epoch(deployment.epoch);
    database.watch_for_lost_commits(on_lost);
    Ok((database, deployment))
}

/// Listens on an address without tokens. It is an error if the address is taken, or if other machines can reach it and
/// `no_auth` is not set.
pub async fn listen(address: SocketAddr, no_auth: bool) -> Result<TcpListener> {
    if !address.ip().is_loopback() && !no_auth {
        bail!(
            "setting listen: {address} is not a loopback address, and this role has no tokens: add --no-auth to let anybody in"
        );
    }
    bind(address).await
}

/// Listens on an address.
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// Serves routes, by the rules of every HTTP edge, until the process stops.
///
/// # Errors
/// A setting about allowed callers is invalid.
pub fn serve(process: &Process, listener: TcpListener, routes: Router) -> Result<()> {
    let settings = &process.settings;
    let rules = Rules::new(listener.local_addr()?, &settings.allowed_hosts, &settings.cors_origins)?;
    let limits = Limits::new(settings.http_connections as usize);
    let serving = amends_http::serve(listener, guarded(routes, rules), limits, process.stop.clone());
    process.watch("listener", serving);
    Ok(())
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::services;

    fn process(stop: &CancellationToken) -> Process {
        let settings = Settings::read(&services::names(), None, &[]).unwrap();
        let kafka = kafka(&settings, "127.0.0.1:1".to_owned());
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        Process::new(settings, kafka, metrics, stop.clone()).unwrap()
    }

    #[tokio::test]
    async fn a_signal_that_comes_before_anything_waits_for_it_stops_the_process_in_order() {
        let interrupted = CancellationToken::new();
        let signalled = signalled(interrupted.clone());
        let own = std::process::id().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &own]).status().unwrap().success());
        let waiting = tokio::spawn(signalled);
        interrupted.cancelled().await;
        waiting.abort();
    }

    #[tokio::test]
    async fn a_loop_that_panics_or_ends_stops_the_process_with_a_failure() {
        let stop = CancellationToken::new();
        let panicking = process(&stop);
        panicking.watch("panics", async { panic!("as asked") });
        stop.cancelled().await;
        assert!(!panicking.ended().await);

        let stop = CancellationToken::new();
        let ending = process(&stop);
        ending.watch("ends", async {});
        stop.cancelled().await;
        assert!(!ending.ended().await);
    }
}
