//! A connection of the pool: each call on it ends within its bound.

use std::{
    ops::{Deref, DerefMut},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, future::BoxFuture, stream::BoxStream};
use sqlx::{
    Either, Error, Execute, Executor, Postgres, SqlStr,
    pool::PoolConnection,
    postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};
use tokio::{runtime::Handle, time::timeout};

use crate::{
    Pool,
    calls::{Call, Calls},
    statement::Statement,
};

/// How long returning a connection to its pool may take; after that it is closed.
const RETURN_BOUND: Duration = Duration::from_secs(3);

/// A connection of a [`Pool`]. When dropped, it returns to the pool, or is closed if it cannot be used any more.
#[derive(Debug)]
pub struct Connection {
    /// `Some` until the drop.
    raw: Option<PoolConnection<Postgres>>,
    calls: Arc<Calls>,
    bound: Duration,
    fit: bool,
    in_transaction: bool,
}

impl Connection {
    pub(crate) fn new(raw: PoolConnection<Postgres>, calls: Arc<Calls>, bound: Duration) -> Self {
        Self { raw: Some(raw), calls, bound, fit: true, in_transaction: false }
    }

    /// Marks the connection to be closed when it is dropped.
    pub fn distrust(&mut self) {
        self.fit = false;
    }

    /// Returns the raw connection, and a call on it that is about to begin.
    fn call(&mut self) -> (&mut sqlx::PgConnection, Call<'_>) {
        let call = self.calls.begin(self.bound, &mut self.fit);
        // Only `drop` takes it.
        (self.raw.as_mut().expect("a connection until it is dropped"), call)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let Some(mut raw) = self.raw.take() else { return };
        let Ok(runtime) = Handle::try_current() else {
            // Nothing can be awaited here: the connection ends with its socket.
            drop(raw.leak());
            return;
        };
        if !self.fit {
            raw.close_on_drop();
            return;
        }
        let (calls, in_transaction) = (Arc::clone(&self.calls), self.in_transaction);
        runtime.spawn(async move {
            if in_transaction {
                let undone = timeout(RETURN_BOUND, raw.execute("ROLLBACK")).await;
                if undone.is_err() {
                    calls.note_silence();
                }
                if !matches!(undone, Ok(Ok(_))) {
                    raw.close_on_drop();
                    return;
                }
            }
            // The pool pings the connection first, without a timeout; a ping without an answer must not keep the pool's
            // place.
            if timeout(RETURN_BOUND, raw.return_to_pool()).await.is_err() {
                calls.note_silence();
            }
        });
    }
}

impl<'c> Executor<'c> for &'c mut Connection {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let (raw, call) = self.call();
        let statement = Statement::of(query);
        let call = call.of(statement.text());
        Box::pin(Bounded { answers: raw.fetch_many(statement), call, over: false })
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let (raw, call) = self.call();
        let statement = Statement::of(query);
        let call = call.of(statement.text());
        Box::pin(bounded(call, raw.fetch_optional(statement)))
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, Error>>
    where
        'c: 'e,
    {
        let (raw, call) = self.call();
        Box::pin(bounded(call, raw.prepare_with(sql, parameters)))
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<sqlx::Describe<Postgres>, Error>>
    where
        'c: 'e,
    {
        let (raw, call) = self.call();
        Box::pin(bounded(call, raw.describe(sql)))
    }
}

/// A streamed answer, whose last part must arrive within the bound.
struct Bounded<'e, T> {
    answers: BoxStream<'e, Result<T, Error>>,
    call: Call<'e>,
    over: bool,
}

impl<T> Stream for Bounded<'_, T> {
    type Item = Result<T, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { answers, call, over } = self.get_mut();
        if *over {
            return Poll::Ready(None);
        }
        let answer = answers.as_mut().poll_next(context);
        call.poll(
            context,
            answer,
            |part| part.as_ref()?.as_ref().err(),
            |late| {
                *over = true;
                Some(Err(late))
            },
        )
    }
}

/// Waits for one answer, within the bound.
async fn bounded<T>(mut call: Call<'_>, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let mut answer = pin!(answer);
    std::future::poll_fn(|context| {
        let polled = answer.as_mut().poll(context);
        call.poll(context, polled, |answer| answer.as_ref().err(), Err)
    })
    .await
}

/// A transaction; it is rolled back when dropped.
#[derive(Debug)]
pub struct Transaction(Connection);

impl Transaction {
    pub(crate) async fn begin(pool: &Pool, statement: &'static str) -> Result<Self, Error> {
        let mut connection = pool.acquire().await?;
        // Set before sending: if the future is dropped while it waits for the answer, the transaction may have begun.
        connection.in_transaction = true;
        connection.execute(statement).await?;
        Ok(Self(connection))
    }

    /// Commits the transaction.
    ///
    /// # Errors
    /// The database's; [`leaves_open`](crate::sqlstate::leaves_open) says whether the commit may have happened.
    pub async fn commit(mut self) -> Result<(), Error> {
        self.end("COMMIT").await
    }

    /// Rolls back, and waits for the answer.
    ///
    /// # Errors
    /// The database's.
    pub async fn rollback(mut self) -> Result<(), Error> {
        self.end("ROLLBACK").await
    }

    /// Ends a transaction in which a statement has failed, and waits for the answer. Postgres reports the error before
    /// it releases the transaction's locks: until then another statement may still meet them.
    ///
    /// # Errors
    /// The database's.
    pub async fn give_up(&mut self) -> Result<(), Error> {
        self.end("ROLLBACK").await
    }

    async fn end(&mut self, statement: &'static str) -> Result<(), Error> {
        self.0.execute(statement).await?;
        self.0.in_transaction = false;
        Ok(())
    }
}

impl Deref for Transaction {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.0
    }
}
