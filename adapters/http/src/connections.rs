//! The connections of a listener, with the phase of each, so that the right one is closed when there are too many, or
//! when one is silent for too long.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// The phase of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Open; nothing received yet.
    Opened,
    /// The head of a request is arriving.
    Head,
    /// The body of a request is arriving.
    Body,
    /// A request is being answered.
    Answering,
    /// Answered, and kept for the next request.
    Idle,
}

impl Phase {
    fn of(number: u8) -> Self {
        match number {
            0 => Self::Opened,
            1 => Self::Head,
            2 => Self::Body,
            3 => Self::Answering,
            _ => Self::Idle,
        }
    }

    /// Returns whether a request is expected that has not arrived completely.
    fn is_half_sent(self) -> bool {
        matches!(self, Self::Opened | Self::Head | Self::Body)
    }
}

/// One connection.
pub(crate) struct Connection {
    phase: AtomicU8,
    /// Start of the phase, in milliseconds since the listener began.
    since: AtomicU64,
    began: Instant,
    is_closing: AtomicBool,
    close: Notify,
}

impl Connection {
    fn new(began: Instant) -> Self {
        let connection = Self {
            phase: AtomicU8::new(0),
            since: AtomicU64::new(0),
            began,
            is_closing: AtomicBool::new(false),
            close: Notify::new(),
        };
        connection.enter(Phase::Opened);
        connection
    }

    pub(crate) fn enter(&self, phase: Phase) {
        let since = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since.store(since, Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub(crate) fn phase(&self) -> Phase {
        Phase::of(self.phase.load(Ordering::Relaxed))
    }

    fn since(&self) -> Duration {
        Duration::from_millis(self.since.load(Ordering::Relaxed))
    }

    /// Records that bytes were received.
    pub(crate) fn received(&self) {
        if matches!(self.phase(), Phase::Opened | Phase::Idle) {
            self.enter(Phase::Head);
        }
    }

    /// Completes when the connection must be closed.
    pub(crate) async fn closing(&self) {
        self.close.notified().await;
    }

    fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::Relaxed)
    }

    fn close(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
        self.close.notify_one();
    }
}

/// How long the newest connection is spared while all others are being answered.
const NEWEST_SPARED: Duration = Duration::from_secs(1);

/// All connections of a listener.
pub(crate) struct Connections {
    began: Instant,
    most: usize,
    open: Mutex<HashMap<u64, Arc<Connection>>>,
    next: AtomicU64,
    ended: Notify,
}

/// A connection as long as it is open.
pub(crate) struct Open {
    pub(crate) connection: Arc<Connection>,
    number: u64,
    all: Arc<Connections>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.all.locked().remove(&self.number);
        self.all.ended.notify_one();
    }
}

impl Connections {
    /// Allows `most` connections, and one more, which is accepted to find out which one to close.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            most,
            open: Mutex::default(),
            next: AtomicU64::default(),
            ended: Notify::new(),
        })
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn opened(self: &Arc<Self>) -> Open {
        let connection = Arc::new(Connection::new(self.began));
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.locked().insert(number, Arc::clone(&connection));
        Open { connection, number, all: Arc::clone(self) }
    }

    /// Returns whether one more may be accepted.
    pub(crate) fn has_room(&self) -> bool {
        self.locked().len() <= self.most
    }

    /// Completes after a connection has ended.
    pub(crate) async fn one_ended(&self) {
        self.ended.notified().await;
    }

    /// If there are too many connections, closes the oldest half-sent one, or else the one that has been idle longest.
    /// It leaves those that are being answered alone, and gives the newest a moment to send its request.
    pub(crate) fn make_room(&self) {
        let open = self.locked();
        if open.values().filter(|c| !c.is_closing()).count() <= self.most {
            return;
        }
        let (newest, now) = (self.next.load(Ordering::Relaxed).wrapping_sub(1), self.began.elapsed());
        let candidates = open.iter().filter_map(|(number, connection)| {
            let (phase, since) = (connection.phase(), connection.since());
            let is_new = *number == newest && now.saturating_sub(since) < NEWEST_SPARED;
            let is_spared = connection.is_closing() || phase == Phase::Answering || is_new;
            (!is_spared).then_some((!phase.is_half_sent(), since, connection))
        });
        if let Some((_, _, oldest)) = candidates.min_by_key(|(is_whole, since, _)| (*is_whole, *since)) {
            oldest.close();
        }
    }

    /// Closes connections on which a request's head has not arrived for too long, and those idle for too long.
    pub(crate) fn sweep(&self, head: Duration, idle: Duration) {
        let now = self.began.elapsed();
        for connection in self.locked().values().filter(|c| !c.is_closing()) {
            let longest = match connection.phase() {
                Phase::Opened | Phase::Head => head,
                Phase::Idle => idle,
                Phase::Body | Phase::Answering => continue,
            };
            if now.saturating_sub(connection.since()) > longest {
                connection.close();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(connections: &[Open]) -> Vec<usize> {
        let closing = connections.iter().enumerate().filter(|(_, open)| open.connection.is_closing());
        closing.map(|(n, _)| n).collect()
    }

    /// Opens connections in these phases, each beginning one millisecond after the previous.
    fn opened(all: &Arc<Connections>, phases: &[Phase]) -> Vec<Open> {
        let open = |(since, phase): (usize, &Phase)| {
            let open = all.opened();
            open.connection.enter(*phase);
            open.connection.since.store(since as u64, Ordering::Relaxed);
            open
        };
        phases.iter().enumerate().map(open).collect()
    }

    #[test]
    fn the_oldest_half_sent_one_makes_room_and_then_the_longest_idle_one() {
        let all = Connections::new(4);
        let phases = [Phase::Answering, Phase::Idle, Phase::Idle, Phase::Body, Phase::Opened];
        let mut open = opened(&all, &phases);
        assert!(!all.has_room());
        all.make_room();
        assert_eq!(closed(&open), [3], "the oldest that is half sent");
        all.make_room();
        assert_eq!(closed(&open), [3], "there is room once it has ended");
        open.remove(3);
        assert!(all.has_room());
        open.extend(opened(&all, &[Phase::Answering]));
        open[3].connection.enter(Phase::Answering);
        all.make_room();
        assert_eq!(closed(&open), [1], "none is half sent: the one that has been idle longest");
    }

    #[test]
    fn those_that_are_answered_are_left_alone() {
        let all = Connections::new(1);
        let open = opened(&all, &[Phase::Answering, Phase::Answering]);
        all.make_room();
        all.sweep(Duration::ZERO, Duration::ZERO);
        assert_eq!(closed(&open), Vec::<usize>::new());
    }
}
