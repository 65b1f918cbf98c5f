//! `amends api`: takes orders over HTTP.

use std::{net::SocketAddr, sync::Arc};

use amends_engine::runtime::Engine;
use amends_kafka::KafkaSink;
use amends_orders::OrderStore;
use amends_postgres::{MIGRATOR, PgSagaStore, deployment::deployment};
use amends_workflows as workflows;
use anyhow::{Result, bail};
use tokio::net::TcpListener;

use super::{Process, database, listen, serve};
use crate::{
    clock::TokioClock,
    failpoints::point,
    orders::door::{door, fulfilment},
    routes,
    state::Api,
};

/// Starts it; answers where it listens.
pub async fn start(process: &Process, listener: Option<TcpListener>) -> Result<SocketAddr> {
    let settings = &process.settings;
    let listener = match (listener, settings.listen) {
        (Some(listener), _) => listener,
        (None, address) => {
            let address = address.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080)));
            listen(address, settings.no_auth).await?
        }
    };
    let pool = database(process, "api_database_url", &MIGRATOR).await?;
    let deployment = deployment(&pool).await?;
    let catalog = workflows::catalog(workflows::Settings { pending_timeout: settings.pending_timeout });
    let Some(fulfilment) = fulfilment(&catalog) else { bail!("no workflow for orders") };
    let (door, porter) = door(settings.admission);
    let api = Arc::new(Api {
        engine: Engine {
            store: point("store", PgSagaStore::new(pool.clone())),
            sink: point("sink", KafkaSink::new(&process.kafka)?),
            clock: TokioClock::default(),
            catalog,
            key: deployment.key,
            epoch: deployment.epoch,
            ownership: Default::default(),
            news: Default::default(),
            budget: Default::default(),
            recent: Default::default(),
        },
        orders: OrderStore::new(pool),
        door,
        fulfilment,
        inventory_url: settings.inventory_url.clone(),
        http: reqwest::Client::new(),
        metrics: process.metrics.clone(),
    });
    let address = listener.local_addr()?;
    process.watch("porter", porter.run(Arc::clone(&api), process.stop.clone()));
    serve(process, listener, routes::router(api));
    Ok(address)
}
