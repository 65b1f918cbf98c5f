//! The engine's database on Citus: a coordinator and worker nodes. Each home is on one node, and what the engine reads or
//! writes of it is one task there.

use std::{fmt, time::Duration};

use amends_pool::{Bounds, ROLE_SETTINGS};
use sqlx::{
    AssertSqlSafe, Connection, Executor, PgConnection, SqlSafeStr,
    migrate::{Migration, Migrator},
    postgres::{PgConnectOptions, PgPool, PgPoolOptions},
};
use tokio::time::timeout;

use crate::{Homes, MIGRATOR};

/// What differs from an ordinary Postgres, in order; each file is one transaction.
pub const FILES: [(&str, &str); 6] = [
    ("positions", include_str!("../../../migrations/citus/0001_positions.sql")),
    ("placement", include_str!("../../../migrations/citus/0002_placement.sql")),
    ("distribution", include_str!("../../../migrations/citus/0003_distribution.sql")),
    ("writes", include_str!("../../../migrations/citus/0004_writes.sql")),
    ("keys", include_str!("../../../migrations/citus/0005_keys.sql")),
    ("history", include_str!("../../../migrations/citus/0006_history.sql")),
];

/// How long a node waits for a connection to another.
const NODE_PATIENCE: &str = "2s";

/// Why a database cannot be distributed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database of the server's URL is not a coordinator's.
    #[error(
        "database {0} of database_url is not that of a Citus coordinator: it has no extension citus, or is on a worker node"
    )]
    NoCoordinator(String),
    /// A node cannot be reached, or does not answer.
    #[error("node {node} of the Citus cluster does not answer: {why}")]
    Away {
        /// The node.
        node: Node,
        /// Why.
        why: String,
    },
    /// A part of the distribution failed.
    #[error("the database could not be distributed ({part}): {why}")]
    Failed {
        /// The part.
        part: &'static str,
        /// Why.
        why: sqlx::Error,
    },
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// A server of the cluster, as the others reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The servers of a cluster, as the coordinator's own database knows them.
#[derive(Debug, Clone)]
pub struct Cluster {
    options: PgConnectOptions,
    coordinator: Node,
    workers: Vec<Node>,
    patience: Duration,
}

impl Cluster {
    /// Reads the nodes from the coordinator's database, and connects to each, so that nothing begins if one is away.
    ///
    /// # Errors
    /// [`Error::NoCoordinator`], [`Error::Away`], or the database's.
    pub async fn of(options: &PgConnectOptions, patience: Duration) -> Result<Self, Error> {
        let coordinator = Node { host: options.get_host().to_owned(), port: options.get_port() };
        let mut cluster = Self { options: options.clone(), coordinator, workers: Vec::new(), patience };
        let mut connection = cluster.connect(&cluster.coordinator, None).await?;
        let has_extension = "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')";
        let mut is_coordinator: bool = sqlx::query_scalar(has_extension).fetch_one(&mut connection).await?;
        if is_coordinator {
            is_coordinator =
                sqlx::query_scalar("SELECT citus_is_coordinator()").fetch_one(&mut connection).await?;
        }
        if !is_coordinator {
            let name = options.get_database().unwrap_or_else(|| options.get_username());
            return Err(Error::NoCoordinator(name.to_owned()));
        }
        let nodes: Vec<(i32, String, i32)> = sqlx::query_as(
            "SELECT groupid, nodename, nodeport FROM pg_dist_node WHERE noderole = 'primary' AND isactive ORDER BY nodeid",
        )
        .fetch_all(&mut connection)
        .await?;
        connection.close().await?;
        for (group, host, port) in nodes {
            let node = Node { host, port: u16::try_from(port).unwrap_or_default() };
            match group {
                0 => cluster.coordinator = node,
                _ => cluster.workers.push(node),
            }
        }
        for worker in &cluster.workers {
            cluster.connect(worker, None).await?.close().await?;
        }
        Ok(cluster)
    }

