//! Two processes of every role: each reaches Postgres through its own proxy, and all reach the broker through one.

use std::{
    fs, io,
    net::{SocketAddr, ToSocketAddrs},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use super::Error;
use crate::{
    books,
    deployment::{Deployment, Options, Process, ROLES, free_address},
    proxy::{Protocol, Proxy},
};

/// Number of processes of each role.
const MEMBERS_OF_A_ROLE: usize = 2;

/// Returns the database that a role uses.
fn database_of(role: &[&'static str]) -> &'static str {
    match role[role.len() - 1] {
        "api" => "engine",
        name => name,
    }
}

/// How long a consumer may be silent: short, so that a campaign has time for many freezes.
pub const SESSION: Duration = Duration::from_secs(3);

/// A process with a fixed address, and its proxy to Postgres.
#[derive(Debug)]
pub struct Member {
    /// `engine-1`.
    pub name: String,
    /// Its role, as on the command line.
    pub role: &'static [&'static str],
    /// Its address, at every start.
    pub address: SocketAddr,
    /// Its proxy to Postgres.
    pub proxy: Proxy,
    settings: Vec<(String, String)>,
    process: Option<Process>,
}

/// A deployment with two processes of every role.
#[derive(Debug)]
pub struct Fleet {
    /// The servers.
    pub deployment: Deployment,
    /// The proxy between all processes and the broker.
    pub kafka_proxy: Proxy,
    /// The processes.
    pub members: Vec<Member>,
}

impl Fleet {
    /// Starts servers and processes, and waits until all are ready.
    pub async fn start(mut options: Options) -> Result<Self, Error> {
        let kafka_proxy = Proxy::listen(Protocol::Bytes).await.map_err(Error::proxy)?;
        let advertised = format!("advertised.listeners=PLAINTEXT://{}", kafka_proxy.address());
        options.kafka.properties.push(advertised);
        be_impatient(&mut options);
        let mut deployment = Deployment::start(options).await?;
        books::note_events(&deployment.pool("engine")).await?;
        kafka_proxy.lead_to(deployment.kafka.address());
        deployment.reach_kafka_at(kafka_proxy.address());
        let mut members = Vec::new();
        for role in ROLES.iter().map(Vec::as_slice) {
            let database = database_of(role);
            for number in 1..=MEMBERS_OF_A_ROLE {
                let first_inventory = database == "inventory" && number == 1;
                let address = if first_inventory { deployment.inventory() } else { free_address()? };
                let name = format!("{}-{number}", role[role.len() - 1]);
                members.push(member(&deployment, name, role, database, address).await?);
            }
        }
        let mut fleet = Self { deployment, kafka_proxy, members };
        for at in 0..fleet.members.len() {
            fleet.spawn(at)?;
        }
        for at in 0..fleet.members.len() {
            fleet.ready(at).await?;
        }
        Ok(fleet)
    }

    /// Returns the addresses of the apis.
    pub fn apis(&self) -> Vec<SocketAddr> {
        self.members.iter().filter(|m| m.role == ["api"]).map(|m| m.address).collect()
    }

    /// Returns the members of these roles, given by the last word of each.
    pub fn of(&self, roles: &[&str]) -> Vec<usize> {
        let last = |m: &Member| m.role[m.role.len() - 1];
        (0..self.members.len()).filter(|at| roles.contains(&last(&self.members[*at]))).collect()
    }

    /// Starts a member that does not run, without waiting.
    pub fn spawn(&mut self, at: usize) -> Result<(), Error> {
        let member = &self.members[at];
        let settings: Vec<_> = member.settings.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let process = self.deployment.spawn_at(member.role, member.address, &settings)?;
        self.members[at].process = Some(process);
        Ok(())
    }

    /// Starts one more process of a member's role, at another address.
    pub fn spawn_another(&self, at: usize) -> Result<Process, Error> {
        let member = &self.members[at];
        let settings: Vec<_> = member.settings.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        Ok(self.deployment.spawn_at(member.role, free_address()?, &settings)?)
    }

    /// Waits until a member is ready. A member that ended because a server was unavailable at its start is restarted,
    /// as a process manager would.
    pub async fn ready(&mut self, at: usize) -> Result<(), Error> {
        let begun = Instant::now();
        loop {
            let process = self.members[at].process.as_mut();
            let ready = match process {
                Some(process) => process.ready().await,
                None => return Ok(()),
            };
            match ready {
                Ok(()) => return Ok(()),
                Err(error) if begun.elapsed() > Duration::from_secs(90) => return Err(error.into()),
                Err(_) => self.spawn(at)?,
            }
        }
    }

    /// Restarts the members that have ended; returns their names.
    pub fn revive(&mut self) -> Result<Vec<String>, Error> {
        let mut revived = Vec::new();
        for at in 0..self.members.len() {
            let process = self.members[at].process.as_mut();
            if !process.is_some_and(Process::is_running) {
                self.spawn(at)?;
                revived.push(self.members[at].name.clone());
            }
        }
        Ok(revived)
    }

    /// kill -9.
    pub fn kill(&mut self, at: usize) {
        // The drop kills it and waits for its end.
        self.members[at].process = None;
    }

    /// SIGTERM; returns how long it took to end.
    pub async fn stop(&mut self, at: usize) -> Duration {
        match self.members[at].process.take() {
            Some(process) => process.stop().await,
            None => Duration::ZERO,
        }
    }

    /// SIGSTOP.
    pub fn freeze(&self, at: usize) {
        if let Some(process) = &self.members[at].process {
            process.freeze();
        }
    }

    /// SIGCONT.
    pub fn thaw(&self, at: usize) {
        if let Some(process) = &self.members[at].process {
            process.thaw();
        }
    }

    /// Sends a signal to the postmaster: `QUIT` stops it at once, `INT` in order. It is restarted automatically.
    pub fn signal_postgres(&self, signal: Signal) -> Result<(), Error> {
        let Some(directory) = self.deployment.server.directory() else {
            return Err(Error::NotInjected("the server is not the deployment's own".into()));
        };
        let path = directory.join("cluster/postmaster.pid");
        let file = fs::read_to_string(&path).map_err(Error::proxy)?;
        let pid = file.lines().next().and_then(|line| line.trim().parse().ok()).and_then(Pid::from_raw);
        match pid {
            Some(pid) => kill_process(pid, signal).map_err(|e| Error::proxy(e.into())),
            None => Ok(()),
        }
    }

    /// Ends all faults, and waits until all members run and are ready.
    pub async fn heal(&mut self) -> Result<(), Error> {
        self.kafka_proxy.heal();
        for at in 0..self.members.len() {
            self.members[at].proxy.heal();
            self.thaw(at);
        }
        if self.deployment.kafka.pid().is_none() {
            self.deployment.kafka.restart().await?;
        }
        self.revive()?;
        for at in 0..self.members.len() {
            self.ready(at).await?;
        }
        Ok(())
    }

    /// Ends everything.
    pub async fn end(mut self) {
        for member in &mut self.members {
            member.process = None;
        }
        self.members.clear();
        self.deployment.stop().await;
    }
}

/// Adds properties of the broker and settings of the roles by which a silent process is noticed within seconds.
pub fn be_impatient(options: &mut Options) {
    for property in [
        "group.min.session.timeout.ms=1000",
        // A killed broker may return once its old session is over: 9 s by default.
        "broker.session.timeout.ms=3000",
        "broker.heartbeat.interval.ms=500",
    ] {
        options.kafka.properties.push(property.into());
    }
    let session = format!("{}s", SESSION.as_secs());
    for (key, value) in [
        ("session_timeout", session.as_str()),
        ("command_partitions", "6"),
        ("reply_partitions", "6"),
        // Of a distributed database.
        ("homes", "6"),
        ("database_connections", "6"),
        ("payment_call_timeout", "1s"),
        ("shipment_call_timeout", "1s"),
        ("unknown_patience", "10s"),
        ("start_timeout", "30s"),
    ] {
        options.settings.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }
}

async fn member(
    deployment: &Deployment,
    name: String,
    role: &'static [&'static str],
    database: &str,
    address: SocketAddr,
) -> Result<Member, Error> {
    let proxy = Proxy::listen(Protocol::Postgres).await.map_err(Error::proxy)?;
    let (host, port) = deployment.server.address();
    let server = (host.as_str(), port).to_socket_addrs().map_err(Error::proxy)?.next();
    proxy.lead_to(server.ok_or_else(|| Error::proxy(io::ErrorKind::NotFound.into()))?);
    let url = deployment.role_url(database);
    let through = url.replace(&format!("{host}:{port}/"), &format!("{}/", proxy.address()));
    let settings = vec![(format!("{database}_database_url"), through)];
    Ok(Member { name, role, address, proxy, settings, process: None })
}
