//! `amends dev` with obstacles.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use amends_embedded::{Postgres, PostgresOptions};

use crate::{
    samples::dev,
    support::{Broker, client::Client, client::order},
};

/// Upper limit for what must end at once, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(20);

fn broker() -> Broker {
    Broker::embedded()
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_wrong_password_in_the_data_it_ends_at_once_in_one_line() {
    let data = tempfile::tempdir().unwrap();
    let postgres = Postgres::start(PostgresOptions::new(data.path().join("postgres"))).await.unwrap();
    let password = postgres.directory().join("password");
    postgres.stop().await;
    fs::write(&password, "guess").unwrap();
    fs::write(data.path().join("amends-data"), "").unwrap();

    let begun = Instant::now();
    let output = dev(&broker(), data.path(), &["--log", "warn"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().last().unwrap_or_default();
    assert!(!output.status.success(), "{said}");
    assert!(last.contains(password.to_str().unwrap()) && last.contains("authentication failed"), "{said}");
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_end_while_it_waits_at_its_start_it_ends_at_once() {
    let data = tempfile::tempdir().unwrap();
    // It accepts connections, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://postgres:x@{}/postgres", silent.local_addr().unwrap());
    let mut command = dev(&broker(), data.path(), &["--set", "start_timeout=5m"]);
    let mut child = command.env("DATABASE_URL", url).stdout(Stdio::null()).spawn().unwrap();
    let (_held, _) = silent.accept().unwrap();
    let begun = Instant::now();
    assert!(
        Command::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).status().unwrap().success()
    );
    let status = child.wait().unwrap();
    assert!(status.success() && begun.elapsed() < AT_ONCE, "{status} after {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_left_out_can_be_replaced_by_what_is_printed() {
    let data = tempfile::tempdir().unwrap();
    let mut dev = Killed(
        dev(&broker(), data.path(), &["--without", "payment", "--log", "warn"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(dev.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let url = lines.find_map(|line| line.strip_prefix("ready ").map(str::to_owned)).expect("it is ready");
    let needs = lines.next().expect("what the worker needs");
    let after = |word: &str| {
        let rest = needs.split_once(&format!("{word} ")).unwrap_or_else(|| panic!("{word}: {needs}")).1;
        rest.split(", ").next().unwrap_or_default().to_owned()
    };
    assert!(needs.starts_with("without worker payment: "), "{needs}");
    assert_eq!((after("group"), after("assignor")), ("amends-payment".into(), "cooperative-sticky".into()));
    assert_eq!(after("takes"), "payment.commands");

    let client = Client::new(&url);
    let put = client.put("/api/inventory/mug/stock", &serde_json::json!({ "onHand": 5 })).await;
    assert_eq!(put.0, 200, "{}", put.1);
    let id = client.place(&order("mug", 1, "card_approved", "AT")).await;
    client.becomes(&id, "CONFIRMED").await;
    let _ours = Killed(
        Command::new(env!("CARGO_BIN_EXE_amends"))
            .args(["worker", "payment", "--listen", "127.0.0.1:0"])
            .env("KAFKA_BROKERS", after("broker"))
            .env("AMENDS_PAYMENT_DATABASE_URL", after("database"))
            .env("AMENDS_SESSION_TIMEOUT", "3s")
            .env("AMENDS_FETCH_WAIT", "10ms")
            .stdin(Stdio::null())
            .spawn()
            .unwrap(),
    );
    client.becomes(&id, "FULFILLED").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_put_into_its_directory_outlives_a_fresh_start() {
    let data = tempfile::tempdir().unwrap();
    fs::write(data.path().join("keep"), "x").unwrap();
    for arguments in [&["--log", "warn"][..], &["--fresh", "--log", "warn"]] {
        let mut dev = Killed(dev(&broker(), data.path(), arguments).stdout(Stdio::piped()).spawn().unwrap());
        let mut stdout = dev.0.stdout.take().unwrap();
        // Waits until it is ready, or has ended.
        let _ = stdout.read(&mut [0]);
    }
    assert_eq!(fs::read_to_string(data.path().join("keep")).unwrap(), "x");
    assert!(!data.path().join("amends-data").exists());
}

/// A process that is killed at the end of its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