    /// Connects to a node: to this database, or to that of the server's URL. The coordinator is reached by the URL itself.
    async fn connect(&self, node: &Node, database: Option<&str>) -> Result<PgConnection, Error> {
        let mut options = self.options.clone();
        if *node != self.coordinator {
            options = options.host(&node.host).port(node.port);
        }
        if let Some(database) = database {
            options = options.database(database);
        }
        let away = |why: String| Error::Away { node: node.clone(), why };
        let connected = timeout(self.patience, PgConnection::connect_with(&options)).await;
        let mut connection = connected
            .map_err(|_| away(format!("no answer within {}s", self.patience.as_secs_f32())))?
            .map_err(|error| away(error.to_string()))?;
        // What is done here is done on each node by itself.
        connection.execute("SET citus.enable_ddl_propagation = off").await?;
        Ok(connection)
    }

    /// Creates a login role and its database on the worker nodes as they are on the coordinator, and makes the databases
    /// of all nodes one cluster.
    ///
    /// # Errors
    /// [`Error::Away`], or the database's. What was done before is valid and stays.
    pub async fn join(&self, database: &str, role: &str) -> Result<(), Error> {
        let mut coordinator = self.connect(&self.coordinator, Some(database)).await?;
        let password: Option<String> =
            sqlx::query_scalar("SELECT quote_literal(rolpassword) FROM pg_authid WHERE rolname = $1")
                .bind(role)
                .fetch_one(&mut coordinator)
                .await?;
        let password = password.map(|hash| format!(" PASSWORD {hash}")).unwrap_or_default();
        for worker in &self.workers {
            let mut connection = self.connect(worker, None).await?;
            // The names are ours and contain no input.
            let verb =
                if has(&mut connection, "pg_roles", "rolname", role).await? { "ALTER" } else { "CREATE" };
            run(&mut connection, format!("{verb} ROLE {role} LOGIN{password}")).await?;
            if !has(&mut connection, "pg_database", "datname", database).await? {
                run(&mut connection, format!("CREATE DATABASE {database}")).await?;
            }
            run(&mut connection, format!("REVOKE CONNECT ON DATABASE {database} FROM PUBLIC")).await?;
            run(&mut connection, format!("GRANT CONNECT ON DATABASE {database} TO {role}")).await?;
            connection.close().await?;
        }
        for node in self.workers.iter().chain([&self.coordinator]) {
            let mut connection = self.connect(node, Some(database)).await?;
            run(&mut connection, "CREATE EXTENSION IF NOT EXISTS citus".to_owned()).await?;
            let bounds = Bounds::default().statement.as_millis().to_string();
            for (setting, value) in ROLE_SETTINGS.into_iter().chain([
                ("statement_timeout", bounds.as_str()),
                // In a generic plan the home is not known, and a function is not executed where its home is.
                ("plan_cache_mode", "force_custom_plan"),
                // A node that does not answer must not make the others wait.
                ("citus.node_connection_timeout", NODE_PATIENCE),
                // A transaction's own bound on waiting for locks counts on the node that has the rows, too.
                ("citus.propagate_set_commands", "local"),
            ]) {
                let set = format!("ALTER ROLE {role} IN DATABASE {database} SET {setting} = '{value}'");
                run(&mut connection, set).await?;
            }
            connection.close().await?;
        }
        let alone: bool =
            sqlx::query_scalar("SELECT NOT EXISTS (SELECT FROM pg_dist_node WHERE groupid = 0)")
                .fetch_one(&mut coordinator)
                .await?;
        let Node { host, port } = &self.coordinator;
        if alone {
            sqlx::query("SELECT citus_set_coordinator_host($1, $2)")
                .bind(host)
                .bind(i32::from(*port))
                .execute(&mut coordinator)
                .await?;
        }
        for Node { host, port } in &self.workers {
            sqlx::query("SELECT citus_add_node($1, $2)")
                .bind(host)
                .bind(i32::from(*port))
                .execute(&mut coordinator)
                .await?;
        }
        if self.workers.is_empty() {
            // One node is a cluster too.
            sqlx::query("SELECT citus_set_node_property(nodename, nodeport, 'shouldhaveshards', true) FROM pg_dist_node")
                .execute(&mut coordinator)
                .await?;
        }
        Ok(coordinator.close().await?)
    }

