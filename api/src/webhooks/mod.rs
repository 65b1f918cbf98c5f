//! Webhooks: which events go where (`types`), their planning by the publisher of domain events (`fan_out`), and their
//! delivery (`deliver`, with what is sent in `payload`). Routes are in `crate::routes`, the tables in `amends_orders`, and
//! a single attempt in `amends_webhooks`.

pub mod deliver;
pub mod fan_out;
mod payload;
pub mod request;
#[cfg(test)]
mod tests;
mod traces;
pub mod types;
pub mod view;

use std::{fs, sync::Arc, time::Duration};

use amends_orders::{OrderStore, webhook_deliveries::DeliveryStore, webhooks::WebhookStore};
use amends_pool::{Bounds, Pool};
use amends_postgres::{Database, Homes};
use amends_webhooks::{Reach, SealingKeys, Sender, SystemResolver};
use anyhow::{Context, Result};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::{
    problem::{Problem, problem_types},
    process::Process,
    settings::Settings,
};
use deliver::Deliverer;
use fan_out::FanOut;

/// Number of connections with which an engine plans and records deliveries.
const WEBHOOK_CONNECTIONS: u32 = 4;

/// What the api's handlers need for webhooks.
pub struct Webhooks {
    /// The webhooks.
    pub store: WebhookStore,
    /// Their deliveries.
    pub deliveries: DeliveryStore,
    /// The keys that seal secrets; `None`: no webhook can be created.
    keys: Option<Arc<SealingKeys>>,
    /// Where webhooks may go.
    pub reach: Reach,
    /// How long the previous secret signs too.
    pub overlap: Duration,
}

impl Webhooks {
    /// Creates it over these connections.
    pub fn new(pool: &Pool, keys: Option<Arc<SealingKeys>>, reach: Reach, overlap: Duration) -> Self {
        let (store, deliveries) = (WebhookStore::new(pool.clone()), DeliveryStore::new(pool.clone()));
        Self { store, deliveries, keys, reach, overlap }
    }

    /// Returns the keys that seal secrets.
    ///
    /// # Errors
    /// 409: there are none.
    pub fn keys(&self) -> Result<&SealingKeys, Problem> {
        self.keys.as_deref().ok_or_else(|| {
            let detail =
                "The setting webhook_key is not set, so no secret can be stored. Nothing was changed.";
            Problem::Refused(problem_types::WEBHOOKS_NOT_CONFIGURED, detail.to_owned())
        })
    }
}

/// Returns the place for which a webhook's secrets are sealed.
pub fn secret_place(webhook: Uuid) -> String {
    format!("webhook {webhook}")
}

/// Starts the delivery of webhooks in an engine; returns what plans deliveries, for its publisher.
///
/// # Errors
/// The database cannot be used, or a setting is invalid.
pub async fn start(process: &Process, homes: Homes) -> Result<FanOut> {
    let settings = &process.settings;
    let url = settings.database_of("engine")?;
    // Reads and writes for webhooks take no connection from sagas.
    let (name, bounds) = ("amends-engine-webhooks", Bounds::default());
    let own = Database::connect(url, WEBHOOK_CONNECTIONS, name, bounds, homes)?;
    let pool = own.pool.clone();
    process.watch_statements(&pool);
    let (webhooks, planned) = (WebhookStore::new(pool.clone()), Arc::new(Notify::new()));
    if let Some(keys) = settings.webhook_keys()? {
        deliver::reseal(&webhooks, &keys).await?;
        let sender = sender(settings)?;
        let deliverer = Deliverer {
            webhooks,
            deliveries: DeliveryStore::new(pool.clone()),
            orders: OrderStore::new(own),
            keys: Arc::new(keys),
            sender,
            policy: settings.webhook_retries(),
            planned: Arc::clone(&planned),
        };
        process.watch("webhooks", Arc::new(deliverer).run(process.stop.clone()));
    } else if !webhooks.subscriptions().await?.is_empty() {
        tracing::warn!("there are webhooks, and setting webhook_key is not set: nothing is delivered");
    }
    Ok(FanOut::new(&pool, planned))
}

/// Returns what sends webhooks.
fn sender(settings: &Settings) -> Result<Sender> {
    let (resolver, reach) = (Arc::new(SystemResolver), settings.webhook_reach());
    let Some(file) = &settings.webhook_ca_file else {
        return Sender::new(resolver, reach, settings.webhook_timeout)
            .context("creating an HTTP client for webhooks");
    };
    let pem =
        fs::read(file).with_context(|| format!("setting webhook_ca_file: reading {}", file.display()))?;
    Sender::trusting(resolver, reach, settings.webhook_timeout, &pem)
        .with_context(|| format!("setting webhook_ca_file: {}", file.display()))
}
