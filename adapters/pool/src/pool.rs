//! A service's connections to its database.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{
    StreamExt, TryFutureExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use metrics::Histogram;
use sqlx::{
    ConnectOptions as _, Connection as _, Either, Execute, Executor, PgPool, Postgres, SqlStr,
    pool::PoolConnectionMetadata,
    postgres::{PgConnectOptions, PgPoolOptions, PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};
use tokio::time::{Instant, timeout};

use crate::{
    Connection, Error, Transaction,
    calls::{Calls, unanswered},
    examiner::{Examination, Examiner, examined},
};

/// How long a caller waits for a connection: short enough for an answer over HTTP.
const ACQUIRE_BOUND: Duration = Duration::from_secs(3);
/// How long a statement waits for a row that another transaction has locked.
///
/// Longer than the server's `deadlock_timeout` (1 s): of two transactions that wait for each other one is told so and
/// repeated, instead of both giving up the rows.
const LOCK_TIMEOUT: &str = "1200ms";
/// A connection that has been idle for longer than this is pinged before use.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);
/// How long the ping may take.
const PING_BOUND: Duration = Duration::from_secs(1);

/// Time limits of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The server ends a statement after this time.
    pub statement: Duration,
    /// The client stops waiting after this time and closes the connection: the server is gone, or its answer does not
    /// arrive. It is longer than the server's limit, because the server's answer says that nothing was committed.
    pub call: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { statement: Duration::from_secs(10), call: Duration::from_secs(12) }
    }
}

/// How the server plans the service's statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Plans {
    /// One plan for all parameters.
    #[default]
    Generic,
    /// A plan for each execution: a distributed Postgres sees by the parameters which of its nodes are concerned.
    Custom,
}

/// Settings with which statements that find rows by key are planned and executed. Connections begin with them; a
/// distributed Postgres does not pass them on to its nodes, where the role has them.
pub const ROLE_SETTINGS: [(&str, &str); 6] = [
    ("enable_seqscan", "off"),
    // A bitmap scan visits every dead row again each time; an index scan marks the dead rows that it meets.
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
    // A row that a transaction forgot to unlock must not delay statements that need other rows.
    ("lock_timeout", LOCK_TIMEOUT),
];

/// How a pool's connections are used now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occupancy<'p> {
    /// The pool's name.
    pub name: &'p str,
    /// Connections in use.
    pub in_use: usize,
    /// Open connections that are not in use.
    pub idle: usize,
}

/// Connections to a service's database, opened when first needed.
///
/// No call waits for ever: the server ends its statement, or the client closes the connection and treats the answer as
/// lost. Connections that cannot write, or whose session is over, are closed and not reused.
#[derive(Debug, Clone)]
pub struct Pool {
    pub(crate) connections: PgPool,
    pub(crate) calls: Arc<Calls>,
    pub(crate) call_bound: Duration,
    /// How long callers wait for a connection.
    pub(crate) waits: Histogram,
    /// What its connections are made from; `None` if the pool was made of existing ones.
    pub(crate) origin: Option<Arc<Origin>>,
    /// What examines new connections, once it is set.
    pub(crate) examiner: Examination,
}

/// What connections are made from.
pub(crate) struct Origin {
    url: Mutex<String>,
    name: String,
    bounds: Bounds,
    plans: Plans,
}

/// The URL may contain a password.
impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Origin {
    /// Returns the options of new connections to this URL.
    fn options(&self, url: &str) -> Result<PgConnectOptions, Error> {
        let plan_cache_mode = match self.plans {
            Plans::Generic => "force_generic_plan",
            Plans::Custom => "force_custom_plan",
        };
        // A connection's calls log them by name: the client library would log their whole text.
        let options = PgConnectOptions::from_str(url)
            .map_err(Error::Url)?
            .application_name(&self.name)
            .disable_statement_logging();
        let options =
            options.options([("plan_cache_mode", plan_cache_mode)]).options(ROLE_SETTINGS).options([
                // A transaction whose client is gone holds locks for which others wait.
                ("idle_in_transaction_session_timeout", "10s"),
                // So does the server's end of a connection whose client is silent.
                ("tcp_user_timeout", "15s"),
                ("tcp_keepalives_idle", "10"),
                ("tcp_keepalives_interval", "5"),
                ("tcp_keepalives_count", "3"),
            ]);
        Ok(options.options([("statement_timeout", format!("{}ms", self.bounds.statement.as_millis()))]))
    }
}

/// Creates a pool for a service's database. `name` is the application name that the server shows.
///
/// # Errors
/// [`Error::Url`].
pub fn connect(url: &str, max_connections: u32, name: &str) -> Result<Pool, Error> {
    Pool::connect(url, max_connections, name, Bounds::default())
}

