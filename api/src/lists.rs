//! Lists for operators. They use a separate connection, are read one at a time, and after each list the reader pauses
//! as long as the list took. So they never delay orders, however many are requested.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use amends_pool::{Bounds, Pool};
use amends_postgres::{
    Database, Homes,
    admin::{Admin, Filter, ListError, Page},
    overviews::{LiveVersion, StandingStill, StrayReply, Timer},
};
use axum::response::Response;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
    time::{sleep, timeout},
};

use crate::{problem::Problem, process::Process};

/// How long a list waits for its turn.
const LIST_WAIT: Duration = Duration::from_secs(2);
/// Time limits of a list's statement.
const LIST_BOUNDS: Bounds = Bounds { statement: Duration::from_secs(5), call: Duration::from_secs(7) };

/// Number of connections that read lists of orders: so many lists are read at once, and placing keeps its own.
const ORDER_LISTS: u32 = 2;

/// Connects to this database for lists of orders.
///
/// # Errors
/// The URL is invalid.
pub fn order_connections(process: &Process, url: &str, homes: Homes) -> Result<Database, amends_pool::Error> {
    let database = Database::connect(url, ORDER_LISTS, "amends-api-order-lists", LIST_BOUNDS, homes)?;
    process.watch_statements(&database.pool);
    Ok(database)
}

/// Number of connections for products: an order without prices reads them before it is placed, and does not wait for
/// the transactions in which other orders are placed.
const PRODUCTS: u32 = 2;

/// Connects to this database for products.
///
/// # Errors
/// The URL is invalid.
pub fn product_connections(process: &Process, url: &str) -> Result<Pool, amends_pool::Error> {
    let pool = Pool::connect(url, PRODUCTS, "amends-api-products", Bounds::default())?;
    process.watch_statements(&pool);
    Ok(pool)
}

/// Number of connections for webhooks.
const WEBHOOKS: u32 = 2;

/// Connects to this database for webhooks.
///
/// # Errors
/// The URL is invalid.
pub fn webhook_connections(process: &Process, url: &str) -> Result<Pool, amends_pool::Error> {
    let pool = Pool::connect(url, WEBHOOKS, "amends-api-webhooks", Bounds::default())?;
    process.watch_statements(&pool);
    Ok(pool)
}

/// Number of connections for requests with an idempotency key, other than those that place orders: each holds one until
/// it is answered.
const KEYED_REQUESTS: u32 = 4;

/// Connects to this database for requests with an idempotency key.
///
/// # Errors
/// The URL is invalid.
pub fn answer_connections(
    process: &Process,
    url: &str,
    homes: Homes,
) -> Result<Database, amends_pool::Error> {
    let database = Database::connect(url, KEYED_REQUESTS, "amends-api-answers", Bounds::default(), homes)?;
    process.watch_statements(&database.pool);
    Ok(database)
}

/// Lists are counted exactly up to this number of sagas.
pub const COUNTED_MOST: u32 = 1_000;

/// Number of parked sagas, and of stuck ones, that are grouped by what they have in common.
const STANDING_STILL_MOST: u32 = 5_000;

/// A page of sagas, and how many there are.
pub struct Listed {
    /// The page.
    pub page: Page,
    /// The number of sagas of the whole list, if it was counted; above [`COUNTED_MOST`] there are more than that.
    pub count: Option<u32>,
}

/// Reads lists, one at a time.
pub struct Lists {
    admin: Admin,
    turn: Arc<Semaphore>,
}

impl Lists {
    /// Connects to this database with a separate connection.
    ///
    /// # Errors
    /// The URL is invalid.
    pub fn connect(process: &Process, url: &str, homes: Homes) -> Result<Self, amends_pool::Error> {
        let database = Database::connect(url, 1, "amends-api-lists", LIST_BOUNDS, homes)?;
        process.watch_statements(&database.pool);
        Ok(Self { admin: Admin::new(database), turn: Arc::new(Semaphore::new(1)) })
    }

