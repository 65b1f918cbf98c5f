//! What orders cost in the logs, at the default level: lines and bytes that engine's store and workers write while they take
//! the orders of [`rows`](crate::rows) and [`workers`](crate::workers) from birth to end. An order to which nothing happens
//! but what should writes none.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::Result;
use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use crate::{
    Counts,
    rows::{BATCH, BATCHES},
};

/// The program's default, without the start of the guard's own server, and without statements that are slow where the machine is.
const FILTER: &str = "info,amends_embedded=off,amends_pool=off";

/// Counts what is logged from its creation on.
#[derive(Clone, Default)]
pub struct LogMeter(Arc<Written>);

#[derive(Default)]
struct Written {
    lines: AtomicU64,
    bytes: AtomicU64,
}

impl LogMeter {
    /// Starts counting.
    ///
    /// # Errors
    /// Something else logs already.
    pub fn start() -> Result<Self> {
        let meter = Self::default();
        let writer = meter.clone();
        let layer = fmt::layer().with_ansi(false).with_target(false).with_writer(move || writer.clone());
        tracing_subscriber::registry().with(EnvFilter::try_new(FILTER)?).with(layer).try_init()?;
        Ok(meter)
    }

    /// Returns the lines and bytes so far. All orders of the run have written them together.
    pub fn counts(&self) -> Counts {
        let orders = BATCHES * BATCH;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts::from([
            (format!("logs: lines of {orders} orders"), read(&self.0.lines)),
            (format!("logs: bytes of {orders} orders"), read(&self.0.bytes)),
        ])
    }
}

/// The formatter writes each line at once.
impl io::Write for LogMeter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lines.fetch_add(1, Ordering::Relaxed);
        self.0.bytes.fetch_add(line.len() as u64, Ordering::Relaxed);
        eprint!("{}", String::from_utf8_lossy(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
