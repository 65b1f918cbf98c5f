//! The books: RELIABILITY's invariants over all five databases of an idle deployment. Each is a line with the number
//! of things checked and the violations found. They are judged from the rows alone, by SQL that shares no code with the
//! engine; only the replay of the timelines uses the engine's own core.

mod ledger;
mod replays;
mod table;

use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, PgPool, postgres::PgConnectOptions};

pub use ledger::{Action, DeadLetter, Ledger, Poison};
pub use table::{INVARIANTS, Line, Report};

use crate::deployment::{DATABASES, Deployment};

const GATHER: &str = include_str!("gather.sql");
const REPORT: &str = include_str!("report.sql");

/// Counts the changes of orders' statuses of which customers are notified, in the engine's database.
const NOTIFIED_LABELS: &str =
    "SELECT count(*) FROM timeline AS t JOIN sagas AS s ON s.home = t.home AND s.id = t.saga_id
    WHERE s.workflow = 'order_fulfilment' AND t.body::jsonb -> 'did' ->> 'label'
          IN ('PENDING', 'FULFILLED', 'CANCELLED', 'FAILED', 'PAYMENT_FAILED', 'SHIPMENT_FAILED')";
/// Counts the same as the notification worker has recorded them, a row a channel, in its database.
const RECORDED_LABELS: &str = "SELECT count(*) FROM notifications WHERE channel = 'email'
    AND event_type IN ('order.created', 'order.fulfilled', 'order.cancelled', 'order.failed')";
/// Notes every domain event that is published from now on: for a webhook that is disabled, so that nothing is sent.
const NOTE_EVENTS: &str = "INSERT INTO webhooks (id, url, types, format, secret, is_enabled)
    VALUES ('00000000-0000-7000-8000-00000000b00c', '', '{order.*,refund.*}', 'event', '', false)
    ON CONFLICT (id) DO NOTHING";
/// Counts the events of such changes that are noted; no row if none are noted at all.
const NOTED_LABELS: &str = "SELECT (
        SELECT count(*) FROM webhook_deliveries AS d
        WHERE d.webhook_id = w.id
          AND d.event_type IN ('order.created', 'order.confirmed', 'order.paid', 'order.fulfilled', 'order.cancelled',
                               'order.failed'))
    FROM webhooks AS w WHERE w.id = '00000000-0000-7000-8000-00000000b00c'";
/// Counts all changes of orders' statuses.
const ALL_LABELS: &str =
    "SELECT count(*) FROM timeline AS t JOIN sagas AS s ON s.home = t.home AND s.id = t.saga_id
    WHERE s.workflow = 'order_fulfilment' AND t.body::jsonb -> 'did' ->> 'label'
          IN ('PENDING', 'CONFIRMED', 'PAID', 'FULFILLED', 'CANCELLED', 'FAILED', 'PAYMENT_FAILED', 'SHIPMENT_FAILED')";

/// Has every domain event noted in the engine's database, for the books: call it before the first order.
///
/// # Errors
/// The database's.
pub async fn note_events(engine: &PgPool) -> Result<(), Error> {
    sqlx::query(NOTE_EVENTS).execute(engine).await?;
    Ok(())
}

/// Returns whether every change of an order's status has been published, where events are noted.
///
/// # Errors
/// The database's.
pub async fn are_events_published(engine: &PgPool) -> Result<bool, sqlx::Error> {
    let noted: Option<i64> = sqlx::query_scalar(NOTED_LABELS).fetch_optional(engine).await?;
    let Some(noted) = noted else { return Ok(true) };
    let all: i64 = sqlx::query_scalar(ALL_LABELS).fetch_one(engine).await?;
    Ok(noted == all)
}

/// The same, and whether the notification worker has recorded those of which customers are notified.
///
/// # Errors
/// A database's.
pub async fn are_events_recorded(engine: &PgPool, notification: &PgPool) -> Result<bool, sqlx::Error> {
    let told: i64 = sqlx::query_scalar(NOTIFIED_LABELS).fetch_one(engine).await?;
    let recorded: i64 = sqlx::query_scalar(RECORDED_LABELS).fetch_one(notification).await?;
    Ok(told == recorded && are_events_published(engine).await?)
}

/// Number of examples kept of each invariant's violations.
const EXAMPLES: i64 = 5;

/// Connection strings of the five databases, as superuser.
#[derive(Debug, Clone)]
pub struct Sources {
    /// A database whose connection gathers everything, in temporary tables. It gets the extensions `dblink` and
    /// `uuid-ossp` (Postgres' contrib).
    pub workspace: String,
    /// Each of [`DATABASES`], in that order.
    pub databases: Vec<String>,
}

impl Sources {
    /// Returns those of a deployment.
    pub fn of(deployment: &Deployment) -> Self {
        let url = |name: &str| deployment.server.url(&format!("amends_{name}"));
        // In a distributed database no temporary tables can be joined; the nodes' registry is in `postgres`.
        let workspace = if deployment.server.citus().is_some() { "amends_inventory" } else { "postgres" };
        Self {
            workspace: deployment.server.url(workspace),
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
    let mut workspace = connect(&sources.workspace).await?;
    let extensions = "CREATE EXTENSION IF NOT EXISTS dblink; CREATE EXTENSION IF NOT EXISTS \"uuid-ossp\"";
    sqlx::raw_sql(extensions).execute(&mut workspace).await?;
    for (name, url) in DATABASES.iter().zip(&sources.databases) {
        sqlx::query("SELECT dblink_connect($1, $2)")
            .bind(name)
            .bind(conninfo(url)?)
            .execute(&mut workspace)
            .await?;
    }
    sqlx::raw_sql(GATHER).execute(&mut workspace).await?;
    ledger.write(&mut workspace).await?;
    sqlx::raw_sql(REPORT).execute(&mut workspace).await?;
    let replayed = replays::check(&sources.databases[0]).await?;
    sqlx::query("INSERT INTO violations SELECT 10, what FROM UNNEST($1::text[]) AS what")
        .bind(&replayed.early)
        .execute(&mut workspace)
        .await?;
    sqlx::query("INSERT INTO violations SELECT 8, what FROM UNNEST($1::text[]) AS what")
        .bind(&replayed.mismatches)
        .execute(&mut workspace)
        .await?;
    sqlx::query("INSERT INTO looked_at VALUES (10, $1)").bind(replayed.wakes).execute(&mut workspace).await?;
    let lines: Vec<(i32, Option<i64>, i64, Vec<String>)> = sqlx::query_as(AssertSqlSafe(format!(
        "SELECT n, (SELECT sum(things)::bigint FROM looked_at WHERE invariant = n),
                (SELECT count(*) FROM violations WHERE invariant = n),
                ARRAY(SELECT what FROM violations WHERE invariant = n LIMIT {EXAMPLES})
         FROM UNNEST($1::integer[]) AS n ORDER BY n"
    )))
    .bind(INVARIANTS.map(|(number, _)| number).as_slice())
    .fetch_all(&mut workspace)
    .await?;
    workspace.close().await?;
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
