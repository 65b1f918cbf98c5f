//! The embedded broker as a separate process, which is restarted when it ends.
//!
//! librdkafka's mock cluster has assertions about what clients send: one consumer with another assignor than its
//! group's aborts the process. So that process contains nothing else. The address stays the same, because this process
//! listens and passes each connection on.
//!
//! Messages contain customers' addresses, and a broker on loopback has no passwords. So only the user that runs it (and
//! root) may connect. That would be useless if the cluster's own port were open as well: its process gets its own
//! network namespace, where the kernel allows that; [`BrokerProcess::is_private`] returns whether it did.

use std::{
    collections::BTreeSet,
    fmt, fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{Command, Stdio},
    str::FromStr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    broker::{BrokerOptions, Error, Mock},
    handover, peer,
    supervisor::Supervisor,
    sys,
};

/// How long the process may take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// How long the process may take to start.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// Interval between checks whether it has started.
const START_POLL: Duration = Duration::from_millis(10);
/// Pause after a connection that could not be accepted: there may be no free descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The process' arguments: the port that clients use, and the topics. As text: `9092,commands:12,replies:12`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerPlan {
    port: u16,
    topics: Vec<(String, i32)>,
}

impl fmt::Display for BrokerPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.port)?;
        self.topics.iter().try_for_each(|(name, partitions)| write!(f, ",{name}:{partitions}"))
    }
}

impl FromStr for BrokerPlan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || format!("not a plan of a broker: {text}");
        let mut parts = text.split(',');
        let port = parts.next().and_then(|port| port.parse().ok()).ok_or_else(malformed)?;
        let topic = |part: &str| {
            let (name, partitions) = part.rsplit_once(':')?;
            Some((name.to_owned(), partitions.parse().ok()?))
        };
        let topics = parts.map(|part| topic(part).ok_or_else(malformed)).collect::<Result<_, _>>()?;
        Ok(Self { port, topics })
    }
}

/// A running broker. It loses its data when its process ends, and ends when dropped.
#[derive(Debug)]
pub struct BrokerProcess {
    port: u16,
    is_private: bool,
    over: Arc<AtomicBool>,
    supervisor: Supervisor,
}

impl BrokerProcess {
    /// Starts the process and waits until it serves. `command` is a program that calls [`serve`] with this plan; its
    /// standard input is a socket of ours.
    ///
    /// # Errors
    /// [`Error::Listen`], or [`Error::Start`] with the way in which the process ended.
    pub async fn start(
        options: BrokerOptions,
        topics: Vec<(String, i32)>,
        command: impl Fn(&BrokerPlan) -> Command + Send + 'static,
    ) -> Result<Self, Error> {
        let port = options.port.unwrap_or(0);
        let listen = || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = listen().map_err(|source| Error::Listen { port, source })?;
        let plan = BrokerPlan { port: address.port(), topics };
        let line = Line::default();
        let given = line.clone();
        let supervisor = Supervisor::start("broker", move || {
            let (us, them) = UnixStream::pair()?;
            us.set_nonblocking(true)?;
            let mut command = command(&plan);
            command.stdin(Stdio::from(OwnedFd::from(them)));
            // Its own process group: Ctrl-C in a terminal is for this process, which stops the broker last.
            command.process_group(0);
            sys::give_own_network(&mut command);
            *given.held() = Some(us);
            Ok(command)
        })
        .map_err(|error| Error::Start(error.to_string()))?;
        serves(&supervisor, &line).await?;
        let is_private = supervisor.pid().is_some_and(has_own_network);
        let over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&over);
        thread::Builder::new()
            .name("broker-door".into())
            .spawn(move || admit(&listener, &line, &stop))
            .map_err(|error| Error::Start(error.to_string()))?;
        supervisor.keep_alive();
        tracing::info!(brokers = %address, is_private, "the embedded Kafka broker is ready");
        Ok(Self { port: address.port(), is_private, over, supervisor })
    }

    /// Returns its address, for this process and others on this machine.
    pub fn bootstrap_servers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Ends the broker, and waits until its process has ended.
    pub async fn stop(self) {
        self.supervisor.stop(STOP_PATIENCE).await;
    }

    /// Returns whether no other user of this machine, except root, can read from it.
    pub fn is_private(&self) -> bool {
        self.is_private
    }
}

