//! `amends dev`: the samples, and what it leaves behind.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use amends_testkit::eventually;

use crate::support::{LONG, client::Client};

fn dev(data: &std::path::Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_amends"));
    command.args(["dev", "--listen", "127.0.0.1:0", "--data"]).arg(data).args(arguments);
    command.env_remove("DATABASE_URL").env_remove("KAFKA_BROKERS").stdin(Stdio::null());
    command
}

#[test]
fn every_sample_ends_as_it_should() {
    let data = tempfile::tempdir().unwrap();
    let output = dev(data.path(), &["--once"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("8 of 8 samples ended as they should"), "{said}");
    assert!(said.lines().any(|line| line.starts_with("ready http://127.0.0.1:")), "{said}");
}

#[tokio::test]
async fn after_kill_9_of_everything_the_same_data_starts_by_itself_and_the_order_goes_on() {
    let data = tempfile::tempdir().unwrap();
    let mut first = dev(data.path(), &[]).stdout(Stdio::piped()).spawn().unwrap();
    let url = ready(&mut first);
    let client = Client::new(&url);
    let put = client.put("/api/inventory/mug/stock", &serde_json::json!({ "onHand": 5 })).await;
    assert_eq!(put.0, 200, "{}", put.1);
    let order = client.place(&crate::support::client::order("mug", 1, "card_slow", "AT")).await;
    client.becomes(&order, "CONFIRMED").await;
    first.kill().unwrap();
    first.wait().unwrap();

    let mut second = dev(data.path(), &[]).stdout(Stdio::piped()).spawn().unwrap();
    let client = Client::new(&ready(&mut second));
    client.becomes(&order, "FULFILLED").await;
    let stock = client.get("/api/inventory/mug").await;
    assert_eq!((&stock["onHand"], &stock["reserved"]), (&4.into(), &0.into()));
    stop(second).await;
}

fn ready(process: &mut std::process::Child) -> String {
    let lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let line = lines.map_while(Result::ok).find(|line| line.starts_with("ready "));
    line.expect("it says when it is ready")["ready ".len()..].to_owned()
}

/// Ctrl-C, and no process is left.
async fn stop(mut process: std::process::Child) {
    let group = process.id();
    let children = || {
        let path = format!("/proc/{group}/task/{group}/children");
        std::fs::read_to_string(path).unwrap_or_default()
    };
    let before: Vec<String> = children().split_whitespace().map(str::to_owned).collect();
    Command::new("kill").args(["-INT", &group.to_string()]).status().unwrap();
    eventually("it ends at Ctrl-C", LONG, || {
        let ended = process.try_wait().unwrap();
        async move { ended }
    })
    .await;
    for child in before {
        assert!(!std::path::Path::new(&format!("/proc/{child}")).exists(), "process {child} is left behind");
    }
}
