//! A Citus that others run, in place of a Postgres of the deployment's own: its nodes can crash and go away, and homes move.

use std::{str::FromStr, time::Duration};

use amends_postgres::citus::Node;
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection, postgres::PgConnectOptions};

use super::{DATABASES, Error};

/// What a move leaves behind, which statements that began before it may still read, is taken away within so many rounds.
const CLEANUP_ROUNDS: u32 = 300;
/// Interval between two such rounds.
const CLEANUP_EVERY: Duration = Duration::from_millis(100);

/// A Citus with at least two worker nodes. The databases `amends_…` on it belong to the run that uses it last.
#[derive(Debug, Clone)]
pub struct Citus {
    coordinator: Box<PgConnectOptions>,
}

impl Citus {
    /// The one with this coordinator: a superuser's URL of a database in which the nodes are registered.
    ///
    /// # Errors
    /// [`Error::Database`]: no URL.
    pub fn at(coordinator: &str) -> Result<Self, Error> {
        Ok(Self { coordinator: Box::new(PgConnectOptions::from_str(coordinator)?) })
    }

    /// Returns the superuser's URL of a database on the coordinator.
    pub fn url(&self, database: &str) -> String {
        self.coordinator.clone().database(database).to_url_lossy().to_string()
    }

    /// Returns the coordinator's host and port.
    pub fn address(&self) -> (&str, u16) {
        (self.coordinator.get_host(), self.coordinator.get_port())
    }

    /// Returns the URL of a database's login role, with the password that it gets.
    pub fn role_url(&self, name: &str) -> String {
        let role = format!("amends_{name}");
        self.coordinator
            .clone()
            .database(&role)
            .username(&role)
            .password("amends-test")
            .to_url_lossy()
            .to_string()
    }

    /// Drops the databases that `amends migrate` creates, on every node.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn clear(&self) -> Result<(), Error> {
        let mut coordinator = self.coordinator.connect().await?;
        let every = "SELECT nodename AS host, nodeport AS port FROM pg_dist_node";
        for node in nodes(&mut coordinator, every).await? {
            let mut connection = self.connect(&node).await?;
            for name in DATABASES.iter() {
                let drop = format!("DROP DATABASE IF EXISTS amends_{name} WITH (FORCE)");
                sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut connection).await?;
            }
        }
        Ok(())
    }

    /// Returns the nodes that have homes.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn workers(&self) -> Result<Vec<Node>, Error> {
        let mut engine = self.coordinator.clone().database("amends_engine").connect().await?;
        let with_homes = "SELECT nodename AS host, nodeport AS port FROM pg_dist_node
                          WHERE noderole = 'primary' AND shouldhaveshards ORDER BY nodeid";
        nodes(&mut engine, with_homes).await
    }

    /// From now on the node's engine database accepts no connection, and has none.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn turn_away(&self, node: &Node) -> Result<(), Error> {
        let go = "ALTER DATABASE amends_engine ALLOW_CONNECTIONS false;
                  SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'amends_engine'";
        sqlx::raw_sql(go).execute(&mut self.connect(node).await?).await?;
        Ok(())
    }

    /// Ends [`Self::turn_away`].
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn let_in(&self, node: &Node) -> Result<(), Error> {
        let back = "ALTER DATABASE amends_engine ALLOW_CONNECTIONS true";
        sqlx::raw_sql(back).execute(&mut self.connect(node).await?).await?;
        Ok(())
    }

    /// kill -9 of one of the node's backends, whereupon its server ends all others and recovers from its log. Returns
    /// whether the connection ended by it.
    ///
    /// # Errors
    /// [`Error::Database`]: it could not be connected to, or refused the command.
    pub async fn crash(&self, node: &Node) -> Result<bool, Error> {
        let mut victim = self.connect(node).await?;
        match sqlx::raw_sql("COPY (SELECT) TO PROGRAM 'kill -9 $PPID'").execute(&mut victim).await {
            Ok(_) => Ok(false),
            // No answer of the server.
            Err(error) if error.as_database_error().is_none() => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Moves one home from a node to another; returns whether there was one. Waits first until nothing is left behind by
    /// a move before: a Citus refuses to move a home back to where a copy of it still is.
    ///
    /// # Errors
    /// [`Error::Database`]
    pub async fn move_home(&self, from: &Node, to: &Node) -> Result<bool, Error> {
        let mut engine = self.coordinator.clone().database("amends_engine").connect().await?;
        for _ in 0..CLEANUP_ROUNDS {
            sqlx::raw_sql("CALL citus_cleanup_orphaned_resources()").execute(&mut engine).await?;
            let left = "SELECT NOT EXISTS (SELECT FROM pg_dist_cleanup)";
            if sqlx::query_scalar(left).fetch_one(&mut engine).await? {
                break;
            }
            tokio::time::sleep(CLEANUP_EVERY).await;
        }
        // A shard of one table; those of the others that are colocated with it move along.
        let moved = "SELECT citus_move_shard_placement(shardid, $1, $2, $3, $4, 'block_writes')
                     FROM (SELECT shardid FROM citus_shards
                           WHERE table_name = 'slot_positions'::regclass AND nodename = $1 AND nodeport = $2
                           ORDER BY random() LIMIT 1) AS shard";
        let moved = sqlx::query(moved)
            .bind(&from.host)
            .bind(i32::from(from.port))
            .bind(&to.host)
            .bind(i32::from(to.port));
        Ok(moved.fetch_optional(&mut engine).await?.is_some())
    }

    /// Connects to the database of a node in which no table is distributed.
    async fn connect(&self, node: &Node) -> Result<PgConnection, Error> {
        let options = self.coordinator.clone().host(&node.host).port(node.port).database("postgres");
        Ok(options.connect().await?)
    }
}

async fn nodes(connection: &mut PgConnection, sql: &'static str) -> Result<Vec<Node>, Error> {
    let found: Vec<(String, i32)> = sqlx::query_as(sql).fetch_all(connection).await?;
    let node = |(host, port)| {
        let port = u16::try_from(port).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        Ok(Node { host, port })
    };
    found.into_iter().map(node).collect()
}
