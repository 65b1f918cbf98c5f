//! All workflows of this program, each with its definition, its events and its participants.

use std::{collections::BTreeSet, time::Duration};

use amends_engine::core::{Catalog, Definition, Entry, UNKNOWN_PATIENCE};
use uuid::Uuid;

use crate::{
    events::{self, DomainEvent},
    order_fulfilment, order_refund, order_return,
};

/// Settings of the workflows.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// An order still `PENDING` after this time is cancelled automatically.
    pub pending_timeout: Duration,
    /// How long the engine keeps asking after an `unknown` answer before the saga parks.
    pub unknown_patience: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { pending_timeout: Duration::from_secs(15 * 60), unknown_patience: UNKNOWN_PATIENCE }
    }
}

/// A workflow in one version.
#[derive(Debug, Clone)]
pub struct Workflow {
    /// Its steps.
    pub definition: Definition,
    /// Every type of domain event that its sagas emit. Each has a topic of the same name.
    pub event_types: &'static [&'static str],
    /// Returns the types of the domain events of an entry, in order.
    pub events: fn(&Entry) -> Vec<&'static str>,
}

/// Every workflow, in every version that a saga may still have.
#[derive(Debug, Clone)]
pub struct Workflows(Vec<Workflow>);

/// Returns every workflow of this program. A new workflow or version is a file and a line here.
pub fn all(settings: &Settings) -> Workflows {
    let mut all = vec![
        Workflow {
            definition: order_fulfilment::definition(*settings),
            event_types: &order_fulfilment::events::TYPES,
            events: order_fulfilment::events::types,
        },
        Workflow {
            definition: order_return::definition(*settings),
            event_types: &order_return::events::TYPES,
            events: order_return::events::types,
        },
        Workflow {
            definition: order_refund::definition(*settings),
            event_types: &order_refund::events::TYPES,
            events: order_refund::events::types,
        },
    ];
    if cfg!(feature = "next") {
        let next = |known: &Workflow| {
            let definition = Definition { version: known.definition.version + 1, ..known.definition.clone() };
            Workflow { definition, ..known.clone() }
        };
        all.extend(all.iter().map(next).collect::<Vec<_>>());
    }
    Workflows(all)
}

/// Returns the definitions of [`all`].
pub fn catalog(settings: Settings) -> Catalog {
    all(&settings).catalog()
}

impl Workflows {
    /// Returns the definitions, for the engine.
    pub fn catalog(&self) -> Catalog {
        Catalog::new(self.0.iter().map(|workflow| workflow.definition.clone()).collect())
            .expect("a test checks that the definitions are sound")
    }

    /// Returns the newest version of a workflow.
    pub fn newest(&self, name: &str) -> Option<&Workflow> {
        self.0.iter().filter(|workflow| workflow.definition.name == name).max_by_key(|w| w.definition.version)
    }

    /// Returns the names of all workflows, each once.
    pub fn names(&self) -> BTreeSet<&'static str> {
        self.0.iter().map(|workflow| workflow.definition.name).collect()
    }

    /// Returns every participant of a step, each once.
    pub fn participants(&self) -> BTreeSet<&'static str> {
        self.0.iter().flat_map(|workflow| workflow.definition.participants()).collect()
    }

    /// Returns every type of domain event, each once.
    pub fn event_types(&self) -> BTreeSet<&'static str> {
        self.0.iter().flat_map(|workflow| workflow.event_types).copied().collect()
    }

    /// Returns the domain events of an entry; its order has had `before` others. For a version that this program does
    /// not have it returns none: another program publishes those.
    pub fn domain_events(
        &self,
        workflow: &str,
        version: u32,
        saga_id: Uuid,
        business_key: &str,
        entry: &Entry,
        before: u64,
    ) -> Vec<DomainEvent> {
        let types = self.types(workflow, version, entry);
        events::of_entry(workflow, &types, saga_id, business_key, entry, before)
    }

    /// Returns the number of domain events of an entry.
    pub fn event_count(&self, workflow: &str, version: u32, entry: &Entry) -> u64 {
        self.types(workflow, version, entry).len() as u64
    }

    fn types(&self, workflow: &str, version: u32, entry: &Entry) -> Vec<&'static str> {
        let same = |w: &&Workflow| (w.definition.name, w.definition.version) == (workflow, version);
        self.0.iter().find(same).map(|known| (known.events)(entry)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_definitions_are_sound() {
        assert_eq!(super::catalog(super::Settings::default()).iter().count(), 3);
    }
}
