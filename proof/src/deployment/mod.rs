//! All servers and roles that an order needs, as separate processes on this machine: [`Deployment`] starts its own
//! Postgres (or uses a Citus that is there) and Apache Kafka, and knows the settings of each role; a role is a [`Process`].

pub mod citus;
mod kafka;
mod process;
mod server;

use std::{
    collections::BTreeMap,
    fs::Permissions,
    io,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    str::FromStr,
    sync::LazyLock,
};

use amends_api::services;
use amends_embedded::{Postgres, PostgresOptions};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tempfile::TempDir;

use citus::Citus;
pub use kafka::{Kafka, KafkaOptions};
pub use process::Process;
pub use server::Server;

/// The databases, each named `amends_<name>` and used by the login role of the same name.
pub static DATABASES: LazyLock<Vec<&'static str>> = LazyLock::new(services::names);

/// The workers that execute commands.
pub static PARTICIPANTS: LazyLock<Vec<&'static str>> =
    LazyLock::new(|| services::participants().map(|service| service.name).collect());

/// One entry per role, as on the command line (`["worker", "payment"]`); the api last.
pub static ROLES: LazyLock<Vec<Vec<&'static str>>> = LazyLock::new(|| {
    let workers = services::workers().map(|service| vec!["worker", service.name]);
    workers.chain([vec!["engine"], vec!["api"]]).collect()
});

/// Options of a deployment.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program `amends`.
    pub program: PathBuf,
    /// Further settings of Postgres; fsync is on.
    pub postgres: Vec<(String, String)>,
    /// The Citus with the databases, in place of an own Postgres. What earlier deployments have left there is dropped.
    pub citus: Option<Citus>,
    /// How Apache Kafka is run.
    pub kafka: KafkaOptions,
    /// Settings of every role (`database_connections`, `3`).
    pub settings: BTreeMap<String, String>,
    /// Log filter of the roles; they log to files in the deployment's directory.
    pub log: String,
}

impl Options {
    /// Options for this program, with defaults.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            postgres: Vec::new(),
            citus: None,
            kafka: KafkaOptions::default(),
            settings: BTreeMap::new(),
            log: "warn".into(),
        }
    }
}

/// Why a deployment or a role could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Postgres failed.
    #[error(transparent)]
    Postgres(#[from] amends_embedded::Error),
    /// An operation on a file or a process failed.
    #[error("{doing}: {source}")]
    Io {
        /// The operation.
        doing: String,
        /// The system's error.
        source: io::Error,
    },
    /// Apache Kafka did not start.
    #[error("Apache Kafka did not start: {0}")]
    Kafka(String),
    /// `amends migrate` failed.
    #[error("amends migrate: {0}")]
    Migrate(String),
    /// A role did not become ready in time, or ended before.
    #[error("amends {role} is not ready: {why}")]
    NotReady {
        /// The role and its name.
        role: String,
        /// How it ended, or how long it was waited for; and its last log lines.
        why: String,
    },
    /// A database does not answer.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
}

impl Error {
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        |source| Self::Io { doing: doing.into(), source }
    }
}

/// A server with five databases, an Apache Kafka, and the settings that a role needs to find them. When dropped, both
/// servers end and their data is removed; a Citus stays as it is.
#[derive(Debug)]
pub struct Deployment {
    /// The server of all five databases.
    pub server: Server,
    /// The broker.
    pub kafka: Kafka,
    options: Options,
    urls: BTreeMap<&'static str, String>,
    /// The address of the inventory worker, for the api.
    inventory: SocketAddr,
    /// The broker's address for the roles: its own, or a proxy's.
    brokers: String,
    directory: TempDir,
}

