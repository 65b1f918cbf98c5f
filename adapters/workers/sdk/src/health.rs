//! Whether a worker is ready: it has heard of its database and of its source, and both answered last time.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// A worker's readiness, shared with whoever serves `/health/ready`.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    database: AtomicBool,
    transport: AtomicBool,
}

/// What answered when it was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// The worker's database.
    pub database: bool,
    /// The transport: source and sink.
    pub transport: bool,
}

impl Readiness {
    /// Whether the worker can work.
    pub fn is_ready(self) -> bool {
        self.database && self.transport
    }
}

impl Health {
    /// What answered when it was last asked.
    pub fn readiness(&self) -> Readiness {
        Readiness {
            database: self.0.database.load(Ordering::Relaxed),
            transport: self.0.transport.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn database(&self, answers: bool) {
        self.0.database.store(answers, Ordering::Relaxed);
    }

    pub(crate) fn transport(&self, answers: bool) {
        self.0.transport.store(answers, Ordering::Relaxed);
    }
}
