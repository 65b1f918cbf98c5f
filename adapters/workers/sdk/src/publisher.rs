//! Publishes a worker's rows as domain events: reads past the last published row, sends, and advances the mark once
//! everything is acknowledged. Delivery is at least once, and in the order of the rows' numbers.

use std::{marker::PhantomData, time::Duration};

use amends_pool::{Connection, Pool};
use amends_protocol::transport::{self, Outbound, Sink};
use sqlx::{FromRow, postgres::PgRow};
use tokio_util::sync::CancellationToken;

use crate::Backoff;

/// Maximum number of events in a batch.
const EVENTS_BATCH: i64 = 500;

/// A row that is published as a domain event.
pub trait PublishedRow: for<'r> FromRow<'r, PgRow> + Send + Sync + Unpin + 'static {
    /// The type of the events, and their topic.
    const TOPIC: &'static str;
    /// Pause after an empty read.
    const POLL: Duration;
    /// Reads the mark, the number of the last published row, and locks it; it passes over a mark that is locked.
    const MARK: &'static str;
    /// Reads the rows behind number `$1` in order, at most `$2`.
    const ROWS: &'static str;
    /// Sets the mark to `$1`.
    const ADVANCE: &'static str;

    /// Does what must be committed before rows are published.
    fn prepare(pool: &Pool) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        let _ = pool;
        async { Ok(()) }
    }

    /// Returns the row's number.
    fn number(&self) -> i64;

    /// Returns it as an event. Nothing in it is personal.
    fn event(&self) -> Outbound;
}

/// Why a batch was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The database failed.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// The transport failed.
    #[error(transparent)]
    Transport(#[from] transport::Error),
}

/// Publishes rows. Only one of several instances publishes at a time.
pub struct Publisher<R, K> {
    pool: Pool,
    sink: K,
    rows: PhantomData<fn() -> R>,
}

impl<R: PublishedRow, K: Sink> Publisher<R, K> {
    /// Creates a publisher. `sink` must keep the order of its messages.
    pub fn new(pool: impl Into<Pool>, sink: K) -> Self {
        Self { pool: pool.into(), sink, rows: PhantomData }
    }

    /// Publishes until stopped.
    pub async fn run(self, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        while !stop.is_cancelled() {
            let rest = match self.run_once().await {
                Ok(published) => {
                    backoff.reset();
                    if published > 0 {
                        continue;
                    }
                    R::POLL
                }
                Err(error) => {
                    tracing::warn!(%error, topic = R::TOPIC, "domain events were not published and will be retried");
                    backoff.pause()
                }
            };
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Publishes one batch; returns the number of its events. When it returns, another instance may publish.
    ///
    /// # Errors
    /// [`PublishError`]: the batch is published again.
    pub async fn run_once(&self) -> Result<usize, PublishError> {
        R::prepare(&self.pool).await?;
        let mut tx = self.pool.begin().await?;
        match self.publish(&mut tx).await {
            Ok(published) => {
                tx.commit().await?;
                Ok(published)
            }
            Err(error) => {
                // A dropped transaction would end a little later, and with it its lock.
                let _ = tx.rollback().await;
                Err(error)
            }
        }
    }

    async fn publish(&self, tx: &mut Connection) -> Result<usize, PublishError> {
        // The instance that locks the mark publishes; the others have nothing to do.
        let mark: Option<i64> = sqlx::query_scalar(R::MARK).fetch_optional(&mut *tx).await?;
        let Some(mark) = mark else { return Ok(0) };
        let rows: Vec<R> = sqlx::query_as(R::ROWS).bind(mark).bind(EVENTS_BATCH).fetch_all(&mut *tx).await?;
        let Some(last) = rows.last().map(R::number) else { return Ok(0) };
        self.sink.send(rows.iter().map(R::event).collect()).await?;
        sqlx::query(R::ADVANCE).bind(last).execute(&mut *tx).await?;
        Ok(rows.len())
    }
}
