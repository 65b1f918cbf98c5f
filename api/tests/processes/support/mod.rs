//! A deployment of one test: databases, a broker, and processes that can be killed.

mod broker;
pub mod client;
pub mod document;
pub mod exposition;
pub mod headers;
pub mod issuer;
pub mod load;
mod process;
pub mod prometheus;
pub mod shop;

use std::{
    collections::BTreeMap,
    fs::File,
    net::SocketAddr,
    path::Path,
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use amends_api::services::{SERVICES, Service};
use amends_embedded::{Postgres, PostgresOptions};
use amends_proof::{
    books::Sources,
    deployment::{ROLES, citus::Citus},
};
use amends_testkit::{
    TestDatabase, TlsPostgres,
    proxy::{self, Proxy},
};
use sqlx::{ConnectOptions, PgPool, postgres::PgPoolOptions};
use tokio::sync::Mutex;

pub use amends_proof::deployment::free_address;
pub use broker::{Broker, KAFKA_ADMIN};
pub(crate) use broker::{on_apache, on_every_broker, on_the_best_broker};
use process::whole;
pub use process::{Process, clients};

/// Longer than anything that a test waits for, even on a busy machine.
pub const LONG: Duration = Duration::from_secs(90);

/// The setting of a role that must not wait long for what is not there.
pub const AWAY: (&str, &str) = ("AMENDS_START_TIMEOUT", "2s");

/// The setting with the token between the api and its services.
pub const SERVICE_TOKEN: &str = "AMENDS_SERVICE_TOKEN";

/// Databases, a broker, and the settings with which processes find them.
pub struct Stack {
    databases: BTreeMap<&'static str, Database>,
    pub broker: Broker,
    /// A server of its own, for tests that restart it.
    pub server: Option<Postgres>,
    settings: BTreeMap<String, String>,
    /// Addresses at which others look for the first process of a role.
    known: [Known; 3],
    /// The database in which the books are gathered.
    workspace: &'static str,
}

/// The address of the first process of a role.
struct Known {
    role: &'static [&'static str],
    /// The setting by which the others find it.
    setting: &'static str,
    address: SocketAddr,
    is_taken: AtomicBool,
}

impl Known {
    fn new(role: &'static [&'static str], setting: &'static str) -> Self {
        Self { role, setting, address: free_address().unwrap(), is_taken: AtomicBool::new(false) }
    }
}

/// The role that owns the stock.
const INVENTORY: &[&str] = &["worker", "inventory"];

/// One role's database.
struct Database {
    /// The owner's connections.
    pool: PgPool,
    /// The login role's connection string.
    url: String,
    /// Drops the database at the end.
    _clone: Option<TestDatabase>,
}

impl Stack {
    /// Creates the servers for the roles, with an embedded broker; no role runs yet.
    pub async fn embedded() -> Self {
        Self::new(Broker::embedded()).await
    }

    /// Creates the servers for the roles; no role runs yet.
    pub async fn new(broker: Broker) -> Self {
        let mut databases = BTreeMap::new();
        for &Service { name, migrator, .. } in SERVICES {
            let clone = amends_testkit::database(migrator, name).await;
            let (pool, url) = (clone.pool.clone(), clone.role_url(&format!("amends_{name}")));
            databases.insert(name, Database { pool, url, _clone: Some(clone) });
        }
        let key = "5a".repeat(32);
        amends_postgres::deployment::ensure_deployment(
            &databases["engine"].pool,
            &key,
            amends_postgres::Homes::ONE,
        )
        .await
        .unwrap();
        Self::over(broker, databases, None)
    }

    /// The same with the test's own server, which `amends migrate` has set up.
    pub async fn on_own_server(broker: Broker, data: &Path) -> Self {
        Self::on_server_with(broker, PostgresOptions::new(data)).await
    }

    /// The same with a server of these options.
    pub async fn on_server_with(broker: Broker, options: PostgresOptions) -> Self {
        let server = Postgres::start(options).await.unwrap();
        let databases = Self::migrated(|database| server.url(database));
        Self::over(broker, databases, Some(server))
    }

    /// The same with a server that takes encrypted connections only, with these parameters of URLs.
    pub fn on_tls_server(broker: Broker, server: &TlsPostgres, parameters: &str) -> Self {
        let databases = Self::migrated(|database| server.url(database, parameters));
        Self::over(broker, databases, None)
    }

