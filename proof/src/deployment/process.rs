//! A role as a process: it can be started, probed for readiness, frozen, thawed, stopped and killed.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::Error;

/// How long a role may take to become ready on a busy machine.
const READY: Duration = Duration::from_secs(60);

/// A running role. It is killed when dropped.
#[derive(Debug)]
pub struct Process {
    /// Its address.
    pub address: SocketAddr,
    /// Its role, as on the command line.
    pub role: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    pub(crate) fn spawn(
        mut command: Command,
        role: &[&str],
        address: SocketAddr,
        logs: &Path,
    ) -> Result<Self, Error> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let log = logs.join(format!("{}-{count}.log", role.join("-")));
        let file = File::create(&log).map_err(Error::io(format!("making {}", log.display())))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let child = command.spawn().map_err(Error::io(format!("starting {}", role.join(" "))))?;
        Ok(Self { address, role: role.join(" "), child, log })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it is ready.
    pub async fn ready(&mut self) -> Result<(), Error> {
        let begun = Instant::now();
        let not_ready = |role: &Process, why: String| Error::NotReady {
            role: role.role.clone(),
            why: format!("{why}; {}", role.last_log_lines()),
        };
        let http = reqwest::Client::builder().no_proxy().build().expect("a client without TLS");
        loop {
            let asked = http.get(format!("http://{}/health/ready", self.address)).send().await;
            if asked.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(not_ready(self, format!("it ended with {status}")));
            }
            if begun.elapsed() > READY {
                return Err(not_ready(self, format!("not within {READY:?}")));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Returns whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGSTOP: it does nothing until it is thawed.
    pub fn freeze(&self) {
        self.send(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.send(Signal::CONT);
    }

    /// SIGTERM; waits until it has ended, and returns how long that took. It is killed after 30 s.
    pub async fn stop(mut self) -> Duration {
        let begun = Instant::now();
        self.send(Signal::TERM);
        while self.is_running() && begun.elapsed() < Duration::from_secs(30) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        begun.elapsed()
    }

    /// kill -9; waits until it has ended.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Returns the last lines of its log.
    pub fn last_log_lines(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("; ")
    }

    fn send(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // A process that has ended needs no signal.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
