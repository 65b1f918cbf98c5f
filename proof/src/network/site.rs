//! A deployment in which every process is in a network namespace of its own, with two processes of every role.

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use amends_embedded::{Postgres, PostgresOptions};
use tokio::time::sleep;

use super::{
    Error,
    namespaces::{Namespaces, inside},
    plan::{Cut, Direction, FIRST_MEMBERS, KAFKA, POSTGRES, Place, member, places},
};
use crate::{
    books,
    campaign::{client::Client, fleet::be_impatient, record::Record},
    deployment::{self, Deployment, Kafka, Options, Process, ROLES, Server},
};

/// Ports, the same in each namespace: of roles, Postgres, and the broker.
const ROLE_PORT: u16 = 8080;
const POSTGRES_PORT: u16 = 5432;
const KAFKA_PORT: u16 = 9092;
/// How long a probe waits for a connection.
const PROBE: Duration = Duration::from_millis(700);
/// How long a connection may take on a busy machine that is not cut off.
const PROBE_PATIENCE: Duration = Duration::from_secs(10);

/// The whole deployment. Dropped in this order: processes, servers, namespaces.
#[derive(Debug)]
pub struct Site {
    processes: BTreeMap<String, Process>,
    /// The servers.
    pub deployment: Deployment,
    token: String,
    places: BTreeMap<String, Place>,
    namespaces: Arc<Namespaces>,
}

/// A cut that is in effect. Dropped, it ends.
#[derive(Debug)]
pub struct Barrier {
    namespaces: Arc<Namespaces>,
    /// From which place to which packets are dropped.
    ways: Vec<(Place, Place)>,
}

impl Drop for Barrier {
    fn drop(&mut self) {
        for (from, to) in &self.ways {
            // If the namespace is gone, so is its rule.
            let _ = self.namespaces.let_packets_pass(from, to);
        }
    }
}

impl Site {
    /// Makes the namespaces, starts servers and processes in them, and waits until all are ready.
    pub async fn start(program: &Path) -> Result<Self, Error> {
        let places: BTreeMap<_, _> = places().into_iter().map(|place| (place.name.clone(), place)).collect();
        let namespaces = Arc::new(Namespaces::create(&places.values().cloned().collect::<Vec<_>>())?);
        let at = |name: &str, port| SocketAddr::from((places[name].address, port));
        let directory = deployment::directory()?;
        let mut options = Options::new(program);
        options.kafka.address = Some(at(KAFKA, KAFKA_PORT));
        be_impatient(&mut options);
        let token = tokens(&mut options, directory.path())?;

        let mut own = PostgresOptions::new(directory.path().join("postgres"));
        (own.address, own.port) = (places[POSTGRES].address, Some(POSTGRES_PORT));
        let (data, asked) = (directory.path().join("kafka"), options.kafka.clone());
        let (server, kafka) = tokio::join!(
            serve(POSTGRES, async move || Postgres::start(own).await.map_err(deployment::Error::from)),
            serve(KAFKA, async move || Kafka::start(data, asked).await)
        );
        let inventory = at(&member("inventory", 1), ROLE_PORT);
        let deployment = Deployment::over(options, directory, Server::Own(server?), kafka?, inventory)?;
        books::note_events(&deployment.pool("engine")).await?;
        let mut site = Self { processes: BTreeMap::new(), deployment, token, places, namespaces };
        let first =
            ROLES.iter().flat_map(|role| (1..=FIRST_MEMBERS).map(|n| member(role[role.len() - 1], n)));
        let first: Vec<_> = first.collect();
        for name in &first {
            site.spawn(name)?;
        }
        for name in &first {
            site.ready(name).await?;
        }
        Ok(site)
    }

    /// Returns a place by its name.
    pub fn place(&self, name: &str) -> &Place {
        &self.places[name]
    }

