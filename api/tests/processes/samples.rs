//! `amends dev`: the samples, and what it leaves behind.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use amends_testkit::eventually;

use crate::support::{Broker, LONG, client::Client, on_every_broker};

on_every_broker!(
    every_sample_ends_as_it_should,
    after_kill_9_of_everything_the_same_data_starts_by_itself_and_the_order_goes_on,
);

/// How often the samples are tried.
const ATTEMPTS: usize = 3;

/// Uses the broker if it is a real one; otherwise `dev` starts an embedded one.
pub(crate) fn dev(broker: &Broker, data: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_amends"));
    command.args(["dev", "--listen", "127.0.0.1:0", "--data"]).arg(data).args(arguments);
    command.env_remove("DATABASE_URL").env_remove("KAFKA_BROKERS").stdin(Stdio::null());
    if broker.real().is_some() {
        command.env("KAFKA_BROKERS", broker.bootstrap_servers());
    }
    command
}

async fn every_sample_ends_as_it_should(broker: Broker) {
    let mut said = String::new();
    // One order is cancelled while its card is charged, which takes three seconds: a busy machine may be slower.
    let are_well = (0..ATTEMPTS).any(|_| {
        let data = tempfile::tempdir().unwrap();
        let output = dev(&broker, data.path(), &["--once", "--auth"]).output().unwrap();
        said = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("{said}\n{}", String::from_utf8_lossy(&output.stderr));
        output.status.success()
    });
    assert!(are_well, "{said}");
    assert!(said.contains("12 of 12 samples ended as they should"), "{said}");
    assert!(said.lines().any(|line| line.starts_with("ready http://127.0.0.1:")), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_samples_run_from_outside_against_a_running_api_and_what_is_no_api_is_named_in_one_line() {
    let samples = |api: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_amends"));
        command.args(["samples", "--api", api]).env_remove("AMENDS_TOKEN").stdin(Stdio::null());
        command.output().unwrap()
    };
    for (api, status, named) in
        [("http://127.0.0.1:1", 1, "http://127.0.0.1:1/"), ("ftp://127.0.0.1", 2, "--api")]
    {
        let output = samples(api);
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(complaints.contains(named) && complaints.lines().count() == 1, "{complaints}");
        assert_eq!((output.status.code(), output.stdout.len()), (Some(status), 0), "{complaints}");
    }

    let data = tempfile::tempdir().unwrap();
    let running = Dev::start(&Broker::embedded(), data.path());
    let mut said = String::new();
    // As above, a busy machine may be slow.
    let are_well = (0..ATTEMPTS).any(|_| {
        let output = samples(&running.url);
        said = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success()
    });
    assert!(are_well && said.contains("12 of 12 samples ended as they should"), "{said}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_printed_to_be_tried_next_works_in_any_directory_and_every_curl_has_a_token() {
    let (data, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut command = dev(&Broker::embedded(), data.path(), &["--samples", "--log", "warn"]);
    let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
    let running = Dev { process, url: String::new() };
    let invitation: Vec<String> = lines
        .skip_while(|line| !line.starts_with("Place an order"))
        .skip(1)
        .take_while(|line| !line.starts_with("Ctrl-C"))
        .collect();
    let script = invitation.join("\n");
    // A command may go on in the next line.
    let joined = script.replace("\\\n", "");
    let (curls, bearer) =
        (|line: &&str| line.trim_start().starts_with("curl "), "-H \"authorization: Bearer $TOKEN\"");
    assert!(joined.lines().filter(curls).count() > 1, "{script}");
    assert!(joined.lines().filter(curls).all(|curl| curl.contains(bearer)), "{script}");
    let mut shell = Command::new("bash");
    shell.args(["-euc", &script]).current_dir(elsewhere.path()).stdin(Stdio::null());
    let output = shell.output().unwrap();
    let (said, complaints) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script}\n{said}\n{complaints}");
    assert!(said.starts_with("HTTP/1.1 201 "), "{script}\n{said}");
    let (placed, listed) = said.split_once("{\"items\":").expect("a list");
    let id = placed.split_once("\"id\":\"").expect("an order").1.split('"').next().unwrap();
    assert!(listed.contains(id), "{said}");
    running.stop().await;
}

async fn after_kill_9_of_everything_the_same_data_starts_by_itself_and_the_order_goes_on(broker: Broker) {
    let data = tempfile::tempdir().unwrap();
    let mut first = Dev::start(&broker, data.path());
    let client = Client::new(&first.url);
    // No other process may use the data meanwhile, least of all delete it.
    let other = dev(&broker, data.path(), &["--fresh"]).output().unwrap();
    let said = String::from_utf8_lossy(&other.stderr);
    assert!(!other.status.success() && said.contains("another `amends dev` runs on"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    let put = client.put("/api/inventory/mug/stock", &serde_json::json!({ "onHand": 5 })).await;
    assert_eq!(put.0, 200, "{}", put.1);
    let order = client.place(&crate::support::client::order("mug", 1, "card_slow", "AT")).await;
    // While it is charged: that takes three seconds, in which a busy machine may not get to the kill.
    eventually("it is under way", LONG, || async {
        (client.get(&format!("/api/orders/{order}")).await["status"] != "PENDING").then_some(())
    })
    .await;
    first.kill();

    let second = Dev::start(&broker, data.path());
    let client = Client::new(&second.url);
    client.becomes(&order, "FULFILLED").await;
    // The saga is complete after `take`.
    eventually("the piece is taken", LONG, || async {
        let stock = client.get("/api/inventory/mug").await;
        (stock["onHand"] == 4 && stock["reserved"] == 0).then_some(())
    })
    .await;
    second.stop().await;
}

/// A running `amends dev`. It is killed when dropped.
struct Dev {
    process: Child,
    url: String,
}

impl Dev {
    fn start(broker: &Broker, data: &Path) -> Self {
        let mut process = dev(broker, data, &[]).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready =
            lines.map_while(Result::ok).find_map(|line| line.strip_prefix("ready ").map(str::to_owned));
        Self { process, url: ready.expect("it says when it is ready") }
    }

    fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Ctrl-C; asserts that no process is left.
    async fn stop(mut self) {
        let id = self.process.id();
        let children: Vec<String> = fs::read_dir(format!("/proc/{id}/task"))
            .unwrap()
            .filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok())
            .flat_map(|children| children.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        assert!(!children.is_empty(), "Postgres is a child of it");
        Command::new("sh").args(["-c", &format!("kill -INT {id}")]).status().unwrap();
        let process = &mut self.process;
        let status = eventually("it ends at Ctrl-C", LONG, || {
            let ended = process.try_wait().unwrap();
            async move { ended }
        })
        .await;
        assert!(status.success(), "{status}");
        for child in children {
            assert!(!Path::new(&format!("/proc/{child}")).exists(), "process {child} is left behind");
        }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.kill();
    }
}
