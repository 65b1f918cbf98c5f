//! The installed Postgres on a private cluster.

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{
    Connection, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};

use crate::{
    cluster::Cluster,
    options::{Error, PostgresOptions, SUPERUSER},
    port::free_port,
    supervisor::Supervisor,
};

/// Number of start attempts: another process may take the free port before the server does.
const START_ATTEMPTS: usize = 5;

/// How long a server may recover before its start counts as failed.
const START_PATIENCE: Duration = Duration::from_secs(300);

/// A running private Postgres. If it ends unexpectedly, it is restarted on the same port. When dropped, it ends at
/// once; [`Self::stop`] shuts it down in order.
#[derive(Debug)]
pub struct Postgres {
    cluster: Arc<Cluster>,
    supervisor: Supervisor,
    address: SocketAddr,
}

impl Postgres {
    /// Creates the cluster if there is none, starts the server and waits until it answers.
    pub async fn start(options: PostgresOptions) -> Result<Self, Error> {
        let asked = options.clone();
        let cluster = tokio::task::spawn_blocking(move || Cluster::open(&asked))
            .await
            .expect("opening a cluster does not panic")?;
        let cluster = Arc::new(cluster);
        let settings = settings(&options);
        let mut attempt = 1;
        loop {
            let port = match options.port {
                Some(port) => port,
                None => free_port()
                    .map_err(|error| Error::io("looking for a port for", &options.data_dir, error))?,
            };
            tracing::info!(port, directory = %cluster.directory.display(), "starting Postgres");
            let (starting, settings) = (cluster.clone(), settings.clone());
            let supervisor = Supervisor::start("postgres", move || starting.server(port, &settings))
                .map_err(|error| Error::io("starting a thread for", &cluster.directory, error))?;
            let address = (options.address, port).into();
            let server = Self { cluster: cluster.clone(), supervisor, address };
            match server.ready().await {
                Ok(()) => {
                    server.supervisor.keep_alive();
                    tracing::info!(port, "Postgres is ready");
                    return Ok(server);
                }
                Err(Error::Start { said, .. })
                    if options.port.is_none()
                        && attempt < START_ATTEMPTS
                        && said.contains("could not bind") =>
                {
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns the superuser's connection string to a database. It contains the password.
    pub fn url(&self, database: &str) -> String {
        // Its own server has no certificate; without asking for encryption a connection is a round trip shorter.
        let (password, address) = (&self.cluster.password, self.address);
        format!("postgres://{SUPERUSER}:{password}@{address}/{database}?sslmode=disable")
    }

    /// Returns the port at which it listens.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Returns the address and port at which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the directory of its data.
    pub fn directory(&self) -> &Path {
        &self.cluster.directory
    }

    /// Shuts it down in order.
    pub async fn stop(self) {
        self.supervisor.stop(Duration::from_secs(10)).await;
        tracing::info!("Postgres has stopped");
    }

    async fn ready(&self) -> Result<(), Error> {
        let begun = Instant::now();
        let mut told = begun;
        let options = self.connect_options();
        loop {
            let connection = PgConnection::connect_with(&options);
            tokio::select! {
                end = self.supervisor.ended() => {
                    return Err(Error::Start { end, said: self.cluster.last_log_lines() });
                }
                connected = connection => match connected {
                    Ok(connection) => {
                        let _ = connection.close().await;
                        return Ok(());
                    }
                    Err(error) if is_permanent(&error) => {
                        return Err(Error::Refused { path: self.cluster.password_file(), source: error });
                    }
                    Err(error) if begun.elapsed() > START_PATIENCE => {
                        return Err(Error::Start { end: error.to_string(), said: self.cluster.last_log_lines() });
                    }
                    Err(error) if told.elapsed() > Duration::from_secs(2) => {
                        told = Instant::now();
                        tracing::info!(waited = ?begun.elapsed(), %error, "Postgres is not ready yet");
                    }
                    Err(_) => {}
                },
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn connect_options(&self) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host(&self.address.ip().to_string())
            .port(self.address.port())
            .username(SUPERUSER)
            .password(&self.cluster.password)
            .database("postgres")
            .ssl_mode(PgSslMode::Disable)
    }
}

/// Returns whether the server has answered and would give the same answer again: it is not merely starting, stopping or
/// full.
fn is_permanent(error: &sqlx::Error) -> bool {
    // cannot_connect_now, too_many_connections
    const STARTING_SQLSTATES: [&str; 2] = ["57P03", "53300"];
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| !STARTING_SQLSTATES.contains(&code.as_ref()))
}

fn settings(options: &PostgresOptions) -> Vec<(String, String)> {
    let address = options.address.to_string();
    let mut settings = vec![
        ("listen_addresses", address.as_str()),
        // None: a socket's path may be too long, and /var/run/postgresql is not ours.
        ("unix_socket_directories", ""),
        ("max_connections", "200"),
        ("timezone", "UTC"),
        ("log_timezone", "UTC"),
    ];
    if !options.fsync {
        settings.extend([("fsync", "off"), ("synchronous_commit", "off"), ("full_page_writes", "off")]);
    }
    let ours = settings.into_iter().map(|(key, value)| (key.into(), value.into()));
    ours.chain(options.settings.iter().cloned()).collect()
}
