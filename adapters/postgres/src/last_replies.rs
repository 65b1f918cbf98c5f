//! Table `timeline`: when a participant was last seen to answer.

use chrono::{DateTime, Utc};

use crate::{Database, Error, error, homes::each_home};

/// Number of the newest sagas of a home whose timelines are read. A participant that has answered older sagas only is
/// taken for one that has not answered: the time is a lower bound.
const NEWEST_SAGAS: i64 = 100;

/// Returns the time of the last answer to a command of one of these steps, among the newest sagas.
///
/// # Errors
/// The database's.
pub async fn last_reply_to(
    Database { pool, homes, .. }: &Database,
    steps: &[&str],
) -> Result<Option<DateTime<Utc>>, Error> {
    let steps: Vec<String> = steps.iter().map(|step| (*step).to_owned()).collect();
    let of_home = |home: i16, ()| {
        let steps = steps.clone();
        async move {
            sqlx::query_scalar::<_, Option<DateTime<Utc>>>(
                "SELECT max(t.at) FROM timeline AS t
                 WHERE ($1::int2 IS NULL OR t.home = $1)
                   AND t.saga_id = ANY (ARRAY(
                       SELECT s.id FROM sagas AS s WHERE ($1::int2 IS NULL OR s.home = $1) ORDER BY s.id DESC LIMIT $2))
                   AND t.body::json #>> '{event,replied,step}' = ANY ($3)",
            )
            .bind(home)
            .bind(NEWEST_SAGAS)
            .bind(steps)
            .fetch_one(pool)
            .await
            .map_err(error::of)
        }
    };
    let times = each_home(homes.all().map(|home| (home, ())), of_home).await?;
    Ok(times.into_iter().flatten().max())
}
