//! `amends migrate`: databases, login roles, tables and keys.

use std::{
    borrow::Cow,
    collections::HashMap,
    error::Error,
    str::FromStr,
    time::{Duration, Instant},
};

use amends_postgres::{
    Homes,
    citus::{self, Cluster, distribute},
    deployment::{check_homes, ensure_deployment},
    keys::{self, Rotation, Stage, StoredKey},
};
use anyhow::{Context, Result, bail};
use percent_encoding::percent_decode_str;
use sqlx::{
    AssertSqlSafe, ConnectOptions, FromRow, PgConnection, PgPool,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{
    services::{SERVICES, Service},
    settings::Settings,
};

/// How long a statement of a migration waits for a lock. Everything that needs the same table waits behind it.
const MIGRATION_LOCK_TIMEOUT: &str = "2s";
/// Pause before a migration that has waited in vain is tried again: what waited behind it goes on.
const MIGRATION_LOCK_PAUSE: Duration = Duration::from_secs(1);

/// Creates what is missing on `database_url`'s server and brings it up to date. If it creates a role without a given
/// password, it draws one and prints the role's setting.
pub async fn run(settings: &Settings, rotation: Rotation) -> Result<()> {
    let server = settings.server()?.to_owned();
    let mut passwords = HashMap::new();
    for Service { name, .. } in SERVICES {
        if let Ok(url) = settings.database_of(name) {
            passwords.extend(password(name, url)?.map(|password| (*name, password)));
        }
    }
    for made in migrate(&server, &passwords, settings.citus(), settings.start_timeout).await? {
        if let Some(password) = made.drawn {
            let url = role_url(&server, made.name, &password)?;
            println!("AMENDS_{}_DATABASE_URL={url}", made.name.to_ascii_uppercase());
        }
        eprintln!("amends: database amends_{} is up to date", made.name);
    }
    ensure_keys(&server, settings, rotation).await?;
    if rotation == Rotation::Rotate {
        eprintln!("amends: keys are rotated; restart every role before you rotate again");
    }
    Ok(())
}

/// Draws the missing keys of commands and replies, and rotates them if requested. Each participant's database has its
/// keys before the engine signs with them.
///
/// # Errors
/// A database cannot be reached; what was done before is valid and stays.
pub async fn ensure_keys(server: &str, settings: &Settings, rotation: Rotation) -> Result<()> {
    let options = PgConnectOptions::from_str(server).context("database_url")?.disable_statement_logging();
    let pool = async |name: &str| {
        let options = options.clone().database(&format!("amends_{name}"));
        PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(settings.start_timeout)
            .connect_with(options)
            .await
    };
    let engine = pool("engine").await?;
    keys::change_reply_key(&engine, rotation, &drawn_key()).await?;
    for participant in amends_workflows::all(&settings.workflows()).participants() {
        let draw = || StoredKey { stage: Stage::Next, id: drawn_key()[..8].to_owned(), hex: drawn_key() };
        let change = keys::change_command_keys(&engine, participant, rotation, draw).await?;
        let own = pool(participant).await?;
        let stored: Vec<_> =
            change.keys.iter().map(|key| (key.stage.as_str(), key.id.as_str(), key.hex.as_str())).collect();
        amends_worker::write_keys(&own, &stored).await.with_context(|| format!("keys of {participant}"))?;
        change.commit().await?;
        own.close().await;
    }
    engine.close().await;
    Ok(())
}

/// Returns 32 random bytes in hex.
fn drawn_key() -> String {
    let key: [u8; 32] = rand::random();
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A database that was brought up to date.
pub struct Made {
    pub name: &'static str,
    /// The password that was drawn for its role.
    pub drawn: Option<String>,
}

/// Creates what is missing; roles get these passwords. With `citus` the server is a coordinator, and the engine's database
/// gets this number of homes.
pub async fn migrate(
    server: &str,
    passwords: &HashMap<&'static str, String>,
    citus: Option<Homes>,
    patience: Duration,
) -> Result<Vec<Made>> {
    // Some statements have passwords in them.
    let options = PgConnectOptions::from_str(server).context("database_url")?.disable_statement_logging();
    let options = options.options([("lock_timeout", MIGRATION_LOCK_TIMEOUT)]);
    let cluster = match citus {
        Some(_) => Some(Cluster::of(&options, patience).await?),
        None => None,
    };
    let pool =
        |options| PgPoolOptions::new().max_connections(2).acquire_timeout(patience).connect_with(options);
    let server = pool(options.clone()).await.context("setting database_url: the server cannot be reached")?;
    let mut admin = server.acquire().await?;
    if cluster.is_some() {
        // The other services have ordinary databases on the coordinator.
        execute(&mut admin, "SET citus.enable_ddl_propagation = off".to_owned()).await?;
    }
    let mut made = Vec::new();
    for &Service { name, migrator, .. } in SERVICES {
        let drawn = role(&mut admin, name, passwords.get(name)).await?;
        let database = format!("amends_{name}");
        let there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
            .bind(&database)
            .fetch_one(&mut *admin)
            .await?;
        if !there {
            // The names are ours and contain no input.
            execute(&mut admin, format!("CREATE DATABASE {database}")).await?;
        }
        execute(&mut admin, format!("REVOKE CONNECT ON DATABASE {database} FROM PUBLIC")).await?;
        execute(&mut admin, format!("GRANT CONNECT ON DATABASE {database} TO {database}")).await?;
        let pool = match &cluster {
            Some(cluster) if name == "engine" => cluster.pool(&database).await?,
            _ => {
                let options = options.clone().database(&database);
                PgPoolOptions::new().max_connections(2).connect_with(options).await?
            }
        };
        if name == "engine" {
            check_homes(&pool, citus.unwrap_or(Homes::ONE)).await?;
        }
        let brought = match &cluster {
            Some(cluster) if name == "engine" => {
                cluster.join(&database, &database).await?;
                bring_up_to_date(&pool, &citus::migrator(), patience).await
            }
            _ => bring_up_to_date(&pool, migrator, patience).await,
        };
        brought.with_context(|| format!("database {database}"))?;
        if name == "engine" {
            if let Some(homes) = citus {
                distribute(&pool, homes).await?;
            }
            // Without this row no program uses the database.
            ensure_deployment(&pool, &drawn_key(), citus.unwrap_or(Homes::ONE)).await?;
        }
        pool.close().await;
        made.push(Made { name, drawn });
    }
    drop(admin);
    server.close().await;
    Ok(made)
}

/// Runs the migrations that are missing. One that waits for a lock gives way, and is tried again until the patience is over:
/// nothing waits for long behind a migration that itself waits behind a long transaction.
async fn bring_up_to_date(pool: &PgPool, migrator: &Migrator, patience: Duration) -> Result<()> {
    let begun = Instant::now();
    let mut connection = pool.acquire().await?;
    loop {
        let Err(error) = migrator.run(&mut *connection).await else { return Ok(()) };
        // It holds its own lock against other migrations still.
        sqlx::query("SELECT pg_advisory_unlock_all()").execute(&mut *connection).await?;
        if !is_for_a_lock(&error) {
            return Err(error.into());
        }
        let held = holders(pool).await?;
        if begun.elapsed() >= patience {
            bail!("a migration waits for a lock, and nothing was changed: {held}");
        }
        eprintln!("amends: a migration waits for a lock and will be tried again: {held}");
        tokio::time::sleep(MIGRATION_LOCK_PAUSE).await;
    }
}

/// Returns whether a migration failed because another transaction held what it needs.
fn is_for_a_lock(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref().is_some_and(amends_pool::sqlstate::is_locked) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// A transaction that is open in the database.
#[derive(FromRow)]
struct OpenTransaction {
    pid: i32,
    role: String,
    application: String,
    state: String,
    seconds: i64,
}

/// Returns, in words, the transactions that have been open for longest.
async fn holders(pool: &PgPool) -> Result<String> {
    let open: Vec<OpenTransaction> = sqlx::query_as(
        "SELECT pid, COALESCE(usename, '')::text AS role, application_name AS application, COALESCE(state, '') AS state,
                extract(epoch FROM clock_timestamp() - xact_start)::int8 AS seconds
         FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
         ORDER BY xact_start LIMIT 3",
    )
    .fetch_all(pool)
    .await?;
    let words = |open: &OpenTransaction| {
        let OpenTransaction { pid, role, application, state, seconds } = open;
        let of = if application.is_empty() { role.clone() } else { format!("{role}, {application}") };
        format!("pid {pid} ({of}: {state}) has been in a transaction for {seconds} s")
    };
    match open.as_slice() {
        [] => Ok("no other transaction is open any more".to_owned()),
        open => Ok(open.iter().map(words).collect::<Vec<_>>().join("; ")),
    }
}

/// Creates the login role. Returns the password if it had to draw one.
async fn role(admin: &mut PgConnection, name: &str, password: Option<&String>) -> Result<Option<String>> {
    let role = format!("amends_{name}");
    let there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)")
        .bind(&role)
        .fetch_one(&mut *admin)
        .await?;
    let drawn = (!there && password.is_none()).then(|| {
        let bytes: [u8; 16] = rand::random();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    });
    if let Some(password) = password.or(drawn.as_ref()) {
        let verb = if there { "ALTER" } else { "CREATE" };
        let quoted: String =
            sqlx::query_scalar("SELECT quote_literal($1)").bind(password).fetch_one(&mut *admin).await?;
        execute(admin, format!("{verb} ROLE {role} LOGIN PASSWORD {quoted}")).await?;
    }
    Ok(drawn)
}

async fn execute(admin: &mut PgConnection, sql: String) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(admin).await?;
    Ok(())
}

/// Returns a role's URL on a server.
pub fn role_url(server: &str, name: &str, password: &str) -> Result<String> {
    let mut url = reqwest::Url::parse(server).context("database_url")?;
    let role = format!("amends_{name}");
    url.set_path(&role);
    let fits = url.set_username(&role).and_then(|()| url.set_password(Some(password)));
    fits.ok().context("database_url cannot carry a user")?;
    Ok(url.into())
}

/// Returns the password in a role's URL; user and database must be the role's.
fn password(name: &str, url: &str) -> Result<Option<String>> {
    let setting = || format!("setting {name}_database_url");
    let url = reqwest::Url::parse(url).with_context(setting)?;
    let role = format!("amends_{name}");
    if url.username() != role || url.path().trim_start_matches('/') != role {
        bail!("{}: user and database must be {role}", setting());
    }
    let decoded = url.password().map(|p| percent_decode_str(p).decode_utf8().map(Cow::into_owned));
    decoded.transpose().with_context(setting)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_what_the_url_means_and_not_how_it_is_spelt() {
        let url = "postgres://amends_engine:p%40s%25s@db:5432/amends_engine";
        assert_eq!(password("engine", url).unwrap().as_deref(), Some("p@s%s"));
        assert_eq!(password("engine", "postgres://amends_engine@db/amends_engine").unwrap(), None);
        assert!(password("engine", "postgres://me:x@db/amends_engine").is_err());
        assert!(password("engine", "postgres://amends_engine:x@db/other").is_err());
        let made =
            role_url("postgres://postgres:a@db:5433/postgres?sslmode=disable", "payment", "x").unwrap();
        assert_eq!(made, "postgres://amends_payment:x@db:5433/amends_payment?sslmode=disable");
    }
}