    /// Has `amends migrate` set a server up, whose databases have these URLs.
    fn migrated(server_url: impl Fn(&str) -> String) -> BTreeMap<&'static str, Database> {
        let migrate = |url: String| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_amends"));
            command.arg("migrate").env_clear().env("DATABASE_URL", url).output().unwrap()
        };
        let output = migrate(server_url("postgres"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(migrate(server_url("postgres")).stdout.is_empty(), "a second time there is nothing to tell");
        let mut databases = BTreeMap::new();
        for &Service { name, .. } in SERVICES {
            let prefix = format!("AMENDS_{}_DATABASE_URL=", name.to_ascii_uppercase());
            let url =
                printed.lines().find_map(|line| line.strip_prefix(&prefix)).expect("its URL").to_owned();
            let pool = PgPoolOptions::new().connect_lazy(&server_url(&format!("amends_{name}"))).unwrap();
            databases.insert(name, Database { pool, url, _clone: None });
        }
        databases
    }

    /// The same on a Citus, with as many homes as there are partitions. What earlier tests have left there is dropped.
    pub async fn on_citus(broker: Broker, citus: &Citus) -> Self {
        citus.clear().await.unwrap();
        let (mut databases, mut migrate) = (BTreeMap::new(), Command::new(env!("CARGO_BIN_EXE_amends")));
        migrate.arg("migrate").env_clear().env("DATABASE_URL", citus.url("postgres"));
        migrate
            .env("AMENDS_DISTRIBUTED", "citus")
            .env("AMENDS_HOMES", "4")
            .env("AMENDS_REPLY_PARTITIONS", "4");
        for &Service { name, .. } in SERVICES {
            let role = citus.role_url(name);
            migrate.env(format!("AMENDS_{}_DATABASE_URL", name.to_ascii_uppercase()), &role);
            let pool = PgPoolOptions::new().connect_lazy(&citus.url(&format!("amends_{name}"))).unwrap();
            databases.insert(name, Database { pool, url: role, _clone: None });
        }
        let output = migrate.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut stack = Self::over(broker, databases, None);
        // In a distributed database no temporary tables can be joined.
        stack.workspace = "inventory";
        stack
    }

    fn over(broker: Broker, databases: BTreeMap<&'static str, Database>, server: Option<Postgres>) -> Self {
        broker.create_topics();
        Self {
            databases,
            broker,
            server,
            settings: BTreeMap::from([
                ("AMENDS_WEBHOOK_KEY".to_owned(), "5a".repeat(32)),
                ("AMENDS_WEBHOOK_ALLOW_PRIVATE".to_owned(), "true".to_owned()),
            ]),
            known: [
                Known::new(INVENTORY, "AMENDS_INVENTORY_URL"),
                Known::new(&["worker", "notification"], "AMENDS_NOTIFICATION_URL"),
                Known::new(&["api"], "AMENDS_API_URL"),
            ],
            workspace: "engine",
        }
    }

    /// From now on, the database of this name is the one on another server, with the same roles.
    pub fn move_to(&mut self, name: &'static str, server: &Postgres) {
        let database = self.databases.get_mut(name).unwrap();
        let mut url = reqwest::Url::parse(&database.url).unwrap();
        url.set_port(Some(server.port())).unwrap();
        database.url = url.into();
        database.pool = PgPoolOptions::new().connect_lazy(&server.url(&format!("amends_{name}"))).unwrap();
    }

    /// Sets a setting for every process that is started from now on.
    pub fn set(&mut self, key: &str, value: &str) -> &mut Self {
        self.settings.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Leaves a setting out for every process that is started from now on.
    pub fn unset(&mut self, key: &str) -> &mut Self {
        self.settings.remove(key);
        self
    }

    /// Connects every role to its database through a proxy, from now on.
    pub async fn through_proxies(&mut self) -> Vec<Proxy> {
        let mut proxies = Vec::new();
        for service in SERVICES {
            proxies.push(self.through_proxy(service.name).await);
        }
        proxies
    }

    /// Connects the roles that use the database of this name through a proxy, from now on.
    pub async fn through_proxy(&mut self, name: &str) -> Proxy {
        let database = self.databases.get_mut(name).unwrap();
        let proxy = proxy::faithful(&database.url).await;
        database.url.clone_from(&proxy.url);
        proxy
    }

    /// Returns a database, as its owner.
    pub fn pool(&self, name: &str) -> &PgPool {
        &self.databases[name].pool
    }

    /// Returns the connection string of a role's login role.
    pub fn role_url(&self, name: &str) -> &str {
        &self.databases[name].url
    }

    /// Returns all databases, as their owner.
    pub fn sources(&self) -> Sources {
        let url = |name: &str| self.pool(name).connect_options().to_url_lossy().to_string();
        Sources {
            workspace: url(self.workspace),
            databases: SERVICES.iter().map(|service| url(service.name)).collect(),
        }
    }

    /// Starts a role (`["worker", "payment"]`) without waiting for it.
    pub fn spawn(&self, role: &[&str]) -> Process {
        self.spawn_at(role, self.address_for(role))
    }

    /// Returns where a new process listens.
    fn address_for(&self, role: &[&str]) -> SocketAddr {
        let known = self.known.iter().find(|known| known.role == role);
        match known.filter(|known| !known.is_taken.swap(true, Ordering::Relaxed)) {
            Some(first) => first.address,
            None => free_address().unwrap(),
        }
    }

    fn spawn_at(&self, role: &[&str], address: SocketAddr) -> Process {
        let child = self.command(role, address).spawn().expect("the binary under test starts");
        Process { child, address, role: role.join(" ") }
    }

    /// Starts a role that logs to a file, and waits until it is ready.
    pub async fn start_with_log(&self, role: &[&str], log: &File) -> Process {
        let address = self.address_for(role);
        let mut command = self.command(role, address);
        let child = command.stderr(log.try_clone().unwrap()).spawn().expect("the binary under test starts");
        let process = Process { child, address, role: role.join(" ") };
        process.ready().await;
        process
    }

    /// Starts a role with a limit on its descriptors that logs to a file, and waits until it is ready.
    pub async fn start_with_descriptors(&self, role: &[&str], most: u32, log: &File) -> Process {
        let address = free_address().unwrap();
        let bare = self.command(role, address);
        let mut command = Command::new("sh");
        let limited = format!("ulimit -n {most} && exec \"$0\" \"$@\"");
        command.args(["-c", &limited]).arg(bare.get_program()).args(bare.get_args()).env_clear();
        command.envs(bare.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.try_clone().unwrap());
        let child = command.spawn().unwrap();
        let process = Process { child, address, role: role.join(" ") };
        process.ready().await;
        process
    }

    /// Starts a role of another build of the program, and waits until it is ready.
    pub async fn start_of(&self, program: &Path, role: &[&str]) -> Process {
        let address = free_address().unwrap();
        let child = self.command_of(program, role, address).spawn().expect("the other build starts");
        let process = Process { child, address, role: role.join(" ") };
        process.ready().await;
        process
    }

    /// Starts a role with further settings, and without the variable `left_out`, without waiting for it.
    pub fn spawn_with(&self, role: &[&str], settings: &[(&str, &str)], left_out: &str) -> Process {
        let address = self.address_for(role);
        let mut command = self.command(role, address);
        let child = command.envs(settings.iter().copied()).env_remove(left_out).spawn();
        Process { child: child.expect("the binary under test starts"), address, role: role.join(" ") }
    }

    /// Runs a role that is expected to end by itself, with other settings. Where it waits for what is not there, `AWAY` is
    /// among them.
    pub fn output(&self, role: &[&str], settings: &[(&str, &str)]) -> Output {
        self.ends(role, settings, LONG * 2).unwrap_or_else(|| panic!("{role:?} does not end by itself"))
    }

    /// The same; `None` if it had to be killed after a time.
    pub fn ends(&self, role: &[&str], settings: &[(&str, &str)], within: Duration) -> Option<Output> {
        let mut command = self.command(role, free_address().unwrap());
        command.envs(settings.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary under test starts");
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (stdout, stderr) = (thread::spawn(|| whole(stdout)), thread::spawn(|| whole(stderr)));
        let begun = Instant::now();
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if begun.elapsed() > within => break None,
                None => thread::sleep(Duration::from_millis(5)),
            }
        };
        if status.is_none() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
        status.map(|status| Output { status, stdout, stderr })
    }

    fn command(&self, role: &[&str], address: SocketAddr) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_amends")), role, address)
    }

    fn command_of(&self, program: &Path, role: &[&str], address: SocketAddr) -> Command {
        let mut command = Command::new(program);
        command
            .args(role)
            .env_clear()
            .env("AMENDS_LISTEN", address.to_string())
            .env("AMENDS_NO_AUTH", "true")
            .envs(self.known.iter().map(|known| (known.setting, format!("http://{}", known.address))))
            .env("AMENDS_SESSION_TIMEOUT", "3s")
            .env("AMENDS_START_TIMEOUT", "90s")
            .env("AMENDS_COMMAND_PARTITIONS", "4")
            .env("AMENDS_REPLY_PARTITIONS", "4")
            .env("AMENDS_LOG", std::env::var("TEST_LOG").unwrap_or_else(|_| "warn".to_owned()))
            .env("KAFKA_BROKERS", self.broker.bootstrap_servers())
            .envs(&self.settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if self.broker.real().is_none() {
            // The embedded broker does not answer a waiting fetch when messages arrive.
            command.env("AMENDS_FETCH_WAIT", "10ms");
        }
        for (name, database) in &self.databases {
            command.env(format!("AMENDS_{}_DATABASE_URL", name.to_ascii_uppercase()), &database.url);
        }
        command
    }

    /// Starts a role and waits until it is ready.
    pub async fn start(&self, role: &[&str]) -> Process {
        let process = self.spawn(role);
        process.ready().await;
        process
    }

    /// Starts one process of each role, or two on a real broker ([`ROLES`], and then the same again), and waits until
    /// they are ready.
    pub async fn start_all(&self) -> Vec<Process> {
        let rounds = if self.broker.real().is_some() { 2 } else { 1 };
        let all: Vec<Process> = (0..rounds).flat_map(|_| ROLES.iter()).map(|role| self.spawn(role)).collect();
        for process in &all {
            process.ready().await;
        }
        all
    }
}

/// Held by a test that migrates on the Citus: the databases' names are always the same.
pub static CITUS_TURN: Mutex<()> = Mutex::const_new(());
