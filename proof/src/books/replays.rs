//! Replays every timeline through the pure core: it must give the stored row, and for every wake-up something must have
//! been due at the database's time.

use amends_engine::core::{Event, NewSaga, replay};
use amends_postgres::admin::{Admin, Detail};
use futures::{StreamExt, TryStreamExt, stream};
use sqlx::postgres::PgPoolOptions;
use uuid::Uuid;

use super::Error;

/// Number of sagas read concurrently.
const TOGETHER: usize = 4;

/// The result.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    /// Timelines that replay to a different row, or not at all.
    pub(super) mismatches: Vec<String>,
    /// Number of wake-ups.
    pub(super) wakes: i64,
    /// Wake-ups at which the core would not have acted.
    pub(super) early: Vec<String>,
}

/// Replays all sagas of the engine's database.
pub(super) async fn check(engine: &str) -> Result<Replayed, Error> {
    let pool = PgPoolOptions::new().max_connections(TOGETHER as u32).connect(engine).await?;
    let ids: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM sagas").fetch_all(&pool).await?;
    let (catalog, admin) =
        (amends_workflows::catalog(amends_workflows::Settings::default()), Admin::new(pool.clone()));
    let read = stream::iter(ids).map(|id| read(&admin, id)).buffer_unordered(TOGETHER);
    let replayed = read
        .try_fold(Replayed::default(), |mut replayed, read| {
            match read {
                Ok(Some(detail)) => one(&catalog, &detail, &mut replayed),
                Ok(None) => {}
                Err(why) => replayed.mismatches.push(why),
            }
            std::future::ready(Ok(replayed))
        })
        .await?;
    pool.close().await;
    Ok(replayed)
}

/// Reads a whole saga; or returns why it cannot be read.
async fn read(admin: &Admin, id: Uuid) -> Result<Result<Option<Detail>, String>, Error> {
    match admin.get(id).await {
        Err(amends_postgres::Error::Unreadable(why)) => Ok(Err(why)),
        read => Ok(Ok(read?)),
    }
}

fn one(catalog: &amends_engine::core::Catalog, detail: &Detail, replayed: &mut Replayed) {
    let saga = &detail.saga;
    replayed.wakes += detail.timeline.iter().filter(|e| e.occurrence.event == Event::Woke).count() as i64;
    let Some(definition) = catalog.get(&saga.workflow, saga.workflow_version) else {
        return replayed.mismatches.push(format!("saga {}: no such workflow", saga.id));
    };
    let new = NewSaga { id: saga.id, business_key: saga.business_key.clone(), trace: None };
    match replay(definition, new, &detail.timeline) {
        // `wake_at` is a lower bound that a wake-up without an entry may raise.
        Ok(mut row) => {
            row.wake_at = saga.wake_at;
            if row != *saga {
                replayed.mismatches.push(format!("saga {}: its timeline replays to another row", saga.id));
            }
        }
        Err(why) => {
            use amends_engine::core::Mismatch::Decision;
            let woke = |revision| {
                detail.timeline.iter().any(|e| e.revision == revision && e.occurrence.event == Event::Woke)
            };
            let told = format!("saga {}: {why}", saga.id);
            match why {
                // If nothing is due, the core decides nothing.
                Decision(revision) if woke(revision) => replayed.early.push(told),
                _ => replayed.mismatches.push(told),
            }
        }
    }
}