impl Drop for BrokerProcess {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for a connection.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

/// This process' end of the socket over which the present broker process receives its connections.
#[derive(Debug, Clone, Default)]
struct Line(Arc<Mutex<Option<UnixStream>>>);

impl Line {
    fn held(&self) -> MutexGuard<'_, Option<UnixStream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for the byte that says that the process serves.
async fn serves(supervisor: &Supervisor, line: &Line) -> Result<(), Error> {
    let begun = Instant::now();
    while begun.elapsed() < START_PATIENCE {
        if let Ok(end) = tokio::time::timeout(START_POLL, supervisor.ended()).await {
            return Err(Error::Start(end));
        }
        let said = line.held().as_mut().map(|line| line.read(&mut [0]));
        if let Some(Ok(1)) = said {
            return Ok(());
        }
    }
    Err(Error::Start(format!("it does not serve within {}s", START_PATIENCE.as_secs())))
}

/// Passes on the connections of this process' own user. While no broker process runs, connections are closed, and
/// clients reconnect.
fn admit(listener: &TcpListener, line: &Line, over: &AtomicBool) {
    let mut refused = BTreeSet::new();
    loop {
        let accepted = listener.accept();
        if over.load(Ordering::SeqCst) {
            return;
        }
        let Ok((client, _)) = accepted else {
            thread::sleep(ACCEPT_PAUSE);
            continue;
        };
        match peer::user_of(&client) {
            Ok(Some(user)) if user == 0 || user == sys::user() => {}
            Ok(None) => continue,
            Ok(Some(user)) => {
                if refused.insert(user) {
                    tracing::warn!(user, "another user of this machine was refused at the embedded broker");
                }
                continue;
            }
            // This system has no such table; `is_private` says so.
            Err(_) if cfg!(not(target_os = "linux")) => {}
            Err(error) => {
                tracing::warn!(%error, "refused a connection to the embedded broker: its user cannot be determined");
                continue;
            }
        }
        let _ = client.set_nodelay(true);
        let given = line.held().as_ref().map(|line| handover::give(line, &client));
        if let Some(Err(error)) = given {
            tracing::debug!(%error, "the embedded broker is not running; closed a connection");
        }
    }
}

fn has_own_network(pid: u32) -> bool {
    let network = |process: &str| fs::read_link(format!("/proc/{process}/ns/net"));
    match (network("self"), network(&pid.to_string())) {
        (Ok(ours), Ok(its)) => ours != its,
        _ => false,
    }
}

/// Runs a broker with these topics, in the broker's process. It serves the connections that arrive over standard input,
/// until that is closed.
///
/// # Errors
/// [`Error::Mock`]: the cluster could not be created. [`Error::Start`]: standard input is not such a socket.
pub fn serve(plan: &BrokerPlan) -> Result<(), Error> {
    let failed = |error: io::Error| Error::Start(error.to_string());
    let mock = Mock::start(plan.port)?;
    for (name, partitions) in &plan.topics {
        mock.create_topic(name, *partitions)?;
    }
    let line = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().map_err(failed)?);
    (&line).write_all(&[1]).map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_io().build();
    let runtime = runtime.map_err(failed)?;
    while let Some(client) = handover::take(&line).map_err(failed)? {
        runtime.spawn(forward(client, mock.address));
    }
    Ok(())
}

async fn forward(client: TcpStream, to: SocketAddr) -> io::Result<()> {
    client.set_nonblocking(true)?;
    let mut client = tokio::net::TcpStream::from_std(client)?;
    let mut server = tokio::net::TcpStream::connect(to).await?;
    server.set_nodelay(true)?;
    const PIPE_BUFFER: usize = 64 * 1024;
    tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, PIPE_BUFFER, PIPE_BUFFER)
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_as_it_was_written() {
        for topics in [vec![], vec![("saga.replies".to_owned(), 12), ("saga.replies.DLT".to_owned(), 1)]] {
            let plan = BrokerPlan { port: 9092, topics };
            assert_eq!(plan.to_string().parse(), Ok(plan));
        }
        for malformed in ["", "x", "9092,", "9092,words", "9092,words:many"] {
            assert!(malformed.parse::<BrokerPlan>().is_err(), "{malformed}");
        }
    }
}
