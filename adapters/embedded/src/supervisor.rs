//! Runs a server process for as long as this process lives, and again when it ends unasked.
//!
//! One thread a server: it spawns, waits and spawns again. The kernel ties a child to the thread that spawned
//! it, so this thread must live as long as the server does, which a thread of tokio's pool does not promise.

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

/// A running server. Dropped, it ends the server at once.
#[derive(Debug)]
pub(crate) struct Supervisor {
    restart: Arc<AtomicBool>,
    phase: watch::Receiver<Phase>,
}

impl Supervisor {
    /// Starts the command in a thread of its own. It is started only once until [`Self::keep_alive`] is called.
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
                    // Whoever waits for the end may at once want what the closure holds.
                    drop(command);
                    phases.send_replace(Phase::Ended(end));
                    return;
                }
                tracing::warn!(server = name, end, "ended unasked, starting it again");
                thread::sleep(Duration::from_millis(200));
            }
        })?;
        Ok(Self { restart, phase })
    }

    /// From now on it is started again whenever it ends.
    pub(crate) fn keep_alive(&self) {
        self.restart.store(true, Ordering::SeqCst);
    }

    /// The process, if it runs now.
    pub(crate) fn pid(&self) -> Option<u32> {
        match *self.phase.borrow() {
            Phase::Running(pid) => Some(pid),
            Phase::Starting | Phase::Ended(_) => None,
        }
    }

    /// Waits until it has ended for good; says how.
    pub(crate) async fn ended(&self) -> String {
        let mut phase = self.phase.clone();
        let end = phase.wait_for(|phase| matches!(phase, Phase::Ended(_))).await;
        match end.as_deref() {
            Ok(Phase::Ended(end)) => end.clone(),
            _ => "its supervisor is gone".into(),
        }
    }

    /// Asks it to end, more firmly each time the patience runs out.
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
