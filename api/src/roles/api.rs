//! `amends api`: accepts orders over HTTP.

use std::{net::SocketAddr, sync::Arc};

use amends_engine::runtime::{Engine, Epoch};
use amends_orders::OrderStore;
use amends_postgres::{MIGRATOR, PgSagaStore, deployment::deployment};
use anyhow::{Context, Result};
use tokio::net::TcpListener;

use crate::{
    clock::TokioClock,
    engine::command_sink,
    failpoints::point,
    fleet,
    lists::Lists,
    orders::door::{Placing, door},
    process::{Process, database, listen, serve},
    routes,
    state::Api,
};

/// Starts it; returns its address.
pub async fn start(process: &Process, listener: Option<TcpListener>) -> Result<SocketAddr> {
    let settings = &process.settings;
    let listener = match (listener, settings.listen) {
        (Some(listener), _) => listener,
        (None, address) => {
            let address = address.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080)));
            listen(address, settings.no_auth).await?
        }
    };
    let pool = database(process, "api", &MIGRATOR).await?;
    let deployment = deployment(&pool).await?;
    let workflows = amends_workflows::all(&settings.workflows());
    let (door, group_commit) = door(settings.admission);
    let engine = Arc::new(Engine {
        store: point("store", PgSagaStore::new(pool.clone())),
        sink: point("sink", command_sink(&process.kafka, &pool).await?),
        clock: TokioClock::default(),
        catalog: workflows.catalog(),
        key: deployment.key,
        epoch: Epoch::new(deployment.epoch),
        ownership: Default::default(),
        news: Default::default(),
        budget: Default::default(),
        recent: Default::default(),
        passed_over: Default::default(),
        fleet: Default::default(),
    });
    let orders = OrderStore::new(pool);
    let placing = Placing { engine: Arc::clone(&engine), orders: orders.clone() };
    fleet::join(process, &engine).await?;
    let api = Arc::new(Api {
        engine,
        orders,
        lists: Lists::connect(process, settings.database_of("api")?)?,
        door,
        inventory_url: settings.url_of("inventory").to_owned(),
        // The worker is ours: a proxy from the environment must not be used.
        http: reqwest::Client::builder().no_proxy().build().context("creating an HTTP client")?,
        metrics: process.metrics.clone(),
    });
    let address = listener.local_addr()?;
    process.watch("placing of orders", group_commit.run(placing, process.stop.clone()));
    serve(process, listener, routes::router(api))?;
    Ok(address)
}
