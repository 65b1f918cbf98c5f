//! A real OpenTelemetry Collector and a real Zipkin, started by `scripts/traces`.

use std::{
    env,
    io::{self, BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use super::{Backend, Seen};

/// Both. The script ends when its standard input closes.
pub struct Zipkin {
    /// OTLP over gRPC.
    pub otlp: String,
    url: String,
    http: reqwest::Client,
    _script: Child,
}

impl Zipkin {
    /// Starts both if `AMENDS_TEST_TRACES` is set. If they cannot be had here, a line says so; with `AMENDS_TEST_TOOLS`
    /// that is a failure.
    pub async fn start() -> Option<Self> {
        let asked = |name| env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
        if !asked("AMENDS_TEST_TRACES") {
            left_out("AMENDS_TEST_TRACES is not set");
            return None;
        }
        match tokio::task::spawn_blocking(start).await.unwrap() {
            Ok(started) => Some(started),
            Err(why) if asked("AMENDS_TEST_TOOLS") => panic!("AMENDS_TEST_TOOLS is set, but {why}"),
            Err(why) => {
                left_out(&why);
                None
            }
        }
    }
}

fn start() -> Result<Zipkin, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/traces");
    let child = Command::new(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| error.to_string())?;
    let mut line = String::new();
    let stdout = child.stdout.take().expect("it is piped");
    BufReader::new(stdout).read_line(&mut line).map_err(|error| error.to_string())?;
    let mut addresses = line.split_whitespace().map(str::to_owned);
    let (Some(otlp), Some(_http), Some(url)) = (addresses.next(), addresses.next(), addresses.next()) else {
        return Err("scripts/traces ended before they were there".to_owned());
    };
    Ok(Zipkin { otlp, url, http: reqwest::Client::new(), _script: child })
}

fn left_out(why: &str) {
    // Not by `eprintln!`, which the test harness captures while tests pass.
    let _ = writeln!(io::stderr(), "real Collector and Zipkin left out: {why}");
}

impl Backend for Zipkin {
    async fn spans(&self, trace_id: &str) -> Vec<Seen> {
        let answer = self.http.get(format!("{}/api/v2/trace/{trace_id}", self.url)).send().await.unwrap();
        let spans: Value = answer.json().await.unwrap_or_default();
        spans.as_array().into_iter().flatten().map(seen).collect()
    }
}

fn seen(span: &Value) -> Seen {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let tags = span["tags"].as_object().into_iter().flatten();
    Seen {
        id: text(&span["id"]),
        parent: span["parentId"].as_str().map(str::to_owned),
        name: text(&span["name"]).to_lowercase(),
        service: text(&span["localEndpoint"]["serviceName"]),
        attributes: tags.map(|(name, value)| (name.clone(), text(value))).collect(),
        micros: span["duration"].as_u64().unwrap_or_default(),
    }
}
