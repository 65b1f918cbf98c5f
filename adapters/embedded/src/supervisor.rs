//! Runs a server process as long as this process lives, and restarts it when it ends unexpectedly.
//!
//! There is one thread per server: it spawns the process, waits for its end, and spawns it again. The kernel ties a
//! child to the thread that spawned it, so this thread must live as long as the server; a thread of tokio's pool does
//! not guarantee that.

use std::{
    io,
    process::{Command, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::sync::watch;

use crate::sys::{self, Signal};

#[derive(Debug, Clone)]
enum Phase {
    Starting,
    Running(u32),
    Ended(String),
}

/// A running server. Dropping it ends the server at once.
#[derive(Debug)]
pub(crate) struct Supervisor {
    restart: Arc<AtomicBool>,
    phase: watch::Receiver<Phase>,
}

impl Supervisor {
    /// Starts the command in its own thread. It is not restarted until [`Self::keep_alive`] is called.
    pub(crate) fn start(
        name: &'static str,
        mut command: impl FnMut() -> io::Result<Command> + Send + 'static,
    ) -> io::Result<Self> {
        let (phases, phase) = watch::channel(Phase::Starting);
        let restart = Arc::new(AtomicBool::new(false));
        let again = restart.clone();
        thread::Builder::new().name(format!("{name}-supervisor")).spawn(move || {
            loop {
                let end = match run_once(&mut command, &phases) {
                    Ok(status) => status.to_string(),
                    Err(error) => error.to_string(),
                };
                if !again.load(Ordering::SeqCst) {
                    // A caller that waits for the end may at once need what the closure holds.
                    drop(command);
                    phases.send_replace(Phase::Ended(end));
                    return;
                }
                tracing::warn!(server = name, end, "the server ended unexpectedly; restarting it");
                thread::sleep(Duration::from_millis(200));
            }
        })?;
        Ok(Self { restart, phase })
    }

    /// From now on restarts the server whenever it ends.
    pub(crate) fn keep_alive(&self) {
        self.restart.store(true, Ordering::SeqCst);
    }

    /// Returns the process id, if the process runs now.
    pub(crate) fn pid(&self) -> Option<u32> {
        match *self.phase.borrow() {
            Phase::Running(pid) => Some(pid),
            Phase::Starting | Phase::Ended(_) => None,
        }
    }

    /// Waits until the server has ended for good; returns how.
    pub(crate) async fn ended(&self) -> String {
        let mut phase = self.phase.clone();
        let end = phase.wait_for(|phase| matches!(phase, Phase::Ended(_))).await;
        match end.as_deref() {
            Ok(Phase::Ended(end)) => end.clone(),
            _ => "its supervisor is gone".into(),
        }
    }

    /// Asks the server to end, more firmly each time the patience runs out.
    pub(crate) async fn stop(&self, patience: Duration) {
        self.restart.store(false, Ordering::SeqCst);
        for signal in [Signal::Interrupt, Signal::Quit, Signal::Kill] {
            self.send(signal);
            if tokio::time::timeout(patience, self.ended()).await.is_ok() {
                return;
            }
        }
    }

    fn send(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            sys::signal(pid, signal);
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.restart.store(false, Ordering::SeqCst);
        self.send(Signal::Quit);
    }
}

fn run_once(
    command: &mut impl FnMut() -> io::Result<Command>,
    phases: &watch::Sender<Phase>,
) -> io::Result<ExitStatus> {
    let mut command = command()?;
    sys::die_with_spawner(&mut command, Signal::Quit);
    let started = command.spawn();
    let mut child = started.map_err(|error| {
        io::Error::new(error.kind(), format!("starting {}: {error}", command.get_program().display()))
    })?;
    phases.send_replace(Phase::Running(child.id()));
    let end = child.wait();
    phases.send_replace(Phase::Starting);
    end
}
