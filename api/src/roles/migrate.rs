//! `amends migrate`: databases, login roles, tables and keys.

use std::{borrow::Cow, collections::HashMap, str::FromStr, time::Duration};

use amends_postgres::{
    Homes,
    citus::{Cluster, distribute},
    deployment::{check_homes, ensure_deployment},
    keys::{self, Rotation, Stage, StoredKey},
};
use anyhow::{Context, Result, bail};
use percent_encoding::percent_decode_str;
use sqlx::{
    AssertSqlSafe, PgConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{
    services::{SERVICES, Service},
    settings::Settings,
};

/// Creates what is missing on `database_url`'s server and brings it up to date. If it creates a role without a given
/// password, it draws one and prints the role's setting.
pub async fn run(settings: &Settings, rotation: Rotation) -> Result<()> {
    let server = settings.server()?.to_owned();
    let mut passwords = HashMap::new();
    for Service { name, .. } in &SERVICES {
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
    let options = PgConnectOptions::from_str(server).context("database_url")?;
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
    let options = PgConnectOptions::from_str(server).context("database_url")?;
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
    for &Service { name, migrator, .. } in &SERVICES {
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
        match &cluster {
            Some(cluster) if name == "engine" => cluster.join(&database, &database).await?,
            _ => {}
        }
        migrator.run(&pool).await.with_context(|| format!("database {database}"))?;
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
