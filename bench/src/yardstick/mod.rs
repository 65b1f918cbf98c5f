//! What this machine's Postgres does without us, in the same run: a rate means little on a noisy machine, its ratio to
//! these does.
//!
//! * the *reference* ([`reference`]): one backend and plain SQL, frozen. It tells machines, and days, apart.
//! * the *ceiling* ([`ceiling`]): the rows that an order writes on its way, by the engine's own SQL, one connection.

pub mod ceiling;
pub mod reference;

use std::str::FromStr;

use amends_proof::deployment::Deployment;
use anyhow::Result;
use sqlx::{
    AssertSqlSafe, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

/// Both rates, in sagas a second.
#[derive(Debug, Clone, Copy)]
pub struct Yardsticks {
    pub reference_per_s: f64,
    pub ceiling_per_s: f64,
}

/// Measures both on a server that has nothing else to do.
pub async fn measure(deployment: &Deployment) -> Result<Yardsticks> {
    let database = scratch(deployment, "yardstick").await?;
    let reference_per_s = reference::measure(&database).await?;
    database.close().await;
    let database = scratch(deployment, "ceiling").await?;
    amends_postgres::MIGRATOR.run(&database).await?;
    database.close().await;
    let ceiling_per_s = ceiling::measure(&deployment.server.url("ceiling")).await?;
    for name in ["yardstick", "ceiling"] {
        sqlx::query(AssertSqlSafe(format!("DROP DATABASE {name}")))
            .execute(&deployment.pool("engine"))
            .await?;
    }
    Ok(Yardsticks { reference_per_s, ceiling_per_s })
}

async fn scratch(deployment: &Deployment, name: &str) -> Result<PgPool> {
    sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&deployment.pool("engine")).await?;
    let options = PgConnectOptions::from_str(&deployment.server.url(name))?;
    Ok(PgPoolOptions::new().max_connections(1).connect_with(options).await?)
}
