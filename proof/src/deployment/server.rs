//! The server of a deployment's databases.

use std::path::Path;

use amends_embedded::Postgres;

use super::citus::Citus;

/// The server of a deployment's databases.
#[derive(Debug)]
pub enum Server {
    /// A Postgres of the deployment's own. It ends with it.
    Own(Postgres),
    /// A Citus that others run.
    Citus(Citus),
}

impl Server {
    /// Returns the superuser's URL of a database.
    pub fn url(&self, database: &str) -> String {
        match self {
            Self::Own(postgres) => postgres.url(database),
            Self::Citus(citus) => citus.url(database),
        }
    }

    /// Returns the host and port that clients connect to.
    pub fn address(&self) -> (String, u16) {
        match self {
            Self::Own(postgres) => (postgres.address().ip().to_string(), postgres.port()),
            Self::Citus(citus) => {
                let (host, port) = citus.address();
                (host.to_owned(), port)
            }
        }
    }

    /// Returns the directory of the deployment's own Postgres.
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Own(postgres) => Some(postgres.directory()),
            Self::Citus(_) => None,
        }
    }

    /// Returns the Citus, if the databases are on one.
    pub fn citus(&self) -> Option<&Citus> {
        match self {
            Self::Own(_) => None,
            Self::Citus(citus) => Some(citus),
        }
    }

    pub(super) async fn stop(self) {
        if let Self::Own(postgres) = self {
            postgres.stop().await;
        }
    }
}
