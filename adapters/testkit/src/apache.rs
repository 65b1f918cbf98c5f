//! A real Apache Kafka for this process, by `scripts/real-kafka`.

use std::{
    env,
    io::{self, BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Mutex,
};

/// Its standard input stays open for as long as this process lives: the script ends when that closes.
static RUNNING: Mutex<Option<Child>> = Mutex::new(None);

/// Starts it and waits for its address. `None`, and a line on stderr, where it is not asked for or there is no Java.
pub(crate) async fn brokers() -> Option<String> {
    let asked = |name| env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
    if let Ok(brokers) = env::var("AMENDS_TEST_KAFKA_BROKERS") {
        return Some(brokers);
    }
    if !asked("CI") && !asked("AMENDS_TEST_REAL_KAFKA") {
        left_out("neither CI nor AMENDS_TEST_REAL_KAFKA is set");
        return None;
    }
    if let Some(missing) = ["java", "mvn"].into_iter().find(|program| !runs(program)) {
        left_out(&format!("there is no {missing}"));
        return None;
    }
    let started = tokio::task::spawn_blocking(start).await.expect("starting it does not panic");
    Some(started.unwrap_or_else(|error| panic!("scripts/real-kafka: {error}")))
}

fn left_out(why: &str) {
    // Not by `eprintln!`, which the test harness keeps to itself while tests pass.
    let _ = writeln!(io::stderr(), "real Apache Kafka left out: {why}");
}

fn runs(program: &str) -> bool {
    let status = Command::new(program).arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

fn start() -> Result<String, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/real-kafka");
    let child = Command::new(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| error.to_string())?;
    let mut line = String::new();
    let stdout = child.stdout.take().expect("it is piped");
    BufReader::new(stdout).read_line(&mut line).map_err(|error| error.to_string())?;
    let Some(address) = line.split_whitespace().next() else {
        return Err("it ended before the broker was there".into());
    };
    *RUNNING.lock().expect("nobody panics with the lock") = Some(child);
    Ok(address.to_owned())
}
