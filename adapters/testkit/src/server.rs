//! The database server that the tests of this process share.

use std::{env, str::FromStr};

use amends_embedded::{Postgres, PostgresOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions};
use tokio::sync::OnceCell;

use crate::{janitor, scratch};

/// The password of every login role on a test server.
pub(crate) const ROLE_PASSWORD: &str = "amends-test";

/// Held while roles or templates are created, because other test processes may create them too.
const LOCK: i64 = 0x616d_656e_6473;

/// A server, identified by a superuser's connection options. It holds no connection: each test has its own runtime, and
/// a connection does not outlive the runtime that opened it.
pub(crate) struct Server {
    options: PgConnectOptions,
    _embedded: Option<Postgres>,
}

static SERVER: OnceCell<Server> = OnceCell::const_new();

/// Returns the server named by `AMENDS_TEST_DATABASE_URL`, or this process' own.
pub(crate) async fn server() -> &'static Server {
    SERVER
        .get_or_init(|| async {
            let server = match env::var("AMENDS_TEST_DATABASE_URL") {
                Ok(url) => {
                    let options =
                        PgConnectOptions::from_str(&url).expect("AMENDS_TEST_DATABASE_URL is a URL");
                    Server { options, _embedded: None }
                }
                Err(_) => embedded().await,
            };
            janitor::start(server.options.clone());
            server
        })
        .await
}

async fn embedded() -> Server {
    let mut options = PostgresOptions::new(scratch::directory().join("postgres"));
    options.fsync = false;
    options.scram = false;
    options.settings = vec![
        ("shared_buffers".into(), "64MB".into()),
        ("max_connections".into(), "400".into()),
        // Tests count what is read and written: no other test does so meanwhile.
        ("autovacuum".into(), "off".into()),
    ];
    let postgres = Postgres::start(options).await.expect("a Postgres for tests starts");
    let options = PgConnectOptions::from_str(&postgres.url("postgres")).expect("its URL is one");
    Server { options, _embedded: Some(postgres) }
}

impl Server {
    /// Returns the superuser's options for a database.
    pub(crate) fn options(&self, database: &str) -> PgConnectOptions {
        self.options.clone().database(database)
    }

    /// Connects to the database of the server's URL.
    pub(crate) async fn connect(&self) -> PgConnection {
        PgConnection::connect_with(&self.options).await.expect("the test server can be reached")
    }

    /// Returns a connection that holds the lock; closing it releases the lock.
    pub(crate) async fn lock(&self) -> PgConnection {
        let mut connection = self.connect().await;
        let locked = sqlx::query("SELECT pg_advisory_lock($1)").bind(LOCK).execute(&mut connection).await;
        locked.expect("an advisory lock can be had");
        connection
    }

    /// Creates a login role unless it exists. The caller holds the lock.
    pub(crate) async fn make_role(&self, role: &str, locked: &mut PgConnection) {
        let sql = format!(
            "DO $$ BEGIN
                 IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN CREATE ROLE {role}; END IF;
             END $$;
             ALTER ROLE {role} LOGIN PASSWORD '{ROLE_PASSWORD}'"
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(locked).await.expect("login roles can be made");
    }
}
