//! `amends dev` with obstacles.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use amends_embedded::{Postgres, PostgresOptions};
use serde_json::json;

use crate::{
    samples::dev,
    support::{Broker, client::Client, client::order},
};

/// Upper limit for what must end at once, on a busy machine: far less than it may wait at its start.
const AT_ONCE: Duration = Duration::from_secs(60);
/// How long it may wait at its start.
const WAITS: [&str; 2] = ["--set", "start_timeout=5m"];

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
    let mut command = dev(&broker(), data.path(), &WAITS);
    let output = command.args(["--log", "warn"]).output().unwrap();
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
    let mut command = dev(&broker(), data.path(), &WAITS);
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

/// Mints a token with the key in a data directory; it must be all that is printed.
fn token(data: &Path, role: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_amends"));
    command.args(["token", "--role", role, "--subject", "c-1001", "--ttl", "10m", "--data"]).arg(data);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let token = printed.trim_end_matches('\n').to_owned();
    assert_eq!((printed.len(), token.split('.').count()), (token.len() + 1, 3), "{printed}");
    token
}

/// Returns the status of a request with a token, or without.
async fn status(url: &str, path: &str, token: Option<&str>) -> u16 {
    let request = reqwest::Client::new().get(format!("{url}{path}"));
    let request = match token {
        Some(token) => request.bearer_auth(token),
        None => request,
    };
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_takes_the_tokens_that_were_minted_before_and_while_it_runs_and_with_auth_only_those() {
    let parent = tempfile::tempdir().unwrap();
    // Nothing is there yet.
    let data = parent.path().join("data");
    let before = token(&data, "viewer");
    for (arguments, without) in [(&["--log", "warn"][..], 200), (&["--auth", "--log", "warn"], 401)] {
        let mut dev = Killed(dev(&broker(), &data, arguments).stdout(Stdio::piped()).spawn().unwrap());
        let mut lines = BufReader::new(dev.0.stdout.take().unwrap()).lines().map_while(Result::ok);
        let url = lines.find_map(|line| line.strip_prefix("ready ").map(str::to_owned)).expect("it is ready");
        assert_eq!(status(&url, "/admin/sagas", None).await, without, "{arguments:?}");
        assert_eq!(status(&url, "/admin/sagas", Some(&before)).await, 200);
        assert_eq!(status(&url, "/admin/sagas", Some(&token(&data, "operator"))).await, 200);
        assert_eq!(status(&url, "/admin/sagas", Some(&token(&data, "customer"))).await, 403);
        assert_eq!(status(&url, "/admin/sagas", Some("x.y.z")).await, 401, "a token that is sent is checked");
        let other = token(&parent.path().join("other"), "viewer");
        assert_eq!(status(&url, "/admin/sagas", Some(&other)).await, 401);
        let published = Client::new(&url).get("/.well-known/jwks.json").await;
        assert_eq!((&published["keys"][0]["alg"], published["keys"][0].get("d")), (&json!("RS256"), None));
    }
}

#[test]
fn dev_lets_nobody_in_from_other_machines_without_a_token() {
    let data = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_amends"));
    command.args(["dev", "--listen", "0.0.0.0:0", "--no-auth", "--data"]).arg(data.path());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("--auth") && said.lines().count() == 1, "{said}");
}

/// A process that is killed at the end of its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
