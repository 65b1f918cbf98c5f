//! Leaves out log lines that repeat others: of a line that is written again and again, the first few of each period pass, and
//! then one line says how many were left out.
//!
//! A *line* here is a place in the source: two lines of the same place differ in ids and errors, and an outage writes
//! hundreds of them a second. What happened to each saga is in its timeline. Lines below the level INFO are never left
//! out: who turns them on wants them all.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tracing::{
    Event, Level, Subscriber,
    callsite::Identifier,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

/// How long lines of a place are counted together.
const REPEAT_PERIOD: Duration = Duration::from_secs(10);
/// Lines of a place that pass in a period.
const REPEATS_SHOWN: u32 = 10;
/// Interval between looks for periods that are over.
const REPEAT_LOOK: Duration = Duration::from_secs(1);
/// The longest text of a line that is repeated.
const TEXT_LONGEST: usize = 200;
/// Lines that other libraries write by the `log` crate have one place for all; they are not counted.
const OF_LOG_CRATE: &str = "log event";

/// The layer that leaves lines out for all others. Its clones share what they have counted.
#[derive(Clone, Default)]
pub struct Repeats(Arc<Mutex<Places>>);

/// What was counted, by place.
#[derive(Default)]
struct Places(HashMap<Identifier, Place>);

/// The lines of a place in the present period.
struct Place {
    begun: Instant,
    shown: u32,
    left_out: u64,
    level: Level,
    /// The text of the first line that was left out.
    text: String,
}

/// A line that says how many others were left out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Summary {
    level: Level,
    text: String,
    left_out: u64,
}

impl Places {
    /// Counts a line; returns whether it passes. `text` is asked for at most once in a period.
    fn passes(
        &mut self,
        place: Identifier,
        level: Level,
        text: impl FnOnce() -> String,
        now: Instant,
    ) -> bool {
        let new = || Place { begun: now, shown: 0, left_out: 0, level, text: String::new() };
        let place = self.0.entry(place).or_insert_with(new);
        if place.left_out == 0 && now.duration_since(place.begun) >= REPEAT_PERIOD {
            (place.begun, place.shown) = (now, 0);
        }
        if place.shown < REPEATS_SHOWN {
            place.shown += 1;
            return true;
        }
        if place.left_out == 0 {
            place.text = text();
        }
        place.left_out += 1;
        false
    }

    /// Returns what was left out in periods that are over, or in all periods, and forgets it.
    fn over(&mut self, now: Option<Instant>) -> Vec<Summary> {
        let is_over = |place: &Place| now.is_none_or(|now| now.duration_since(place.begun) >= REPEAT_PERIOD);
        let mut summaries = Vec::new();
        self.0.retain(|_, place| {
            if !is_over(place) {
                return true;
            }
            if place.left_out > 0 {
                let text = std::mem::take(&mut place.text);
                summaries.push(Summary { level: place.level, text, left_out: place.left_out });
            }
            false
        });
        summaries
    }
}

impl Repeats {
    /// Writes what was left out, each time a period is over, as long as the program runs.
    pub fn summarise(&self) {
        let repeats = self.clone();
        let summarising = move || loop {
            thread::sleep(REPEAT_LOOK);
            repeats.write(Some(Instant::now()));
        };
        // Without the thread the lines are left out all the same.
        let _ = thread::Builder::new().name("log-repeats".to_owned()).spawn(summarising);
    }

    /// Writes what was left out so far.
    pub fn flush(&self) {
        self.write(None);
    }

    fn write(&self, now: Option<Instant>) {
        let summaries = self.places(|places| places.over(now));
        for Summary { level, text, left_out } in summaries {
            match level {
                Level::ERROR => tracing::error!(line = text, left_out, "a line was repeated"),
                Level::WARN => tracing::warn!(line = text, left_out, "a line was repeated"),
                _ => tracing::info!(line = text, left_out, "a line was repeated"),
            }
        }
    }

    fn places<T>(&self, act: impl FnOnce(&mut Places) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// It is a filter of all layers: a line that is left out reaches none of them. (With a filter of one layer, the next line can
/// be taken for left out too.)
impl<S: Subscriber> Layer<S> for Repeats {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        let level = *metadata.level();
        if level > Level::INFO || metadata.name() == OF_LOG_CRATE || metadata.target() == module_path!() {
            return true;
        }
        let text = || {
            let mut text = Text::default();
            event.record(&mut text);
            text.0
        };
        self.places(|places| places.passes(metadata.callsite(), level, text, Instant::now()))
    }
}

/// The message of a line.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}").chars().take(TEXT_LONGEST).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};

    use tracing_subscriber::{fmt, prelude::*};

    use super::*;

    /// Everything that was written.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(act: impl FnOnce(&Repeats)) -> Vec<String> {
        let (written, repeats) = (Written::default(), Repeats::default());
        let writer = written.clone();
        let layer = fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(repeats.clone()).with(layer);
        tracing::subscriber::with_default(subscriber, || act(&repeats));
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_warning_that_is_written_a_thousand_times_becomes_ten_lines_and_one_with_the_count() {
        let lines = logged(|repeats| {
            for saga in 0..1_000 {
                tracing::warn!(saga, "the saga waits");
                tracing::debug!("never left out");
            }
            tracing::warn!("another line");
            repeats.flush();
        });
        let of = |part: &str| lines.iter().filter(|line| line.contains(part)).count();
        assert_eq!((of("saga="), of("another line")), (10, 1));
        let summary: Vec<_> = lines.iter().filter(|line| line.contains("a line was repeated")).collect();
        assert_eq!(summary.len(), 1);
        assert!(summary[0].contains("WARN") && summary[0].contains("left_out=990"), "{}", summary[0]);
        assert!(summary[0].contains("the saga waits"), "{}", summary[0]);
    }

    /// Returns a place in the source.
    fn a_place() -> Identifier {
        struct Found(Arc<Mutex<Option<Identifier>>>);
        impl<S: Subscriber> Layer<S> for Found {
            fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
                *self.0.lock().unwrap() = Some(event.metadata().callsite());
            }
        }
        let found = Arc::<Mutex<Option<Identifier>>>::default();
        let subscriber = tracing_subscriber::registry().with(Found(Arc::clone(&found)));
        tracing::subscriber::with_default(subscriber, || tracing::warn!("a place"));
        found.lock().unwrap().clone().unwrap()
    }

    #[test]
    fn lines_pass_again_once_the_period_is_over_and_its_summary_is_written() {
        let (mut places, began) = (Places::default(), Instant::now());
        let place = a_place();
        let passed = |places: &mut Places, at: Duration| {
            places.passes(place.clone(), Level::WARN, || "text".to_owned(), began + at)
        };
        let shown = (0..50).filter(|_| passed(&mut places, Duration::ZERO)).count();
        assert_eq!(shown, 10);
        assert_eq!(places.over(Some(began + Duration::from_secs(9))), []);
        let summary = Summary { level: Level::WARN, text: "text".to_owned(), left_out: 40 };
        assert_eq!(places.over(Some(began + Duration::from_secs(10))), [summary]);
        assert!(passed(&mut places, Duration::from_secs(10)));
        // A line now and then is never left out.
        assert!((1..100).all(|n| passed(&mut places, Duration::from_secs(10 + 10 * n))));
    }
}