    /// Returns all places.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.places.values()
    }

    /// Returns the address of a role's process.
    pub fn address(&self, name: &str) -> SocketAddr {
        (self.places[name].address, ROLE_PORT).into()
    }

    /// Returns a client of these apis.
    pub fn client(&self, apis: &[usize], record: &Record) -> Client {
        let apis: Vec<_> = apis.iter().map(|number| self.address(&member("api", *number))).collect();
        Client::with_token(&apis, &self.token, record.clone())
    }

    /// Starts a role's process in its place, without waiting.
    pub fn spawn(&mut self, name: &str) -> Result<(), Error> {
        let (last, _) = name.rsplit_once('-').expect("a role and a number");
        let role = ROLES.iter().find(|role| role[role.len() - 1] == last).expect("a role");
        let (deployment, address) = (&self.deployment, self.address(name));
        let process = inside(name, || deployment.spawn_at(role, address, &[]))??;
        self.processes.insert(name.to_owned(), process);
        Ok(())
    }

    /// Waits until a process is ready.
    pub async fn ready(&mut self, name: &str) -> Result<(), Error> {
        match self.processes.get_mut(name) {
            Some(process) => Ok(process.ready().await?),
            None => Ok(()),
        }
    }

    /// Ends a process in good order.
    pub async fn stop(&mut self, name: &str) {
        if let Some(process) = self.processes.remove(name) {
            process.stop().await;
        }
    }

    /// Restarts the processes that have ended by themselves; returns their names.
    pub fn revive(&mut self) -> Result<Vec<String>, Error> {
        let ended = self.processes.iter_mut().filter_map(|(name, process)| {
            let has_ended = !process.is_running();
            has_ended.then(|| name.clone())
        });
        let ended: Vec<_> = ended.collect();
        for name in &ended {
            self.spawn(name)?;
        }
        Ok(ended)
    }

    /// Puts a cut into effect.
    pub fn cut(&self, cut: &Cut) -> Result<Barrier, Error> {
        let client = self.place(&cut.client_place()).clone();
        let server = self.place(&cut.link.server_place()).clone();
        let (there, back) = ((client.clone(), server.clone()), (server, client));
        let ways = match cut.direction {
            Direction::Both => vec![there, back],
            Direction::ToServer => vec![there],
            Direction::ToClient => vec![back],
        };
        let mut barrier = Barrier { namespaces: Arc::clone(&self.namespaces), ways: Vec::new() };
        for (from, to) in ways {
            self.namespaces.drop_packets(&from, &to)?;
            barrier.ways.push((from, to));
        }
        Ok(barrier)
    }

    /// Tries once to connect from a cut's client to its server: `true` if that works, `false` if nothing answers in time.
    ///
    /// # Errors
    /// [`Error::Io`]: it was refused, which is no silence.
    pub async fn reaches(&self, cut: &Cut) -> Result<bool, Error> {
        let server = cut.link.server_place();
        let port = match server.as_str() {
            POSTGRES => POSTGRES_PORT,
            KAFKA => KAFKA_PORT,
            _ => ROLE_PORT,
        };
        let (client, address) = (cut.client_place(), SocketAddr::from((self.place(&server).address, port)));
        let what = format!("connecting from {client} to {server}");
        let connecting = tokio::task::spawn_blocking(move || {
            inside(&client, || TcpStream::connect_timeout(&address, PROBE))
        });
        match connecting.await.expect("it does not panic")? {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => Ok(false),
            Err(error) => Err(Error::io(what)(error)),
        }
    }

    /// Waits until a cut's client reaches its server; returns whether it does.
    pub async fn comes_to_reach(&self, cut: &Cut) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < PROBE_PATIENCE {
            if matches!(self.reaches(cut).await, Ok(true)) {
                return true;
            }
            sleep(Duration::from_millis(100)).await;
        }
        false
    }

    /// Ends everything.
    pub async fn end(mut self) {
        self.processes.clear();
        self.deployment.stop().await;
    }
}

/// Starts a server in its namespace, on a thread and a runtime of its own: its process belongs where its starter is.
async fn serve<T: Send + 'static>(
    place: &'static str,
    start: impl AsyncFnOnce() -> Result<T, deployment::Error> + Send + 'static,
) -> Result<T, Error> {
    let starting = tokio::task::spawn_blocking(move || {
        inside(place, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime =
                runtime.map_err(|source| deployment::Error::Io { doing: "a runtime".into(), source })?;
            runtime.block_on(start())
        })
    });
    Ok(starting.await.expect("it does not panic")??)
}

/// Lets the api verify tokens, and workers the api: they listen where others could reach them. Returns an admin's token.
fn tokens(options: &mut Options, directory: &Path) -> Result<String, Error> {
    let data = directory.join("tokens");
    fs::create_dir(&data).map_err(Error::io("making a directory"))?;
    let (program, key) = (&options.program, data.join("key.pem"));
    let mut command = Command::new(program);
    command.args([
        "token",
        "--role",
        "admin",
        "--role",
        "storefront",
        "--subject",
        "network",
        "--ttl",
        "24h",
    ]);
    command.arg("--data").arg(&data).arg("--public-key").arg(&key).env_clear().stdin(Stdio::null());
    let output = command.output().map_err(Error::io(format!("running {}", program.display())))?;
    if !output.status.success() {
        return Err(Error::Token(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    for (setting, value) in [
        ("jwt_key_file", key.to_string_lossy().as_ref()),
        ("jwt_issuer", "amends-dev"),
        ("jwt_audience", "amends"),
        ("service_token", "between-the-services-of-a-proof"),
    ] {
        options.settings.insert(setting.to_owned(), value.to_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
