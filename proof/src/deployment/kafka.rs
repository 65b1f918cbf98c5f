//! A real Apache Kafka, run by `scripts/real-kafka`, which can be stopped and restarted on the same port and data.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::Error;

/// How the broker is run.
#[derive(Debug, Clone, Default)]
pub struct KafkaOptions {
    /// The address at which it listens instead of a free port of 127.0.0.1.
    pub address: Option<SocketAddr>,
    /// JVM options instead of the script's (which are for tests: small, quick to start).
    pub jvm: Option<String>,
    /// Lines for `server.properties`.
    pub properties: Vec<String>,
    /// The security protocol of its listener instead of the script's (which is plain).
    pub protocol: Option<String>,
    /// Users, each with its name as password.
    pub users: Vec<String>,
}

/// A running Apache Kafka. It ends when dropped.
#[derive(Debug)]
pub struct Kafka {
    running: Option<Running>,
    address: SocketAddr,
    data: PathBuf,
    options: KafkaOptions,
}

#[derive(Debug)]
struct Running {
    /// Its standard input stays open as long as the broker must live.
    script: Child,
    pid: u32,
}

impl Kafka {
    /// Starts it on a free port and waits until it listens.
    pub async fn start(data: PathBuf, options: KafkaOptions) -> Result<Self, Error> {
        let (running, address) = launch(&data, &options).await?;
        Ok(Self { running: Some(running), address, data, options })
    }

    /// Returns its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the broker's process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.pid)
    }

    /// kill -9; its data stays.
    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            drop(running.script.stdin.take());
            let _ = running.script.wait();
        }
    }

    /// Restarts it on the same port and data.
    pub async fn restart(&mut self) -> Result<(), Error> {
        self.kill();
        let options = KafkaOptions { address: Some(self.address), ..self.options.clone() };
        let (running, _) = launch(&self.data, &options).await?;
        self.running = Some(running);
        Ok(())
    }

    /// Ends it.
    pub fn stop(mut self) {
        self.kill();
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn launch(data: &Path, options: &KafkaOptions) -> Result<(Running, SocketAddr), Error> {
    let (data, options) = (data.to_owned(), options.clone());
    let launching = tokio::task::spawn_blocking(move || blocking_launch(&data, &options));
    launching.await.expect("launching does not panic")
}

fn blocking_launch(data: &Path, options: &KafkaOptions) -> Result<(Running, SocketAddr), Error> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/real-kafka");
    let mut command = Command::new(script);
    command.env("KAFKA_DATA", data).env("KAFKA_PROPERTIES", options.properties.join("\n"));
    if let Some(address) = options.address {
        command.env("KAFKA_HOST", address.ip().to_string()).env("KAFKA_PORT", address.port().to_string());
    }
    if let Some(jvm) = &options.jvm {
        command.env("KAFKA_JVM", jvm);
    }
    if let Some(protocol) = &options.protocol {
        command.env("KAFKA_PROTOCOL", protocol).env("KAFKA_USERS", options.users.join(" "));
    }
    // Its own process group: Ctrl-C in a terminal is for this process, and the broker ends last.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut script = command.spawn().map_err(Error::io("starting scripts/real-kafka"))?;
    let mut line = String::new();
    let stdout = script.stdout.take().expect("it is piped");
    BufReader::new(stdout).read_line(&mut line).map_err(Error::io("reading from scripts/real-kafka"))?;
    let mut words = line.split_whitespace();
    let address = words.next().and_then(|word| word.parse().ok());
    let pid = words.next().and_then(|word| word.parse().ok());
    match (address, pid) {
        (Some(address), Some(pid)) => Ok((Running { script, pid }, address)),
        _ => Err(Error::Kafka("it ended before it was there".into())),
    }
}