    /// Reads a page of sagas, as rendered by `shown`, and counts the whole list if that is asked for.
    ///
    /// # Errors
    /// [`Problem::Busy`]: other lists are being read, or this one reads too much.
    pub async fn sagas(
        &self,
        filter: &Filter,
        is_counted: bool,
        shown: impl FnOnce(&Listed) -> Response + Send + 'static,
    ) -> Result<Response, Problem> {
        let turn = self.turn().await?;
        let response = self.read(filter, is_counted, shown).await;
        turn.end();
        response
    }

    /// Counts the sagas that have not ended, by version of their workflow.
    ///
    /// # Errors
    /// As for [`Lists::sagas`].
    pub async fn live_versions(&self) -> Result<Vec<LiveVersion>, Problem> {
        let turn = self.turn().await?;
        let read = self.admin.live_versions().await;
        turn.end();
        read.map_err(refused)
    }

    /// Reads sagas that are parked or stuck.
    ///
    /// # Errors
    /// As for [`Lists::sagas`].
    pub async fn standing_still(&self) -> Result<StandingStill, Problem> {
        let turn = self.turn().await?;
        let read = self.admin.standing_still(STANDING_STILL_MOST).await;
        turn.end();
        read.map_err(refused)
    }

    /// Lists the sagas that are woken next.
    ///
    /// # Errors
    /// As for [`Lists::sagas`].
    pub async fn timers(&self, limit: u32) -> Result<Vec<Timer>, Problem> {
        let turn = self.turn().await?;
        let read = self.admin.timers(limit).await;
        turn.end();
        read.map_err(refused)
    }

    /// Lists successes that no saga ordered.
    ///
    /// # Errors
    /// As for [`Lists::sagas`].
    pub async fn strays(&self, limit: u32) -> Result<Vec<StrayReply>, Problem> {
        let turn = self.turn().await?;
        let read = self.admin.strays(limit).await;
        turn.end();
        read.map_err(refused)
    }

    /// Waits for the turn to read a list.
    async fn turn(&self) -> Result<Turn, Problem> {
        let Ok(Ok(place)) = timeout(LIST_WAIT, Arc::clone(&self.turn).acquire_owned()).await else {
            metrics::counter!("amends_api_lists_refused_total").increment(1);
            return Err(Problem::Busy(
                "Lists are read one at a time, and too many are waiting. Try again later.".to_owned(),
            ));
        };
        Ok(Turn { place, begun: Instant::now() })
    }

    async fn read(
        &self,
        filter: &Filter,
        is_counted: bool,
        shown: impl FnOnce(&Listed) -> Response + Send + 'static,
    ) -> Result<Response, Problem> {
        let page = self.admin.list(filter).await.map_err(refused)?;
        let count = match is_counted {
            true => Some(self.admin.count(filter, COUNTED_MOST).await.map_err(refused)?),
            false => None,
        };
        let listed = Listed { page, count };
        // Rendering hundreds of rows takes milliseconds, in which this thread would serve no order.
        spawn_blocking(move || shown(&listed)).await.map_err(|_| Problem::Internal)
    }
}

/// The turn to read a list.
struct Turn {
    place: OwnedSemaphorePermit,
    begun: Instant,
}

impl Turn {
    /// Lets the next list be read, once the reader has paused as long as this one took.
    fn end(self) {
        let Self { place, begun } = self;
        let took = begun.elapsed();
        tokio::spawn(async move {
            sleep(took).await;
            drop(place);
        });
    }
}

fn refused(error: ListError) -> Problem {
    match error {
        ListError::TakesTooLong => Problem::Busy(format!(
            "This list takes longer than {} s. Narrow it: a state, a step, a smaller limit.",
            LIST_BOUNDS.statement.as_secs()
        )),
        ListError::Store(error) => error.into(),
    }
}