    /// Executes statements on each node by itself, in the database of the server's URL.
    ///
    /// # Errors
    /// [`Error::Away`], or the database's.
    pub async fn on_each_node(&self, sql: &str) -> Result<(), Error> {
        for node in self.workers.iter().chain([&self.coordinator]) {
            let mut connection = self.connect(node, None).await?;
            run(&mut connection, sql.to_owned()).await?;
            connection.close().await?;
        }
        Ok(())
    }

    /// Returns the worker nodes.
    pub fn workers(&self) -> &[Node] {
        &self.workers
    }

    /// Creates the owner's connections to a database of the coordinator, for its migrations.
    ///
    /// # Errors
    /// The database's.
    pub async fn pool(&self, database: &str) -> Result<PgPool, Error> {
        let options = self
            .options
            .clone()
            .database(database)
            // Many tables are changed in one transaction.
            .options([("citus.multi_shard_modify_mode", "sequential")]);
        let pool = PgPoolOptions::new().max_connections(2).acquire_timeout(self.patience);
        Ok(pool.connect_with(options).await?)
    }
}

/// The migrations of [`MIGRATOR`] for a database that may be distributed already. Each index is created by a statement of its
/// own: with a `CREATE INDEX` Citus sends its nodes the whole text that it is part of, and they refuse several statements
/// at once. The checksums are those of the files.
#[must_use]
pub fn migrator() -> Migrator {
    let alone = |migration: &Migration| Migration {
        sql: AssertSqlSafe(indexes_alone(migration.sql.as_str())).into_sql_str(),
        ..migration.clone()
    };
    Migrator::with_migrations(MIGRATOR.iter().map(alone).collect())
}

/// Puts each `CREATE INDEX` at the beginning of a line, up to the semicolon at the end of one, into a block.
fn indexes_alone(sql: &str) -> String {
    let mut is_in_index = false;
    let mut alone = String::with_capacity(sql.len());
    for line in sql.lines() {
        if line.starts_with("CREATE INDEX ") || line.starts_with("CREATE UNIQUE INDEX ") {
            is_in_index = true;
            alone.push_str("DO $index$ BEGIN\n");
        }
        alone.push_str(line);
        alone.push('\n');
        if is_in_index && line.ends_with(';') {
            is_in_index = false;
            alone.push_str("END $index$;\n");
        }
    }
    alone
}

/// Distributes a migrated database, or brings its distribution up to date; run as the database's owner. All tables with
/// rows are distributed in one transaction.
///
/// # Errors
/// [`Error::Failed`]: the next call continues.
pub async fn distribute(pool: &PgPool, homes: Homes) -> Result<(), Error> {
    for (part, sql) in FILES {
        let failed = |why| Error::Failed { part, why };
        let mut tx = pool.begin().await.map_err(failed)?;
        let setting =
            "SELECT set_config('amends.homes', $1, true), set_config('client_min_messages', 'warning', true)";
        sqlx::query(setting).bind(homes.count().to_string()).execute(&mut *tx).await.map_err(failed)?;
        sqlx::raw_sql(sql).execute(&mut *tx).await.map_err(failed)?;
        tx.commit().await.map_err(failed)?;
    }
    Ok(())
}

async fn has(connection: &mut PgConnection, catalog: &str, column: &str, name: &str) -> Result<bool, Error> {
    let exists = format!("SELECT EXISTS (SELECT FROM {catalog} WHERE {column} = $1)");
    Ok(sqlx::query_scalar(AssertSqlSafe(exists)).bind(name).fetch_one(connection).await?)
}

async fn run(connection: &mut PgConnection, sql: String) -> Result<(), Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await?;
    Ok(())
}