impl Deployment {
    /// Starts both servers and sets up the databases by `amends migrate`; no role runs yet.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let directory = directory()?;
        let (server, kafka) = tokio::join!(
            server(&options, directory.path()),
            Kafka::start(directory.path().join("kafka"), options.kafka.clone())
        );
        Self::over(options, directory, server?, kafka?, free_address()?)
    }

    /// Sets up the databases on servers that run already. `inventory` is where the api looks for that worker; the
    /// directory is that of the servers' data.
    pub fn over(
        options: Options,
        directory: TempDir,
        server: Server,
        kafka: Kafka,
        inventory: SocketAddr,
    ) -> Result<Self, Error> {
        let urls = migrate(&options, &server)?;
        let brokers = kafka.address().to_string();
        Ok(Self { server, kafka, options, urls, inventory, brokers, directory })
    }

    /// Returns the directory of the logs and other files of this deployment.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Returns the address of the first inventory worker; further ones use a free port.
    pub fn inventory(&self) -> SocketAddr {
        self.inventory
    }

    /// Sets the broker's address for every role that is spawned from now on.
    pub fn reach_kafka_at(&mut self, address: SocketAddr) {
        self.brokers = address.to_string();
    }

    /// Sets the port at which every role that is spawned from now on finds Postgres.
    pub fn reach_postgres_at(&mut self, port: u16) {
        let (from, to) = (format!(":{}/", self.server.address().1), format!(":{port}/"));
        self.urls.values_mut().for_each(|url| *url = url.replace(&from, &to));
    }

    /// Returns the connection string of a database's login role.
    pub fn role_url(&self, database: &str) -> &str {
        &self.urls[database]
    }

    /// Returns connections to a database as its owner, the superuser; at most four.
    pub fn pool(&self, database: &str) -> PgPool {
        let url = self.server.url(&format!("amends_{database}"));
        let options = PgConnectOptions::from_str(&url).expect("the server's own URL");
        PgPoolOptions::new().max_connections(4).connect_lazy_with(options.application_name("amends-proof"))
    }

    /// Starts a role (`["worker", "payment"]`) with these settings in addition to the deployment's, without waiting.
    pub fn spawn(&self, role: &[&str], settings: &[(&str, &str)]) -> Result<Process, Error> {
        self.spawn_program(&self.options.program, role, free_address()?, settings)
    }

    /// The same for the first inventory worker, which listens where the api looks for it.
    pub fn spawn_inventory(&self, settings: &[(&str, &str)]) -> Result<Process, Error> {
        self.spawn_program(&self.options.program, &["worker", "inventory"], self.inventory, settings)
    }

    /// The same for any role at a given address, with settings that override the deployment's.
    pub fn spawn_at(
        &self,
        role: &[&str],
        address: SocketAddr,
        settings: &[(&str, &str)],
    ) -> Result<Process, Error> {
        self.spawn_program(&self.options.program, role, address, settings)
    }

    /// Starts another program with the same settings, or a role at a given address.
    pub fn spawn_program(
        &self,
        program: &Path,
        role: &[&str],
        address: SocketAddr,
        settings: &[(&str, &str)],
    ) -> Result<Process, Error> {
        let mut command = Command::new(program);
        command.args(role).env_clear().env("AMENDS_LISTEN", address.to_string());
        // The clients of proofs have no tokens.
        command.env("AMENDS_NO_AUTH", "true");
        command.env("AMENDS_INVENTORY_URL", format!("http://{}", self.inventory));
        command.env("AMENDS_LOG", &self.options.log).env("KAFKA_BROKERS", &self.brokers);
        for (database, url) in &self.urls {
            command.env(format!("AMENDS_{}_DATABASE_URL", database.to_ascii_uppercase()), url);
        }
        let ours = self.options.settings.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        for (key, value) in ours.chain(settings.iter().copied()) {
            command.env(format!("AMENDS_{}", key.to_ascii_uppercase()), value);
        }
        Process::spawn(command, role, address, self.directory.path())
    }

    /// Starts one process of each role, and waits until they are ready.
    pub async fn start_roles(&self) -> Result<Vec<Process>, Error> {
        let mut roles = Vec::new();
        for role in ROLES.iter() {
            roles.push(match role[..] {
                ["worker", "inventory"] => self.spawn_inventory(&[])?,
                _ => self.spawn(role, &[])?,
            });
        }
        for role in &mut roles {
            role.ready().await?;
        }
        Ok(roles)
    }

    /// Shuts both servers down in order and removes their data. Roles must have ended.
    pub async fn stop(self) {
        self.kafka.stop();
        self.server.stop().await;
    }
}

/// Makes a directory for the data and logs of a deployment.
pub fn directory() -> Result<TempDir, Error> {
    // Other users may pass through it: as root, Postgres runs as another user.
    let reachable = Permissions::from_mode(0o711);
    tempfile::Builder::new().permissions(reachable).tempdir().map_err(Error::io("making a directory"))
}

/// Returns a free port of 127.0.0.1.
pub fn free_address() -> Result<SocketAddr, Error> {
    let port = amends_embedded::free_port().map_err(Error::io("looking for a port"))?;
    Ok((Ipv4Addr::LOCALHOST, port).into())
}

/// Starts the server, or clears the one that is there.
async fn server(options: &Options, directory: &Path) -> Result<Server, Error> {
    if let Some(citus) = &options.citus {
        citus.clear().await?;
        return Ok(Server::Citus(citus.clone()));
    }
    let mut own = PostgresOptions::new(directory.join("postgres"));
    own.settings.clone_from(&options.postgres);
    Ok(Server::Own(Postgres::start(own).await?))
}

/// Sets up the databases; returns each login role's connection string.
fn migrate(options: &Options, server: &Server) -> Result<BTreeMap<&'static str, String>, Error> {
    let program = &options.program;
    let mut command = Command::new(program);
    command.arg("migrate").env_clear().env("DATABASE_URL", server.url("postgres")).stdin(Stdio::null());
    if let Some(citus) = server.citus() {
        command.env("AMENDS_DISTRIBUTED", "citus");
        for setting in ["homes", "reply_partitions"] {
            if let Some(value) = options.settings.get(setting) {
                command.env(format!("AMENDS_{}", setting.to_ascii_uppercase()), value);
            }
        }
        for name in DATABASES.iter() {
            command.env(format!("AMENDS_{}_DATABASE_URL", name.to_ascii_uppercase()), citus.role_url(name));
        }
    }
    let output = command.output().map_err(Error::io(format!("running {}", program.display())))?;
    if !output.status.success() {
        return Err(Error::Migrate(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let url = |name: &str| {
        let prefix = format!("AMENDS_{}_DATABASE_URL=", name.to_ascii_uppercase());
        let drawn = printed.lines().find_map(|line| line.strip_prefix(&prefix)).map(str::to_owned);
        drawn.or_else(|| server.citus().map(|citus| citus.role_url(name)))
    };
    DATABASES
        .iter()
        .map(|&name| Ok((name, url(name).ok_or_else(|| Error::Migrate(format!("no URL for {name}")))?)))
        .collect()
}
