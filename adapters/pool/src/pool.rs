//! The connections of a service to its database.

use std::{str::FromStr, sync::Arc, time::Duration};

use futures::{
    StreamExt, TryFutureExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use sqlx::{
    Connection as _, Either, Execute, Executor, PgPool, Postgres, SqlStr,
    pool::PoolConnectionMetadata,
    postgres::{PgConnectOptions, PgPoolOptions, PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};
use tokio::time::timeout;

use crate::{
    Connection, Error, Transaction,
    calls::{Calls, unanswered},
};

/// How long a caller waits for a connection: soon enough for an answer over HTTP.
const ACQUIRE_BOUND: Duration = Duration::from_secs(3);
/// How long a statement waits for a row that another transaction has locked.
const LOCK_TIMEOUT: &str = "1s";
/// A connection that has been idle for so long is asked whether it still lives.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);
/// How long it may take to say so.
const PING_BOUND: Duration = Duration::from_secs(1);

/// How long a call may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The server ends a statement after this.
    pub statement: Duration,
    /// The client ends its wait for an answer after this, and closes the connection: the server is not there, or its
    /// answer does not arrive. Longer than the server's, whose answer says that nothing was committed.
    pub call: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { statement: Duration::from_secs(10), call: Duration::from_secs(12) }
    }
}

/// Connections to a service's database, made when they are first needed.
///
/// No call waits for ever: the server ends its statement, or the client gives up on the connection, closes it, and
/// takes the answer for lost. Connections that cannot write, or whose session is over, are closed and not given back.
#[derive(Debug, Clone)]
pub struct Pool {
    pub(crate) connections: PgPool,
    pub(crate) calls: Arc<Calls>,
    pub(crate) call_bound: Duration,
}

/// Connections to a service's database. `name` is what the server calls them.
///
/// # Errors
/// [`Error::Url`].
pub fn connect(url: &str, max_connections: u32, name: &str) -> Result<Pool, Error> {
    Pool::connect(url, max_connections, name, Bounds::default())
}

impl Pool {
    /// Connections whose calls have these bounds.
    ///
    /// Its statements find rows by key, in batches whose size the planner cannot know: one plan for all, made for
    /// index look-ups, even while the tables are new and small.
    ///
    /// # Errors
    /// [`Error::Url`].
    pub fn connect(url: &str, max_connections: u32, name: &str, bounds: Bounds) -> Result<Self, Error> {
        let options = PgConnectOptions::from_str(url).map_err(Error::Url)?.application_name(name).options([
            ("plan_cache_mode", "force_generic_plan"),
            ("enable_seqscan", "off"),
            // A bitmap scan looks at every dead row again each time; an index scan marks them as it meets them.
            ("enable_bitmapscan", "off"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
            ("jit", "off"),
            // A row that somebody has forgotten to unlock must not hold up those that need others.
            ("lock_timeout", LOCK_TIMEOUT),
            // A transaction whose client is gone holds what others wait for.
            ("idle_in_transaction_session_timeout", "10s"),
            // So does the server's end of a connection whose client is silent.
            ("tcp_user_timeout", "15s"),
            ("tcp_keepalives_idle", "10"),
            ("tcp_keepalives_interval", "5"),
            ("tcp_keepalives_count", "3"),
        ]);
        let options = options.options([("statement_timeout", format!("{}ms", bounds.statement.as_millis()))]);
        let calls = Arc::<Calls>::default();
        let connections = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(ACQUIRE_BOUND)
            .test_before_acquire(false)
            .before_acquire({
                let calls = Arc::clone(&calls);
                move |connection, idle| Box::pin(is_fit(connection, idle, Arc::clone(&calls)))
            })
            .connect_lazy_with(options);
        Ok(Self { connections, calls, call_bound: bounds.call })
    }

    /// A connection of this pool, for several calls.
    ///
    /// # Errors
    /// The database's, or that there is none within the bound.
    pub async fn acquire(&self) -> Result<Connection, sqlx::Error> {
        let raw = self.connections.acquire().await?;
        Ok(Connection::new(raw, Arc::clone(&self.calls), self.call_bound))
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// The database's.
    pub async fn begin(&self) -> Result<Transaction, sqlx::Error> {
        Transaction::begin(self, "BEGIN").await
    }

    /// Begins a transaction by this statement.
    ///
    /// # Errors
    /// The database's.
    pub async fn begin_with(&self, statement: &'static str) -> Result<Transaction, sqlx::Error> {
        Transaction::begin(self, statement).await
    }

    /// The connections without bounds: for what may take as long as it takes, such as migrations.
    pub fn unbounded(&self) -> &PgPool {
        &self.connections
    }

    /// Ends with the next statement that this database can never do (SQLSTATE classes 0A and 42), and answers what it
    /// said. To repeat such a statement would look like an outage without an end.
    pub async fn program_fault(&self) -> String {
        self.calls.program_fault().await
    }

    /// Closes all connections and gives out no more.
    pub async fn close(&self) {
        self.connections.close().await;
    }
}

/// Connections that somebody else has made: their calls have the usual bounds.
impl From<PgPool> for Pool {
    fn from(connections: PgPool) -> Self {
        Self { connections, calls: Arc::default(), call_bound: Bounds::default().call }
    }
}

impl From<&PgPool> for Pool {
    fn from(connections: &PgPool) -> Self {
        connections.clone().into()
    }
}

impl From<&Pool> for Pool {
    fn from(pool: &Pool) -> Self {
        pool.clone()
    }
}

/// Whether an idle connection is given out.
async fn is_fit(
    connection: &mut sqlx::PgConnection,
    idle: PoolConnectionMetadata,
    calls: Arc<Calls>,
) -> Result<bool, sqlx::Error> {
    if calls.distrusts(&idle) {
        return Ok(false);
    }
    if idle.idle_for > TRUSTED_IDLE {
        match timeout(PING_BOUND, connection.ping()).await {
            Ok(answer) => answer?,
            Err(_) => {
                calls.note_silence();
                return Err(unanswered(PING_BOUND));
            }
        }
    }
    Ok(true)
}

/// A call by itself: a connection is taken, and given back once the whole answer is there.
impl<'p> Executor<'p> for &'p Pool {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let whole = async move {
            let mut connection = self.acquire().await?;
            connection.fetch_many(query).try_collect::<Vec<_>>().await
        };
        whole.map_ok(|parts| stream::iter(parts).map(Ok)).try_flatten_stream().boxed()
    }

    fn fetch_all<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Vec<PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move { self.acquire().await?.fetch_all(query).await })
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move { self.acquire().await?.fetch_optional(query).await })
    }

    fn execute<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<PgQueryResult, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move { self.acquire().await?.execute(query).await })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'p: 'e,
    {
        Box::pin(async move { self.acquire().await?.prepare_with(sql, parameters).await })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<sqlx::Describe<Postgres>, sqlx::Error>>
    where
        'p: 'e,
    {
        Box::pin(async move { self.acquire().await?.describe(sql).await })
    }
}
