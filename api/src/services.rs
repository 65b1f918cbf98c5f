//! The registry of services: the one list from which databases, topics, subcommands, settings and `amends dev` follow.
//!
//! A new participant is a folder of its own under `adapters/workers` and a line here.

use std::net::SocketAddr;

use amends_payment::{Payments, SandboxGateway};
use amends_shipment::{SandboxCarrier, Shipments};
use anyhow::{Result, bail};
use sqlx::migrate::Migrator;

use crate::{
    process::Process,
    worker::{self, StartWorker},
};

/// A service with a database of its own. Its database and the role that logs in there are called `amends_<name>`, the
/// settings that are its own `<name>_…`, a worker is started by `amends worker <name>` and takes `<name>.commands`.
pub struct Service {
    /// Its name: `payment`.
    pub name: &'static str,
    /// What its database is made of.
    pub migrator: &'static Migrator,
    /// The types of domain events that it publishes by itself; each is a topic.
    pub events: &'static [&'static str],
    /// Where it listens unless it is told otherwise; `None`: it serves nothing but health and metrics, on a free port.
    pub port: Option<u16>,
    /// What starts it; `None`: it is no worker.
    worker: Option<StartWorker>,
}

/// Every service of a deployment.
pub static SERVICES: [Service; 5] = [
    Service { name: "engine", migrator: &amends_postgres::MIGRATOR, events: &[], port: None, worker: None },
    Service {
        events: &[amends_inventory::events::TOPIC],
        port: Some(8081),
        ..worker("inventory", &amends_inventory::MIGRATOR, worker::inventory)
    },
    worker("payment", &amends_payment::MIGRATOR, worker::external::<Payments<SandboxGateway>>),
    worker("shipment", &amends_shipment::MIGRATOR, worker::external::<Shipments<SandboxCarrier>>),
    worker("notification", &amends_notification::MIGRATOR, worker::notification),
];

const fn worker(name: &'static str, migrator: &'static Migrator, start: StartWorker) -> Service {
    Service { name, migrator, events: &[], port: None, worker: Some(start) }
}

/// All workers, in the order in which `amends dev` starts them.
pub fn workers() -> impl Iterator<Item = &'static Service> {
    SERVICES.iter().filter(|service| service.worker.is_some())
}

/// The names of all services.
pub fn names() -> Vec<&'static str> {
    SERVICES.iter().map(|service| service.name).collect()
}

/// The worker of that name.
pub fn find_worker(name: &str) -> Option<&'static Service> {
    workers().find(|service| service.name == name)
}

impl Service {
    /// Starts it as a worker. With `observed`, or where it has something to serve, it listens; returns where.
    ///
    /// # Errors
    /// Its database, its broker or its address cannot be used; or it is no worker.
    pub async fn start(&'static self, process: &Process, observed: bool) -> Result<Option<SocketAddr>> {
        let Some(start) = self.worker else { bail!("{} is no worker", self.name) };
        worker::start(start, self.name, self.migrator, process, observed || self.port.is_some()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    #[test]
    fn every_participant_of_a_workflow_has_a_worker() {
        let settings = Settings::read(&names(), None, &[]).unwrap();
        for participant in amends_workflows::all(&settings.workflows()).participants() {
            assert!(find_worker(participant).is_some(), "{participant}");
        }
    }

    #[test]
    fn names_are_unique() {
        let mut all = names();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), SERVICES.len());
    }
}
