//! The registry of services: the one list from which databases, topics, subcommands, settings and `amends dev` are
//! derived.
//!
//! A new participant is a folder under `adapters/workers` and a line here.

use std::net::SocketAddr;

use amends_payment::{Payments, SandboxGateway};
use amends_shipment::{SandboxCarrier, Shipments};
use anyhow::{Result, bail};
use sqlx::migrate::Migrator;

use crate::{
    process::Process,
    worker::{self, Listens, StartWorker},
};

/// A service with its own database. The database and its login role are called `amends_<name>`, its settings begin with
/// `<name>_`, and a worker is started by `amends worker <name>` and reads `<name>.commands`.
pub struct Service {
    /// Its name: `payment`.
    pub name: &'static str,
    /// The migrations of its database.
    pub migrator: &'static Migrator,
    /// The types of domain events that it publishes itself; each is a topic.
    pub events: &'static [&'static str],
    /// The types of domain events that it reads.
    pub reads: &'static [&'static str],
    /// Its default port; `None`: it serves only health and metrics, on a free port.
    pub port: Option<u16>,
    /// Starts its loops; `None`: it is not a worker.
    worker: Option<StartWorker>,
}

/// Every service of a deployment.
pub static SERVICES: &[Service] = &[
    Service {
        name: "engine",
        migrator: &amends_postgres::MIGRATOR,
        events: &[],
        reads: &[],
        port: None,
        worker: None,
    },
    Service {
        events: &[amends_inventory::events::TOPIC],
        port: Some(8081),
        ..worker("inventory", &amends_inventory::MIGRATOR, worker::inventory)
    },
    worker("payment", &amends_payment::MIGRATOR, worker::external::<Payments<SandboxGateway>>),
    worker("shipment", &amends_shipment::MIGRATOR, worker::external::<Shipments<SandboxCarrier>>),
    Service {
        events: &[amends_notification::events::SENT_TOPIC],
        port: Some(8082),
        reads: &amends_notification::TOPICS,
        ..worker("notification", &amends_notification::MIGRATOR, worker::notification)
    },
];

const fn worker(name: &'static str, migrator: &'static Migrator, start: StartWorker) -> Service {
    Service { name, migrator, events: &[], reads: &[], port: None, worker: Some(start) }
}

/// Returns all workers, in the order in which `amends dev` starts them.
pub fn workers() -> impl Iterator<Item = &'static Service> {
    SERVICES.iter().filter(|service| service.worker.is_some())
}

/// Returns the workers that execute commands: the participants of workflows.
pub fn participants() -> impl Iterator<Item = &'static Service> {
    workers().filter(|service| service.executes_commands())
}

/// Returns the services that serve routes of their own beside health and metrics, to the api.
pub fn listening() -> impl Iterator<Item = &'static Service> {
    SERVICES.iter().filter(|service| service.port.is_some())
}

/// Returns the names of all services.
pub fn names() -> Vec<&'static str> {
    SERVICES.iter().map(|service| service.name).collect()
}

/// Returns the worker with this name.
pub fn find_worker(name: &str) -> Option<&'static Service> {
    workers().find(|service| service.name == name)
}

impl Service {
    /// Returns whether it executes commands. A worker that reads domain events does not.
    pub fn executes_commands(&self) -> bool {
        self.worker.is_some() && self.reads.is_empty()
    }

    /// Starts it as a worker. With `observed`, or if it serves its own routes, it listens; returns the address.
    ///
    /// # Errors
    /// Its database, its broker or its address cannot be used; or it is not a worker.
    pub async fn start(&'static self, process: &Process, observed: bool) -> Result<Option<SocketAddr>> {
        let Some(start) = self.worker else { bail!("{} is no worker", self.name) };
        let listens = match (self.port, observed) {
            (Some(_), _) => Listens::ForItsRoutes,
            (None, true) => Listens::ForHealth,
            (None, false) => Listens::No,
        };
        worker::start(start, self.name, self.migrator, process, listens).await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::settings::Settings;

    #[test]
    fn the_workers_that_execute_commands_are_the_participants_of_the_workflows() {
        let settings = Settings::read(&names(), None, &[]).unwrap();
        let named: BTreeSet<_> =
            amends_workflows::all(&settings.workflows()).participants().into_iter().collect();
        assert_eq!(participants().map(|service| service.name).collect::<BTreeSet<_>>(), named);
    }

    #[test]
    fn every_event_that_a_worker_reads_is_published() {
        let settings = Settings::read(&names(), None, &[]).unwrap();
        let of_workflows = amends_workflows::all(&settings.workflows()).event_types();
        for event in SERVICES.iter().flat_map(|service| service.reads) {
            let is_published = SERVICES.iter().any(|service| service.events.contains(event));
            assert!(is_published || of_workflows.contains(event), "{event}");
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
