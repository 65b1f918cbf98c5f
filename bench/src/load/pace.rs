//! When sagas are started.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::ledger::Ledger;

/// How long an open loop rests between two looks at what is due.
const TICK: Duration = Duration::from_millis(1);

/// When sagas are started.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub enum Pace {
    /// A closed loop: this many sagas are under way; when one ends, the next starts.
    Closed(usize),
    /// An open loop: this many sagas are started a second, however many are under way.
    Open(f64),
}

/// Decides how many sagas to start now.
pub enum Pacer {
    /// As many as have ended.
    Closed(Arc<Ledger>),
    /// Those whose start is due.
    Open {
        /// When the first one starts.
        begun: Instant,
        /// Time between two starts.
        every: Duration,
        /// Number of sagas started.
        started: u32,
    },
}

impl Pace {
    /// A pace that starts now.
    pub fn begin(self, ledger: &Arc<Ledger>) -> Pacer {
        match self {
            Pace::Closed(places) => {
                ledger.set_free(places);
                Pacer::Closed(Arc::clone(ledger))
            }
            Pace::Open(rate) => {
                ledger.set_free(0);
                Pacer::Open { begun: Instant::now(), every: Duration::from_secs_f64(1.0 / rate), started: 0 }
            }
        }
    }
}

impl Pacer {
    /// When the next sagas begin (in an open loop: should have begun), at most so many; waits until there is one.
    pub async fn next(&mut self, most: usize) -> Vec<Instant> {
        match self {
            Pacer::Closed(ledger) => {
                let places = ledger.places(most).await;
                vec![Instant::now(); places]
            }
            Pacer::Open { begun, every, started } => loop {
                let now = Instant::now();
                let mut due = Vec::new();
                while due.len() < most && *begun + *every * *started <= now {
                    due.push(*begun + *every * *started);
                    *started += 1;
                }
                if !due.is_empty() {
                    return due;
                }
                tokio::time::sleep(TICK).await;
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_open_loop_counts_from_when_it_should_have_been() {
        let mut pacer = Pace::Open(1000.0).begin(&Arc::default());
        let first = pacer.next(1).await[0];
        tokio::time::sleep(Duration::from_millis(20)).await;
        let late = pacer.next(500).await;
        assert!(late.len() >= 19, "{}", late.len());
        assert!(late.windows(2).all(|two| two[1] - two[0] == Duration::from_millis(1)));
        assert_eq!(late[0] - first, Duration::from_millis(1));
    }
}
