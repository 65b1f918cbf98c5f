//! What was begun, what has ended, and when; and how each should end, for the books.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use uuid::Uuid;

/// Start and end of a saga.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// When it was (or, in an open loop, should have been) begun.
    pub from: Instant,
    /// When it had ended.
    pub to: Instant,
}

impl Span {
    /// The time between the two.
    pub fn long(&self) -> Duration {
        self.to.saturating_duration_since(self.from)
    }
}

/// All of a deployment's sagas. Keys are orders over HTTP, else sagas.
#[derive(Default)]
pub struct Ledger {
    free: AtomicUsize,
    freed: Notify,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    open: HashMap<Uuid, Instant>,
    /// Seen to end before the answer to its beginning was read.
    early: HashMap<Uuid, Instant>,
    ended: Vec<Span>,
    answers: Vec<Span>,
    reads: Vec<Span>,
    failures: BTreeMap<String, u64>,
    promised: Promised,
}

/// What was recorded of a row.
#[derive(Debug, Default)]
pub struct Recorded {
    /// Sagas that have ended.
    pub ended: Vec<Span>,
    /// Requests that began a saga, or should have.
    pub answers: Vec<Span>,
    /// Reads.
    pub reads: Vec<Span>,
    /// Requests that failed: why, and how often.
    pub failures: BTreeMap<String, u64>,
}

/// What the databases must contain in the end.
#[derive(Debug, Clone, Default)]
pub struct Promised {
    /// Number of sagas that were started and not refused.
    pub begun: u64,
    /// The sum of [`mark`] over their keys.
    pub marks: i64,
    /// How many should have which label at their end.
    pub labels: BTreeMap<&'static str, u64>,
}

/// A number by which many ids are compared at once: their last seven hexadecimal digits, which are random.
pub fn mark(id: Uuid) -> i64 {
    i64::try_from(id.as_u128() & 0x0fff_ffff).unwrap_or_default()
}

impl Ledger {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of sagas that may start now; each that ends adds one.
    pub fn set_free(&self, places: usize) {
        self.free.store(places, Ordering::SeqCst);
        self.freed.notify_one();
    }

    /// Takes up to `most` free places; waits until there is one.
    pub async fn places(&self, most: usize) -> usize {
        loop {
            let taken = self
                .free
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |free| Some(free - free.min(most)));
            match taken.map_or(0, |free| free.min(most)) {
                0 => self.freed.notified().await,
                places => return places,
            }
        }
    }

    fn release(&self) {
        self.free.fetch_add(1, Ordering::SeqCst);
        self.freed.notify_one();
    }

    /// Records that a saga was started at this time.
    pub fn begin(&self, key: Uuid, from: Instant) {
        let mut book = self.book();
        book.promised.begun += 1;
        book.promised.marks += mark(key);
        match book.early.remove(&key) {
            Some(to) => {
                book.ended.push(Span { from, to });
                drop(book);
                self.release();
            }
            None => {
                book.open.insert(key, from);
            }
        }
    }

    /// Records the label that the saga should end with.
    pub fn promise(&self, label: &'static str) {
        *self.book().promised.labels.entry(label).or_default() += 1;
    }

    /// Records that these sagas have ended. One that is not known is about to be recorded as started, or was reported twice.
    pub fn end(&self, keys: impl IntoIterator<Item = Uuid>, to: Instant) {
        let (mut book, mut ended) = (self.book(), 0);
        for key in keys {
            match book.open.remove(&key) {
                Some(from) => {
                    book.ended.push(Span { from, to });
                    ended += 1;
                }
                None => {
                    book.early.insert(key, to);
                }
            }
        }
        drop(book);
        self.free.fetch_add(ended, Ordering::SeqCst);
        self.freed.notify_one();
    }

    /// Records that the request was answered.
    pub fn answered(&self, from: Instant) {
        let to = Instant::now();
        self.book().answers.push(Span { from, to });
    }

    /// Records that a read was answered.
    pub fn read(&self, from: Instant) {
        let to = Instant::now();
        self.book().reads.push(Span { from, to });
    }

    /// Records that a read was not answered as it should be.
    pub fn missed(&self, why: String) {
        *self.book().failures.entry(why).or_default() += 1;
    }

    /// Records that the saga could not be started.
    pub fn failed(&self, why: String) {
        *self.book().failures.entry(why).or_default() += 1;
        self.release();
    }

    /// Number of sagas under way.
    pub fn open(&self) -> usize {
        self.book().open.len()
    }

    /// Number of sagas that have ended.
    pub fn ended(&self) -> usize {
        self.book().ended.len()
    }

    /// Waits until no saga is under way; returns how many still are when the time is over.
    pub async fn drained(&self, patience: Duration) -> usize {
        let begun = Instant::now();
        while self.open() > 0 && begun.elapsed() < patience {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.open()
    }

    /// Returns and clears what was recorded since the last call.
    pub fn take(&self) -> Recorded {
        let mut book = self.book();
        let book = &mut *book;
        Recorded {
            ended: std::mem::take(&mut book.ended),
            answers: std::mem::take(&mut book.answers),
            reads: std::mem::take(&mut book.reads),
            failures: std::mem::take(&mut book.failures),
        }
    }

    /// What the databases must contain now that no saga is under way.
    pub fn promised(&self) -> Promised {
        self.book().promised.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_that_is_seen_before_its_beginning_counts_once_and_frees_one_place() {
        let ledger = Ledger::default();
        ledger.set_free(1);
        assert_eq!(ledger.places(500).await, 1);
        let (key, now) = (Uuid::now_v7(), Instant::now());
        ledger.end([key], now);
        assert_eq!((ledger.open(), ledger.ended()), (0, 0));
        ledger.begin(key, now);
        assert_eq!((ledger.open(), ledger.ended()), (0, 1));
        ledger.end([key], now);
        assert_eq!(ledger.ended(), 1);
        assert_eq!(ledger.places(500).await, 1);
        assert_eq!((ledger.promised().begun, ledger.promised().marks), (1, mark(key)));
    }
}
