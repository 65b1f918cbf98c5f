//! `amends api`: accepts orders over HTTP.

use std::{net::SocketAddr, sync::Arc};

use amends_engine::runtime::Engine;
use amends_orders::{OrderStore, answers::AnswerStore, products::ProductStore};
use amends_postgres::PgSagaStore;
use anyhow::{Context, Result, bail};
use reqwest::{Client, Url};
use tokio::{net::TcpListener, sync::Semaphore};

use crate::{
    auth::{Authenticator, Expected, KeyCache},
    clock::TokioClock,
    engine::command_sink,
    failpoints::point,
    fleet,
    gateway::{ServiceToken, Upstream},
    lists::{self, Lists},
    orders::{
        door::{Placing, door},
        watch::Watches,
    },
    participants::Participants,
    process::{Process, bind, engine_database, serve},
    routes::{self, Limits},
    state::Api,
    webhooks::Webhooks,
};

/// Starts it in a separate process; returns its address.
pub async fn start(process: &Process) -> Result<SocketAddr> {
    let address = process.settings.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080)));
    let auth = authenticator(process, address)?;
    serve_on(process, bind(address).await?, auth).await
}

/// Returns who is let in: callers with a token of the configured keys. Without keys everyone is, if `no_auth` says so,
/// and only on a loopback address.
fn authenticator(process: &Process, address: SocketAddr) -> Result<Authenticator> {
    let settings = &process.settings;
    let keys = match (&settings.jwks_url, &settings.jwt_key_file) {
        (Some(url), _) => KeyCache::of_url(Url::parse(url)?).context("setting jwks_url: no HTTP client")?,
        (None, Some(path)) => KeyCache::of_file(path.clone()).map_err(anyhow::Error::msg)?,
        (None, None) if !settings.no_auth => bail!(
            "setting jwks_url or jwt_key_file is needed to verify tokens; --no-auth lets everyone in without, on a loopback address"
        ),
        (None, None) if !address.ip().is_loopback() => bail!(
            "setting listen: {address} is not a loopback address, and --no-auth serves no other: set jwks_url or jwt_key_file"
        ),
        (None, None) => return Ok(Authenticator::without_keys()),
    };
    if settings.no_auth {
        tracing::warn!(
            "setting no_auth has no effect on the api: there are keys, so every request needs a token"
        );
    }
    let keys = Arc::new(keys);
    process.watch("token keys", Arc::clone(&keys).keep_fresh(process.stop.clone()));
    let (issuer, audience) = (settings.jwt_issuer.clone(), settings.jwt_audience.clone());
    let expected = Expected {
        issuer: issuer.context("setting jwt_issuer is needed")?,
        audience: audience.context("setting jwt_audience is needed")?,
        roles_claim: settings.roles_claim.clone(),
    };
    Ok(Authenticator::of_keys(keys, expected))
}

/// Starts it on a listener; returns its address.
pub async fn serve_on(process: &Process, listener: TcpListener, auth: Authenticator) -> Result<SocketAddr> {
    let settings = &process.settings;
    let (database, deployment) = engine_database(process, "api").await?;
    let pool = database.pool.clone();
    let workflows = amends_workflows::all(&settings.workflows());
    let (door, group_commit) = door(settings.admission);
    let engine = Arc::new(Engine {
        store: point("store", PgSagaStore::new(database.clone())),
        sink: point("sink", command_sink(&process.kafka, &pool).await?),
        clock: TokioClock::default(),
        catalog: workflows.catalog(),
        key: deployment.key,
        epoch: deployment.epoch,
        ownership: Default::default(),
        news: Default::default(),
        budget: Default::default(),
        recent: Default::default(),
        passed_over: Default::default(),
        fleet: Default::default(),
    });
    let participants = Participants::new(process.kafka.clone(), database.clone());
    let orders = OrderStore::new(database);
    let placing = Placing { engine: Arc::clone(&engine), orders: orders.clone() };
    fleet::join(process, &engine).await?;
    let order_lists =
        OrderStore::new(lists::order_connections(process, settings.database_of("api")?, deployment.homes)?);
    let watches = Arc::<Watches>::default();
    process.watch("watch of orders", Arc::clone(&watches).run(order_lists.clone(), process.stop.clone()));
    // The services are ours, and speak plain HTTP: no proxy from the environment, no certificates of the system.
    let http = Client::builder().no_proxy().tls_certs_only([]).build().context("creating an HTTP client")?;
    let service_token = ServiceToken::new(settings.service_token.as_ref());
    // Who holds tokens of this api is not one of its services: without a service token they have no entry then.
    let services = (service_token.is_set() || auth.verifies_nothing()).then_some(service_token.clone());
    let api = Arc::new(Api {
        auth: Arc::new(auth),
        engine,
        orders,
        order_lists,
        lists: Lists::connect(process, settings.database_of("api")?, deployment.homes)?,
        products: ProductStore::new(lists::product_connections(process, settings.database_of("api")?)?),
        webhooks: Webhooks::new(
            &lists::webhook_connections(process, settings.database_of("api")?)?,
            settings.webhook_keys()?.map(Arc::new),
            settings.webhook_reach(),
            settings.webhook_secret_overlap,
        ),
        answers: AnswerStore::new(lists::answer_connections(
            process,
            settings.database_of("api")?,
            deployment.homes,
        )?),
        participants,
        door,
        inventory: Upstream::new(
            "inventory",
            settings.url_of("inventory"),
            http.clone(),
            service_token.clone(),
        ),
        notification: Upstream::new(
            "notification",
            settings.url_of("notification"),
            http,
            service_token.clone(),
        ),
        stock_cache: process.stock_cache.clone(),
        waiting: Semaphore::new(routes::WAITING_MOST),
        watches: Arc::clone(&watches),
        streams: Arc::new(Semaphore::new(routes::STREAMS_MOST)),
        stop: process.stop.clone(),
        metrics: process.metrics_here(),
    });
    let address = listener.local_addr()?;
    if settings.metrics_listen.is_some() {
        process.observe(routes::health::Ready::api(Arc::clone(&api))).await?;
    }
    process.watch("placing of orders", group_commit.run(placing, process.stop.clone()));
    serve(process, listener, routes::router(api, Limits::of(process), services))?;
    Ok(address)
}
