//! Options and errors of a private Postgres.

use std::{
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

pub(crate) const SUPERUSER: &str = "postgres";

/// How a private Postgres is created and run.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// Where the cluster is kept between runs. As root, a directory that the unprivileged user cannot reach is replaced
    /// by one under `/var/lib/amends`; [`Postgres::directory`](crate::Postgres::directory) returns it.
    pub data_dir: PathBuf,
    /// Whether commits survive a power failure. `false` is for tests.
    pub fsync: bool,
    /// Whether passwords are checked by SCRAM, which costs 50 ms per connection in an unoptimised build. `false` is for
    /// tests, which connect often. It is fixed when the cluster is created.
    pub scram: bool,
    /// Whether an existing cluster is deleted first.
    pub fresh: bool,
    /// The address at which it listens. At another than 127.0.0.1, whoever is in its network and has a password is let
    /// in; that is fixed when the cluster is created.
    pub address: Ipv4Addr,
    /// The port, or `None` for one that is free on 127.0.0.1.
    pub port: Option<u16>,
    /// Further settings of `postgresql.conf`.
    pub settings: Vec<(String, String)>,
}

impl PostgresOptions {
    /// A durable cluster in this directory, on a free port of 127.0.0.1.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            fsync: true,
            scram: true,
            fresh: false,
            address: Ipv4Addr::LOCALHOST,
            port: None,
            settings: Vec::new(),
        }
    }
}

/// Why Postgres could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No server binaries were found.
    #[error(
        "no PostgreSQL server found on PATH, by pg_config or in /usr/lib/postgresql; \
         install it (Debian, Ubuntu: the package `postgresql`) or name a server with DATABASE_URL"
    )]
    NotInstalled,
    /// Another process runs a server on the same data.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// The process runs as root, and no directory was found that an unprivileged user can reach.
    #[error("{} cannot be reached by an unprivileged user, as which Postgres must run", .0.display())]
    Unreachable(PathBuf),
    /// An operation on a file or directory failed.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// The operation.
        doing: &'static str,
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// There is a cluster without its password.
    #[error(
        "{} is missing or empty; without it the cluster beside it cannot be used: restore it, or remove the cluster \
         and its data by a fresh start",
        .0.display()
    )]
    PasswordLost(PathBuf),
    /// `initdb` failed.
    #[error("initdb: {0}")]
    Initdb(String),
    /// The server runs and refuses the password.
    #[error("Postgres does not accept the password in {}: {source}", path.display())]
    Refused {
        /// The file with the superuser's password.
        path: PathBuf,
        /// The server's error.
        source: sqlx::Error,
    },
    /// The server ended instead of becoming ready.
    #[error("Postgres did not start ({end}): {said}")]
    Start {
        /// How it ended.
        end: String,
        /// The last lines of its log.
        said: String,
    },
}

impl Error {
    pub(crate) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { doing, path: path.into(), source }
    }
}
