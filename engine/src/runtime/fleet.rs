//! Tracks what every live program of the deployment knows. Each program announces itself. A saga is born in a version,
//! and written by rules, that all live programs know.
//!
//! Correctness does not depend on this: a program that joins meanwhile and knows less passes over what it cannot judge.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use amends_protocol::transport::Sink;
use uuid::Uuid;

use super::{Engine, Error};
use crate::{
    core::{CORE_VERSION, Definition, Known},
    port::{Clock, SagaStore},
};

/// Interval between two announcements of a program.
pub const FLEET_HEARTBEAT: Duration = Duration::from_secs(2);
/// A program that has not announced itself for this long no longer counts as live.
const FLEET_LIVE: Duration = Duration::from_secs(10);

/// What every live program knows, as of the last announcement. Before the first: what this program knows.
#[derive(Debug, Clone)]
pub struct Fleet(Arc<FleetKnowledge>);

#[derive(Debug)]
struct FleetKnowledge {
    known: RwLock<Option<Known>>,
    core_version: AtomicU16,
}

impl Default for Fleet {
    fn default() -> Self {
        Self(Arc::new(FleetKnowledge {
            known: RwLock::default(),
            core_version: AtomicU16::new(CORE_VERSION),
        }))
    }
}

impl Fleet {
    fn hear(&self, known: Known) {
        self.0.core_version.store(known.core_version, Ordering::Relaxed);
        *self.0.known.write().unwrap_or_else(PoisonError::into_inner) = Some(known);
    }

    /// Returns the newest version of the rules that all live programs know.
    pub fn core_version(&self) -> u16 {
        self.0.core_version.load(Ordering::Relaxed)
    }

    /// Returns whether all live programs know a workflow in this version.
    fn knows(&self, definition: &Definition) -> bool {
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().is_none_or(|known| known.knows(definition.name, definition.version))
    }
}

impl<S, K, C> Engine<S, K, C> {
    /// Returns the version of a workflow in which new sagas are born: the newest that every live program knows. If
    /// there is none, the oldest that this program knows.
    pub fn born_in(&self, workflow: &str) -> Option<&Definition> {
        let versions = || self.catalog.iter().filter(|d| d.name == workflow);
        let known = versions().filter(|d| self.fleet.knows(d)).max_by_key(|d| d.version);
        known.or_else(|| versions().min_by_key(|d| d.version))
    }
}

/// Announces this program, and reads what the others know.
///
/// # Errors
/// The store's.
pub async fn run_once<S: SagaStore, K: Sink, C: Clock>(
    engine: &Engine<S, K, C>,
    program: Uuid,
) -> Result<(), Error> {
    let own = engine.known();
    let others = engine.store.announce(program, &own, FLEET_LIVE).await?;
    engine.fleet.hear(others.iter().fold(own, Known::common));
    Ok(())
}
