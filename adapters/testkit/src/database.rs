//! A migrated database for one test: a clone of a template that was migrated once.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::atomic::{AtomicU32, Ordering},
};

use sqlx::{
    AssertSqlSafe, Connection, PgConnection, PgPool,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{
    janitor,
    server::{ROLE_PASSWORD, Server, server},
};

/// A database of one test. It is dropped soon after this value.
#[derive(Debug)]
pub struct TestDatabase {
    /// Connections of the owner, who is also the superuser.
    pub pool: PgPool,
    /// The owner's connection string.
    pub url: String,
    name: String,
    owner: PgConnectOptions,
}

/// Creates a database with these migrations, named after the service, whose login role is called `amends_<name>`.
pub async fn database(migrator: &'static Migrator, name: &str) -> TestDatabase {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let server = server().await;
    let template = template(server, migrator, name).await;
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("{name}_{count}{}", janitor::mark());
    let mut connection = server.connect().await;
    execute(&mut connection, format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
    let _ = connection.close().await;

    let owner = server.options(&name);
    // Few connections, because there are many tests; unused connections are closed.
    let pool = PgPoolOptions::new().max_connections(10).connect_lazy_with(owner.clone());
    TestDatabase { pool, url: url(&owner, None), name, owner }
}

impl TestDatabase {
    /// A database on another server, which the caller has created and drops.
    pub fn elsewhere(owner: PgConnectOptions) -> Self {
        let pool = PgPoolOptions::new().max_connections(10).connect_lazy_with(owner.clone());
        let name = owner.get_database().unwrap_or_default().to_owned();
        Self { pool, url: url(&owner, None), name, owner }
    }
}

/// Creates a login role without a database here, which has no rights in the others' databases.
pub async fn login_role(role: &str) {
    let server = server().await;
    let mut lock = server.lock().await;
    server.make_role(role, &mut lock).await;
    let _ = lock.close().await;
}

impl TestDatabase {
    /// Returns the connection string of a service's login role.
    pub fn role_url(&self, role: &str) -> String {
        url(&self.owner, Some(role))
    }

    /// Returns the database's name on the server.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        janitor::drop_database(std::mem::take(&mut self.name));
    }
}

/// Returns the template's name; creates the template if it does not exist. Its name identifies its content, and it gets
/// that name only once it is complete, so that a process killed half-way leaves nothing wrong.
async fn template(server: &Server, migrator: &'static Migrator, name: &str) -> String {
    let mut hash = DefaultHasher::new();
    migrator.iter().for_each(|migration| (migration.version, &migration.checksum).hash(&mut hash));
    let template = format!("template_{name}_{:016x}", hash.finish());
    if exists(&mut server.connect().await, &template).await {
        return template;
    }
    let mut lock = server.lock().await;
    if !exists(&mut lock, &template).await {
        // The role exists before the migrations run, so that they can grant to it.
        server.make_role(&format!("amends_{name}"), &mut lock).await;
        let draft = format!("{template}_draft");
        execute(&mut lock, format!("DROP DATABASE IF EXISTS {draft} WITH (FORCE)")).await;
        execute(&mut lock, format!("CREATE DATABASE {draft} TEMPLATE template0")).await;
        let mut migrating = PgConnection::connect_with(&server.options(&draft)).await.expect("it is there");
        migrator.run(&mut migrating).await.expect("the migrations run");
        let _ = migrating.close().await;
        execute(&mut lock, format!("ALTER DATABASE {draft} RENAME TO {template}")).await;
    }
    let _ = lock.close().await;
    template
}

async fn exists(connection: &mut PgConnection, database: &str) -> bool {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
        .bind(database)
        .fetch_one(connection)
        .await
        .expect("databases can be listed")
}

async fn execute(connection: &mut PgConnection, sql: String) {
    let done = sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(connection).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Returns a connection string for the superuser, or for a login role.
fn url(options: &PgConnectOptions, role: Option<&str>) -> String {
    use sqlx::ConnectOptions;
    match role {
        None => options.to_url_lossy().to_string(),
        Some(role) => options.clone().username(role).password(ROLE_PASSWORD).to_url_lossy().to_string(),
    }
}
