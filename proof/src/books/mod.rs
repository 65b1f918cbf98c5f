//! The books: RELIABILITY's invariants over all five databases of a deployment at rest. Each is a line with the number
//! of things checked and the violations found. They are judged from the rows alone, by SQL that shares no code with the
//! engine; only the replay of the timelines uses the engine's own core.

mod ledger;
mod replays;
mod table;

use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};

pub use ledger::{Action, Ledger, Letter, Poison};
pub use table::{INVARIANTS, Line, Report};

use crate::deployment::{DATABASES, Deployment};

const GATHER: &str = include_str!("gather.sql");
const REPORT: &str = include_str!("report.sql");

/// Counts the changes of an order's status of which its customer is notified, in the engine's database.
pub const NOTIFIED_LABELS: &str =
    "SELECT count(*) FROM timeline AS t JOIN sagas AS s ON s.home = t.home AND s.id = t.saga_id
    WHERE s.workflow = 'order_fulfilment' AND t.body::jsonb -> 'did' ->> 'label'
          IN ('PENDING', 'FULFILLED', 'CANCELLED', 'FAILED', 'PAYMENT_FAILED', 'SHIPMENT_FAILED')";
/// Counts the same as the notification worker has recorded them, a row a channel, in its database.
pub const RECORDED_LABELS: &str = "SELECT count(*) FROM notifications WHERE channel = 'email'
    AND event_type IN ('order.created', 'order.fulfilled', 'order.cancelled', 'order.failed')";

/// Number of examples kept of each invariant's violations.
const EXAMPLES: i64 = 5;

/// Connection strings of the five databases, as superuser.
#[derive(Debug, Clone)]
pub struct Sources {
    /// A database whose connection gathers everything, in temporary tables. It gets the extensions `dblink` and
    /// `uuid-ossp` (Postgres' contrib).
    pub desk: String,
    /// Each of [`DATABASES`], in that order.
    pub databases: Vec<String>,
}

impl Sources {
    /// Returns those of a deployment.
    pub fn of(deployment: &Deployment) -> Self {
        let url = |name: &str| deployment.server.url(&format!("amends_{name}"));
        // In a distributed database no temporary tables can be joined; the nodes' registry is in `postgres`.
        let desk = if deployment.server.citus().is_some() { "amends_inventory" } else { "postgres" };
        Self {
            desk: deployment.server.url(desk),
            databases: DATABASES.iter().map(|name| url(name)).collect(),
        }
    }
}

/// Why a report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A database does not answer, or has a different schema.
    #[error("books: {0}")]
    Database(#[from] sqlx::Error),
    /// A saga's row or timeline cannot be read.
    #[error("books: {0}")]
    Store(#[from] amends_postgres::Error),
}

/// Reads all databases and checks every invariant. `ledger` is what is known from outside; invariants without the
/// needed data are not checked, and the report says so.
///
/// # Errors
/// [`Error`]; a violation is no error.
pub async fn report(sources: &Sources, ledger: &Ledger) -> Result<Report, Error> {
    let mut desk = connect(&sources.desk).await?;
    let extensions = "CREATE EXTENSION IF NOT EXISTS dblink; CREATE EXTENSION IF NOT EXISTS \"uuid-ossp\"";
    sqlx::raw_sql(extensions).execute(&mut desk).await?;
    for (name, url) in DATABASES.iter().zip(&sources.databases) {
        sqlx::query("SELECT dblink_connect($1, $2)")
            .bind(name)
            .bind(conninfo(url)?)
            .execute(&mut desk)
            .await?;
    }
    sqlx::raw_sql(GATHER).execute(&mut desk).await?;
    ledger.write(&mut desk).await?;
    sqlx::raw_sql(REPORT).execute(&mut desk).await?;
    let replayed = replays::check(&sources.databases[0]).await?;
    sqlx::query("INSERT INTO violations SELECT 10, what FROM UNNEST($1::text[]) AS what")
        .bind(&replayed.early)
        .execute(&mut desk)
        .await?;
    sqlx::query("INSERT INTO violations SELECT 8, what FROM UNNEST($1::text[]) AS what")
        .bind(&replayed.mismatches)
        .execute(&mut desk)
        .await?;
    sqlx::query("INSERT INTO looked_at VALUES (10, $1)").bind(replayed.wakes).execute(&mut desk).await?;
    let lines: Vec<(i32, Option<i64>, i64, Vec<String>)> = sqlx::query_as(AssertSqlSafe(format!(
        "SELECT n, (SELECT sum(things)::bigint FROM looked_at WHERE invariant = n),
                (SELECT count(*) FROM violations WHERE invariant = n),
                ARRAY(SELECT what FROM violations WHERE invariant = n LIMIT {EXAMPLES})
         FROM UNNEST($1::integer[]) AS n ORDER BY n"
    )))
    .bind(INVARIANTS.map(|(number, _)| number).as_slice())
    .fetch_all(&mut desk)
    .await?;
    desk.close().await?;
    Ok(Report { lines: lines.into_iter().map(Line::from).collect() })
}

async fn connect(url: &str) -> Result<PgConnection, sqlx::Error> {
    let options: PgConnectOptions = url.parse()?;
    options.application_name("amends-books").connect().await
}

/// Converts a connection string for libpq; it may have options that only sqlx knows.
fn conninfo(url: &str) -> Result<String, sqlx::Error> {
    let base = url.split_once('?').map_or(url, |(base, _)| base);
    // Parsed, so that a malformed one is reported here.
    let _: PgConnectOptions = base.parse()?;
    Ok(format!("{base}?application_name=amends-books"))
}
