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
};

/// How long a connection may take to come back to its pool; then it is closed.
const RETURN_BOUND: Duration = Duration::from_secs(3);

/// A connection of a [`Pool`]. It goes back when it is dropped, unless it is of no use any more: then it is closed.
#[derive(Debug)]
pub struct Connection {
    /// There until it is dropped.
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

    /// Closes it when it is dropped.
    pub fn distrust(&mut self) {
        self.fit = false;
    }

    /// The connection itself, and a call on it that is about to begin.
    fn call(&mut self) -> (&mut sqlx::PgConnection, Call<'_>) {
        let call = self.calls.begin(self.bound, &mut self.fit);
        // It is taken by `drop` alone.
        (self.raw.as_mut().expect("a connection until it is dropped"), call)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let Some(mut raw) = self.raw.take() else { return };
        let Ok(runtime) = Handle::try_current() else {
            // Nothing can be awaited any more: the connection ends with its socket.
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
            // The pool asks it once more whether it lives, and waits for ever: an answer that does not come must not
            // keep the pool's place.
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
        Box::pin(Bounded { answers: raw.fetch_many(query), call, over: false })
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let (raw, call) = self.call();
        Box::pin(bounded(call, raw.fetch_optional(query)))
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

/// An answer of several parts, of which the last must be there within the bound.
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

/// One answer, within the bound.
async fn bounded<T>(mut call: Call<'_>, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let mut answer = pin!(answer);
    std::future::poll_fn(|context| {
        let polled = answer.as_mut().poll(context);
        call.poll(context, polled, |answer| answer.as_ref().err(), Err)
    })
    .await
}

/// A transaction. Dropped, it is rolled back.
#[derive(Debug)]
pub struct Transaction(Connection);

impl Transaction {
    pub(crate) async fn begin(pool: &Pool, statement: &'static str) -> Result<Self, Error> {
        let mut connection = pool.acquire().await?;
        // Before it is sent: what is dropped while it waits for the answer may have begun.
        connection.in_transaction = true;
        connection.execute(statement).await?;
        Ok(Self(connection))
    }

    /// Commits.
    ///
    /// # Errors
    /// The database's; [`leaves_open`](crate::sqlstate::leaves_open) says whether it may have happened.
    pub async fn commit(mut self) -> Result<(), Error> {
        self.end("COMMIT").await
    }

    /// Rolls back, and waits for it.
    ///
    /// # Errors
    /// The database's.
    pub async fn rollback(mut self) -> Result<(), Error> {
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
