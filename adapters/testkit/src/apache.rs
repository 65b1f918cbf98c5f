//! A real Apache Kafka for this process, started by `scripts/real-kafka`.

use std::{
    env,
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
};

use tokio::sync::OnceCell;

/// The script. Its standard input stays open as long as this process lives: it ends when that closes.
static RUNNING: Mutex<Option<Child>> = Mutex::new(None);

/// Starts it and waits for its address. `None`, and a line on stderr, if it is not available.
pub(crate) async fn brokers() -> Option<String> {
    if let Ok(brokers) = env::var("AMENDS_TEST_KAFKA_BROKERS") {
        return Some(brokers);
    }
    if !has_real_kafka().await {
        return None;
    }
    let started = tokio::task::spawn_blocking(start).await.expect("starting it does not panic");
    Some(started.unwrap_or_else(|error| panic!("scripts/real-kafka: {error}")))
}

/// Returns whether a real Apache Kafka is wanted here and can be started by `scripts/real-kafka`. With
/// `AMENDS_TEST_REAL_KAFKA` it must be available, or this panics; with `CI` it is used if there are Java, Maven and a
/// repository with the jars. Otherwise a line on stderr says why it is left out.
pub async fn has_real_kafka() -> bool {
    static HAS: OnceCell<bool> = OnceCell::const_new();
    let look = || async { tokio::task::spawn_blocking(look).await.expect("looking does not panic") };
    let has = HAS.get_or_init(|| async {
        let asked = |name| env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
        let must = asked("AMENDS_TEST_REAL_KAFKA");
        if !must && !asked("CI") {
            left_out("neither CI nor AMENDS_TEST_REAL_KAFKA is set");
            return false;
        }
        match look().await {
            Ok(()) => true,
            Err(why) if must => panic!("AMENDS_TEST_REAL_KAFKA is set, but {why}"),
            Err(why) => {
                left_out(&why);
                false
            }
        }
    });
    *has.await
}

/// Returns what is missing, if anything. Fetches the jars if possible.
fn look() -> Result<(), String> {
    if let Some(missing) = ["java", "mvn"].into_iter().find(|program| !runs(program)) {
        return Err(format!("there is no {missing}"));
    }
    let fetched = Command::new(script()).arg("--fetch").stdin(Stdio::null()).status();
    match fetched {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err("maven cannot fetch its jars".into()),
        Err(error) => Err(format!("scripts/real-kafka: {error}")),
    }
}

pub(crate) fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/real-kafka")
}

/// Changes the password of a user of a real Apache Kafka. `client` are the properties of a Java client that may do so.
///
/// # Panics
/// The password is not changed.
pub async fn change_kafka_password(brokers: &str, client: &[String], user: &str, password: &str) {
    let properties = tempfile::NamedTempFile::new().expect("a file can be made");
    std::fs::write(properties.path(), client.join("\n")).expect("it can be written");
    let mut command = Command::new(script());
    command.args(["--password", brokers, user, password]).env("KAFKA_CLIENT", properties.path());
    let run = move || command.stdin(Stdio::null()).output();
    let ended = tokio::task::spawn_blocking(run).await.expect("running it does not panic");
    let output = ended.expect("scripts/real-kafka runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Starts `scripts/real-kafka`, which this command runs, and returns it with the broker's address.
pub(crate) fn launch(command: &mut Command) -> Result<(Child, String), String> {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| error.to_string())?;
    let mut line = String::new();
    let stdout = child.stdout.take().expect("it is piped");
    BufReader::new(stdout).read_line(&mut line).map_err(|error| error.to_string())?;
    match line.split_whitespace().next() {
        Some(address) => Ok((child, address.to_owned())),
        None => Err("it ended before the broker was there".into()),
    }
}

fn left_out(why: &str) {
    // Not by `eprintln!`, which the test harness captures while tests pass.
    let _ = writeln!(io::stderr(), "real Apache Kafka left out: {why}");
}

fn runs(program: &str) -> bool {
    let status = Command::new(program).arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

fn start() -> Result<String, String> {
    let (child, address) = launch(&mut Command::new(script()))?;
    *RUNNING.lock().expect("nobody panics with the lock") = Some(child);
    Ok(address)
}