impl Pool {
    /// Creates a pool whose calls have these bounds.
    ///
    /// The service's statements find rows by key, in batches whose size the planner cannot know. They use one plan for
    /// all sizes, made for index scans, even while the tables are new and small.
    ///
    /// # Errors
    /// [`Error::Url`].
    pub fn connect(url: &str, max_connections: u32, name: &str, bounds: Bounds) -> Result<Self, Error> {
        Self::connect_planned(url, max_connections, name, bounds, Plans::Generic)
    }

    /// The same, for statements that are planned in this way.
    ///
    /// # Errors
    /// [`Error::Url`].
    pub fn connect_planned(
        url: &str,
        max_connections: u32,
        name: &str,
        bounds: Bounds,
        plans: Plans,
    ) -> Result<Self, Error> {
        let origin = Origin { url: Mutex::new(url.to_owned()), name: name.to_owned(), bounds, plans };
        let options = origin.options(url)?;
        let calls = Arc::new(Calls::of_pool(name));
        let examiner = Examination::default();
        let connections = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(ACQUIRE_BOUND)
            .test_before_acquire(false)
            .after_connect({
                let (examiner, calls) = (Arc::clone(&examiner), Arc::clone(&calls));
                move |connection, _| {
                    Box::pin(examined(connection, Arc::clone(&examiner), Arc::clone(&calls), bounds.call))
                }
            })
            .before_acquire({
                let calls = Arc::clone(&calls);
                move |connection, idle| Box::pin(is_fit(connection, idle, Arc::clone(&calls)))
            })
            .connect_lazy_with(options);
        let waits = metrics::histogram!("amends_postgres_acquire_seconds", "pool" => name.to_owned());
        Ok(Self {
            connections,
            calls,
            call_bound: bounds.call,
            waits,
            origin: Some(Arc::new(origin)),
            examiner,
        })
    }

    /// Has new connections examined from now on. Only the first examiner counts; a pool that was made of existing
    /// connections has none.
    pub fn examine_new(&self, examiner: impl Examiner + 'static) {
        let _ = self.examiner.set(Box::new(examiner));
    }

    /// Makes new connections from another URL, if this pool's are made from `old`: its password has been changed. Open
    /// connections stay. Returns whether it does so.
    ///
    /// # Errors
    /// [`Error::Url`]; the pool is as it was.
    pub fn follow(&self, old: &str, new: &str) -> Result<bool, Error> {
        let Some(origin) = &self.origin else { return Ok(false) };
        let mut url = origin.url.lock().unwrap_or_else(PoisonError::into_inner);
        if *url != old {
            return Ok(false);
        }
        self.connections.set_connect_options(origin.options(new)?);
        new.clone_into(&mut url);
        Ok(true)
    }

    /// Acquires a connection for several calls.
    ///
    /// # Errors
    /// The database's, or a timeout if no connection becomes free within the bound.
    pub async fn acquire(&self) -> Result<Connection, sqlx::Error> {
        let begun = Instant::now();
        let acquired = self.connections.acquire().await;
        self.waits.record(begun.elapsed().as_secs_f64());
        let raw = acquired?;
        Ok(Connection::new(raw, Arc::clone(&self.calls), self.call_bound))
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// The database's.
    pub async fn begin(&self) -> Result<Transaction, sqlx::Error> {
        Transaction::begin(self, "BEGIN").await
    }

    /// Begins a transaction with this statement.
    ///
    /// # Errors
    /// The database's.
    pub async fn begin_with(&self, statement: &'static str) -> Result<Transaction, sqlx::Error> {
        Transaction::begin(self, statement).await
    }

    /// Returns its name, and how many of its connections are in use and idle.
    pub fn occupancy(&self) -> Occupancy<'_> {
        let idle = self.connections.num_idle();
        let open = usize::try_from(self.connections.size()).unwrap_or(usize::MAX);
        let name = self.origin.as_ref().map_or("", |origin| origin.name.as_str());
        Occupancy { name, in_use: open.saturating_sub(idle), idle }
    }

    /// Returns the connections without bounds, for statements of any duration, such as migrations.
    pub fn unbounded(&self) -> &PgPool {
        &self.connections
    }

    /// Waits for the next statement that this database can never execute (SQLSTATE classes 0A and 42, and
    /// the error of another epoch); returns its error. Repeating such a statement would look like an endless outage.
    pub async fn program_fault(&self) -> String {
        self.calls.program_fault().await
    }

    /// Closes all connections; no new ones are given out.
    pub async fn close(&self) {
        self.connections.close().await;
    }
}

/// Wraps existing connections: their calls have the default bounds.
impl From<PgPool> for Pool {
    fn from(connections: PgPool) -> Self {
        let (calls, call_bound) = (Arc::default(), Bounds::default().call);
        Self {
            connections,
            calls,
            call_bound,
            waits: Histogram::noop(),
            origin: None,
            examiner: Arc::default(),
        }
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

/// Returns whether an idle connection can be used.
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

/// A single call: it takes a connection and returns it once the whole answer has arrived.
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
