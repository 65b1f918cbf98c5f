//! Tracks what every live program of the deployment knows. Each program announces itself. A saga is born in a version,
//! and written by rules, that all live programs know.
//!
//! Correctness does not depend on this: a program that joins meanwhile and knows less passes over what it cannot judge.

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock,
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
/// A program whose own last announcement is older than this was cut off from the store, and so may the others have been:
/// their announcements may be too old as well. The rest of [`FLEET_LIVE`] is for what they announced before this
/// program, and for clocks that differ.
const FLEET_CUT_OFF: Duration = Duration::from_secs(5);

/// What every live program knows, as of the last announcement. Before the first: what this program knows.
#[derive(Debug, Clone)]
pub struct Fleet(Arc<FleetKnowledge>);

#[derive(Debug)]
struct FleetKnowledge {
    known: RwLock<Option<Known>>,
    core_version: AtomicU16,
    announced: Mutex<Announced>,
}

/// When this program announced itself, by its own clock.
#[derive(Debug, Default)]
struct Announced {
    last_at: Option<Duration>,
    /// Until then, programs that have not announced themselves again still count.
    grace_until: Option<Duration>,
}

impl Default for Fleet {
    fn default() -> Self {
        Self(Arc::new(FleetKnowledge {
            known: RwLock::default(),
            core_version: AtomicU16::new(CORE_VERSION),
            announced: Mutex::default(),
        }))
    }
}

impl Fleet {
    /// Records what all programs know that the store has seen recently. After this program was cut off from the store,
    /// what was known before holds on for as long as the others may need to announce themselves again.
    fn update(&self, mut known: Known, now: Duration) {
        let mut announced = self.0.announced.lock().unwrap_or_else(PoisonError::into_inner);
        if announced.last_at.replace(now).is_some_and(|at| now.saturating_sub(at) >= FLEET_CUT_OFF) {
            announced.grace_until = Some(now + FLEET_LIVE);
        }
        let has_grace = announced.grace_until.is_some_and(|until| now < until);
        let mut before = self.0.known.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = before.as_ref().filter(|_| has_grace) {
            known = known.common(before);
        }
        self.0.core_version.store(known.core_version, Ordering::Relaxed);
        *before = Some(known);
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
    engine.fleet.update(others.iter().fold(own, Known::common), engine.clock.monotonic());
    Ok(())
}
