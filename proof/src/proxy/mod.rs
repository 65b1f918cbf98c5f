//! A TCP proxy that can be slow, hang, cut connections, and lose the answer to a COMMIT.

mod postgres;
mod relay;

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::sleep_until,
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// What the proxy understands of the data that it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Nothing.
    Bytes,
    /// Postgres' messages, as far as needed to see where a transaction is committed.
    Postgres,
}

/// Where the connection is cut around a COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Around {
    /// Before the server receives it: nothing is committed.
    Before,
    /// After the server has committed, before its answer is passed on.
    After,
}

/// A proxy on a port of 127.0.0.1. When dropped, it ends with its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    control: Arc<Control>,
    _end: DropGuard,
}

/// The present behaviour of the proxy.
#[derive(Debug)]
struct Control {
    protocol: Protocol,
    upstream: Mutex<Option<SocketAddr>>,
    connections: Mutex<HashMap<u64, CancellationToken>>,
    refuses: AtomicBool,
    /// When connections were refused.
    refused: Mutex<Vec<Instant>>,
    hangs: AtomicBool,
    /// Connections that existed when this was last set carry nothing until then.
    silent_until: watch::Sender<tokio::time::Instant>,
    delay_ms: AtomicU64,
    /// Number of commits that are still to be lost, before or after.
    lose_before: AtomicU32,
    lose_after: AtomicU32,
    lost: AtomicU32,
}

impl Proxy {
    /// Listens on a free port; refuses connections until their destination is set.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn listen(protocol: Protocol) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let control = Arc::new(Control {
            protocol,
            upstream: Mutex::new(None),
            connections: Mutex::default(),
            refuses: AtomicBool::new(false),
            refused: Mutex::default(),
            hangs: AtomicBool::new(false),
            silent_until: watch::Sender::new(tokio::time::Instant::now()),
            delay_ms: AtomicU64::new(0),
            lose_before: AtomicU32::new(0),
            lose_after: AtomicU32::new(0),
            lost: AtomicU32::new(0),
        });
        let end = CancellationToken::new();
        tokio::spawn(accept(listener, Arc::clone(&control), end.clone()));
        Ok(Self { address, control, _end: end.drop_guard() })
    }

    /// Returns its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the destination of connections from now on.
    pub fn lead_to(&self, upstream: SocketAddr) {
        *lock(&self.control.upstream) = Some(upstream);
    }

    /// Cuts the connections for which `chosen` returns `true`, and returns their number.
    pub fn cut(&self, mut chosen: impl FnMut() -> bool) -> usize {
        let connections = lock(&self.control.connections);
        let cut: Vec<_> = connections.values().filter(|_| chosen()).collect();
        cut.iter().for_each(|connection| connection.cancel());
        cut.len()
    }

    /// Sets whether new connections are closed at once.
    pub fn refuse(&self, refuses: bool) {
        self.control.refuses.store(refuses, Ordering::Relaxed);
    }

    /// Returns when connections were refused so far: the attempts to reconnect.
    pub fn refused_at(&self) -> Vec<Instant> {
        lock(&self.control.refused).clone()
    }

    /// Sets whether nothing passes, in either direction, while connections stay open.
    pub fn hang(&self, hangs: bool) {
        self.control.hangs.store(hangs, Ordering::Relaxed);
    }

    /// Makes the existing connections silent for this time, in either direction, without an error for either side; new
    /// connections work. What was sent meanwhile arrives afterwards. Returns the number of connections.
    pub fn silence(&self, time: Duration) -> usize {
        self.control.silent_until.send_replace(tokio::time::Instant::now() + time);
        lock(&self.control.connections).len()
    }

    /// Sets the delay of all data, in either direction.
    pub fn slow(&self, delay: Duration) {
        self.control.delay_ms.store(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Loses the next `count` commits of writes, or their answers; 0 stops that.
    pub fn lose_commits(&self, count: u32, around: Around) {
        let left = match around {
            Around::Before => &self.control.lose_before,
            Around::After => &self.control.lose_after,
        };
        left.store(count, Ordering::Relaxed);
    }

    /// Returns how many commits, or answers to them, were lost so far.
    pub fn lost_commits(&self) -> u32 {
        self.control.lost.load(Ordering::Relaxed)
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.refuse(false);
        self.hang(false);
        self.slow(Duration::ZERO);
        self.lose_commits(0, Around::Before);
        self.lose_commits(0, Around::After);
    }
}

impl Control {
    /// Takes one of the commits that are to be lost.
    fn loses(&self, around: Around) -> bool {
        let left = match around {
            Around::Before => &self.lose_before,
            Around::After => &self.lose_after,
        };
        let one_less = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if one_less.is_ok() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        one_less.is_ok()
    }

    fn is_losing(&self, around: Around) -> bool {
        let left = match around {
            Around::Before => &self.lose_before,
            Around::After => &self.lose_after,
        };
        left.load(Ordering::Relaxed) > 0
    }

    /// Waits as long as a piece of data is delayed.
    async fn hold_up(&self) {
        let delay = self.delay_ms.load(Ordering::Relaxed);
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        while self.hangs.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, control: Arc<Control>, end: CancellationToken) {
    for number in 0_u64.. {
        let client = tokio::select! {
            accepted = listener.accept() => accepted,
            () = end.cancelled() => return,
        };
        let upstream = *lock(&control.upstream);
        let (Ok((client, _)), Some(upstream)) = (client, upstream) else { continue };
        if control.refuses.load(Ordering::Relaxed) {
            lock(&control.refused).push(Instant::now());
            continue;
        }
        let (control, cut) = (Arc::clone(&control), end.child_token());
        lock(&control.connections).insert(number, cut.clone());
        let silence = control.silent_until.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                () = unless_silent(carry(client, upstream, &control), silence) => {}
                () = cut.cancelled() => {}
            }
            lock(&control.connections).remove(&number);
        });
    }
}

/// Carries data, except during silences that begin from now on.
async fn unless_silent(
    carrying: impl Future<Output = ()>,
    mut silent_until: watch::Receiver<tokio::time::Instant>,
) {
    let mut carrying = pin!(carrying);
    loop {
        tokio::select! {
            biased;
            Ok(()) = silent_until.changed() => {
                let until = *silent_until.borrow_and_update();
                sleep_until(until).await;
            }
            () = &mut carrying => return,
        }
    }
}

async fn carry(client: TcpStream, upstream: SocketAddr, control: &Control) {
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    match control.protocol {
        Protocol::Bytes => relay::carry(client, server, control).await,
        Protocol::Postgres => postgres::carry(client, server, control).await,
    }
}
