//! Statements are logged by name: no line has a part of their text.

mod support;

use std::{
    io,
    sync::{Arc, Mutex},
};

use support::{connect, world};
use tracing_subscriber::{EnvFilter, fmt, prelude::*};

/// Everything that was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_slow_statement_is_logged_by_name_in_one_line_and_no_text_of_a_statement_at_any_level() {
    let database = world().await;
    let log = Log::default();
    let writer = log.clone();
    let layer = fmt::layer().with_ansi(false).with_writer(move || writer.clone());
    tracing_subscriber::registry().with(EnvFilter::new("trace")).with(layer).init();
    let pool = connect(&database.url, 1);
    let slow = sqlx::query("SELECT pg_sleep(1.05), 'part-of-the-text'").execute(&pool).await;
    slow.unwrap();
    let quick: i32 = sqlx::query_scalar("SELECT 7 AS part_of_the_text").fetch_one(&pool).await.unwrap();
    assert_eq!(quick, 7);

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("WARN")).collect();
    // On a busy machine another one may have been slow too.
    let slept: Vec<_> = warnings.iter().filter(|line| line.contains("pg_sleep")).collect();
    assert_eq!(slept.len(), 1, "{warnings:?}");
    for part in ["a statement was slow", "pool=\"test\"", "statement=\"SELECT pg_sleep\""] {
        assert!(slept[0].contains(part), "{part}: {}", slept[0]);
    }
    let took =
        slept[0].split_once("milliseconds=").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    assert!(took.is_some_and(|took: u64| took >= 1_050), "{}", slept[0]);
    assert!(log.contains("TRACE"), "everything is logged");
    let told =
        log.lines().find(|line| line.contains("part-of-the-text") || line.contains("part_of_the_text"));
    assert_eq!(told, None);
}
