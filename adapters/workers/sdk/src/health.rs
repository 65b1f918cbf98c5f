//! Readiness of a worker: its database and its source have both answered at the last request.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// A worker's readiness, shared with the server of `/health/ready`.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    database: AtomicBool,
    transport: AtomicBool,
}

/// Which parts answered at the last request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// The worker's database.
    pub database: bool,
    /// The transport: source and sink.
    pub transport: bool,
}

impl Readiness {
    /// Returns whether the worker can work.
    pub fn is_ready(self) -> bool {
        self.database && self.transport
    }
}

impl Health {
    /// Returns which parts answered at the last request.
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
