//! Periodic upkeep. Any number of processes may run it at once. Each call is bounded, whatever there is to do: a walk
//! through all sagas that have not ended continues where the previous call stopped.

use std::{collections::BTreeMap, time::Duration};

use amends_engine::core::{Catalog, Definition, SagaState};
use sqlx::{AssertSqlSafe, FromRow};
use uuid::Uuid;

use crate::{
    Database, Error, Homes,
    admin::{STATE, state_of},
    error,
    homes::{answering_homes, note_failure},
};

/// Upkeep of the engine's database.
#[derive(Debug, Clone)]
pub struct Upkeep {
    pub(crate) database: Database,
    /// The steps that wait for signals, as `workflow/step`.
    signals: Vec<String>,
}

/// Number of sagas of a workflow in a state that is not final.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// Name of the workflow.
    pub workflow: String,
    /// Running, compensating or parked.
    pub state: SagaState,
    /// Number of sagas.
    pub sagas: u64,
    /// Number of these that are marked as stuck.
    pub stuck: u64,
}

/// Position of a walk through rows, home by home and in each by id.
#[derive(Debug, Default)]
pub struct Walk {
    pub(crate) home: i16,
    pub(crate) after: Uuid,
}

impl Walk {
    /// Continues behind this row. Without one the home is done, and the next one begins; after the last home it starts
    /// again.
    pub(crate) fn go_on(&mut self, homes: Homes, last: Option<Uuid>) {
        *self = match last {
            Some(last) => Self { after: last, ..*self },
            None => Self { home: (self.home + 1) % homes.count() as i16, after: Uuid::nil() },
        };
    }

    /// Returns the answer of the walk's home. Of several homes, one that fails is noted, and the walk continues in the
    /// next one, so that it does not wait until the home is back: then there is no answer.
    ///
    /// # Errors
    /// That of a database with one home.
    pub(crate) fn or_pass_over<T>(
        &mut self,
        homes: Homes,
        answer: Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        match answer {
            Err(error) if homes != Homes::ONE => {
                note_failure(&error);
                self.go_on(homes, None);
                Ok(None)
            }
            answer => answer.map(Some),
        }
    }

    /// Returns whether the walk has not begun, or has just ended.
    pub(crate) fn is_at_start(&self) -> bool {
        self.home == 0 && self.after.is_nil()
    }
}

/// Counts so far. A saga that changes meanwhile is counted as it was when it was read.
#[derive(Debug, Default)]
pub struct Survey {
    walk: Walk,
    /// A home was read in this round.
    has_answers: bool,
    /// By workflow and state: sagas, and how many of them are stuck.
    sums: BTreeMap<(String, String), (u64, u64)>,
    labels: BTreeMap<(String, String), u64>,
    orphans: u64,
}

/// What a [`Survey`] has counted at the end of a round.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sagas that have not ended, by workflow and state.
    pub sagas: Vec<Count>,
    /// The same sagas by workflow and label.
    pub labels: BTreeMap<(String, String), u64>,
    /// Sagas that have ended, and of which an effect that was discovered late is being undone.
    pub orphans: u64,
}

/// Number of sagas that one [`Upkeep::mark_stuck`] reads. With 300,000 waiting sagas a round takes five minutes.
pub const STUCK_LOOK: u32 = 2_000;
/// Maximum number that one call marks: after an outage all may be stuck at once, and each mark is a write.
pub const STUCK_MARKS: usize = 250;
/// Maximum number of sagas that one [`Upkeep::sweep_missed`] wakes.
pub const MISSED_WAKES: u32 = 500;
/// Number of sagas that one [`Upkeep::count_some`] reads.
pub const COUNT_LOOK: u32 = 5_000;

impl Upkeep {
    /// Creates it over this database.
    pub fn new(database: impl Into<Database>) -> Self {
        Self { database: database.into(), signals: Vec::new() }
    }

    /// Sets the workflows. Their sagas are not stuck while they wait for a signal.
    #[must_use]
    pub fn of_workflows(mut self, catalog: &Catalog) -> Self {
        self.signals = catalog.iter().flat_map(Definition::signals).collect();
        self
    }

    /// Creates the partitions of this month and the following ones; returns how many were missing.
    ///
    /// # Errors
    /// The database's.
    pub async fn ensure_partitions(&self, months: u16) -> Result<u64, Error> {
        let made: i32 = sqlx::query_scalar("SELECT ensure_partitions($1)")
            .bind(i32::from(months))
            .fetch_one(&self.database.pool)
            .await
            .map_err(error::of)?;
        Ok(u64::try_from(made).unwrap_or_default())
    }

    /// Reads the next [`STUCK_LOOK`] sagas that have not ended, and marks at most [`STUCK_MARKS`] of those that are
    /// live, have no outcome and have been at their step for at least `older_than`; returns those marked. A saga that
    /// waits for a signal is never stuck. After the last saga of the last home it starts again. A home that fails, of
    /// several, is passed over, and ends the call.
    ///
    /// # Errors
    /// That of a database with one home.
    pub async fn mark_stuck(&self, older_than: Duration, walk: &mut Walk) -> Result<Vec<Uuid>, Error> {
        let mut looked_at = 0;
        while looked_at < STUCK_LOOK {
            let answer = self.mark_stuck_in_home(older_than, STUCK_LOOK - looked_at, walk).await;
            let answer = walk.or_pass_over(self.database.homes, answer)?;
            let (seen, marked) = answer.unwrap_or((STUCK_LOOK, Vec::new()));
            looked_at += seen;
            if walk.is_at_start() || !marked.is_empty() {
                return Ok(marked);
            }
        }
        Ok(Vec::new())
    }

    /// Reads the next sagas of the walk's home, at most `look`; returns how many, and those that it marked.
    async fn mark_stuck_in_home(
        &self,
        older_than: Duration,
        look: u32,
        walk: &mut Walk,
    ) -> Result<(u32, Vec<Uuid>), Error> {
        let (looked_at, last, mut stuck): (i64, Option<Uuid>, Vec<Uuid>) = sqlx::query_as(
            "WITH looked_at AS MATERIALIZED (
                 SELECT id, live AND outcome IS NULL AND stuck_at IS NULL AND workflow || '/' || step <> ALL ($5)
                            AND since <= clock_timestamp() - make_interval(secs => $1) AS is_stuck
                 FROM sagas WHERE ($4::int2 IS NULL OR home = $4) AND (live OR parked OR outcome IS NULL) AND id > $2 ORDER BY id LIMIT $3)
             SELECT count(*), (array_agg(id ORDER BY id DESC))[1],
                    COALESCE(array_agg(id ORDER BY id) FILTER (WHERE is_stuck), '{}')
             FROM looked_at",
        )
        .bind(older_than.as_secs_f64())
        .bind(walk.after)
        .bind(i64::from(look))
        .bind(walk.home)
        .bind(&self.signals)
        .fetch_one(&self.database.pool)
        .await
        .map_err(error::of)?;
        let more = stuck.len() > STUCK_MARKS;
        stuck.truncate(STUCK_MARKS);
        let (ended, last) =
            if more { (false, stuck.last().copied()) } else { (looked_at < i64::from(look), last) };
        let marked = match stuck.is_empty() {
            true => Vec::new(),
            false => self.mark(walk.home, &stuck, older_than).await?,
        };
        walk.go_on(self.database.homes, last.filter(|_| !ended));
        Ok((u32::try_from(looked_at).unwrap_or(look), marked))
    }

    async fn mark(&self, home: i16, ids: &[Uuid], older_than: Duration) -> Result<Vec<Uuid>, Error> {
        sqlx::query_scalar(
            "UPDATE sagas SET stuck_at = now()
             WHERE ($3::int2 IS NULL OR home = $3)
               AND id IN (SELECT s.id FROM UNNEST($1::uuid[]) AS w (id)
                          JOIN sagas AS s ON ($3::int2 IS NULL OR s.home = $3) AND s.id = w.id
                          WHERE s.live AND s.outcome IS NULL AND s.stuck_at IS NULL
                            AND s.since <= now() - make_interval(secs => $2)
                          ORDER BY s.id FOR UPDATE OF s SKIP LOCKED)
             RETURNING id",
        )
        .bind(ids)
        .bind(older_than.as_secs_f64())
        .bind(home)
        .fetch_all(&self.database.pool)
        .await
        .map_err(error::of)
    }

    /// Wakes live sagas without a `wake_at`, which should not exist, at most [`MISSED_WAKES`] of each home; returns their
    /// ids.
    ///
    /// # Errors
    /// The database's, if no home answers.
    pub async fn sweep_missed(&self) -> Result<Vec<Uuid>, Error> {
        let Database { pool, homes, .. } = &self.database;
        let sweep = |home, ()| async move {
            sqlx::query_scalar(
                "UPDATE sagas SET wake_at = now()
                 WHERE ($1::int2 IS NULL OR home = $1)
                   AND id IN (SELECT id FROM sagas
                              WHERE ($1::int2 IS NULL OR home = $1) AND live AND wake_at IS NULL
                              LIMIT $2 FOR UPDATE SKIP LOCKED)
                 RETURNING id",
            )
            .bind(home)
            .bind(i64::from(MISSED_WAKES))
            .fetch_all(pool)
            .await
            .map_err(error::of)
        };
        let woken: Vec<Vec<Uuid>> = answering_homes(homes.all().map(|home| (home, ())), sweep).await?;
        Ok(woken.concat())
    }

    /// Counts the next [`COUNT_LOOK`] sagas that have not ended; returns the totals at the end of a round. Ended sagas are
    /// not counted, because that would read all of them. A home that fails, of several, is passed over, and ends the call;
    /// the totals are then those of the others, and a round without any home has none.
    ///
    /// # Errors
    /// That of a database with one home; the counts so far are kept.
    pub async fn count_some(&self, survey: &mut Survey) -> Result<Option<Counts>, Error> {
        let mut looked_at = 0;
        while looked_at < COUNT_LOOK {
            let answer = self.count_home(COUNT_LOOK - looked_at, survey).await;
            let answer = survey.walk.or_pass_over(self.database.homes, answer)?;
            survey.has_answers |= answer.is_some();
            looked_at += answer.unwrap_or(COUNT_LOOK);
            if survey.walk.is_at_start() {
                let Survey { has_answers, sums, labels, orphans, .. } = std::mem::take(survey);
                if !has_answers {
                    return Ok(None);
                }
                let count = |((workflow, state), (sagas, stuck)): ((String, String), (u64, u64))| {
                    Some(Count { workflow, state: state_of(&state)?, sagas, stuck })
                        .filter(|count| count.sagas > 0)
                };
                let sagas = sums.into_iter().filter_map(count).collect();
                return Ok(Some(Counts { sagas, labels, orphans }));
            }
        }
        Ok(None)
    }

    /// Counts the next sagas of the walk's home, at most `look`; returns how many it read.
    async fn count_home(&self, look: u32, survey: &mut Survey) -> Result<u32, Error> {
        let rows: Vec<Counted> = sqlx::query_as(AssertSqlSafe(format!(
            "WITH looked_at AS MATERIALIZED (
                 SELECT s.id, s.workflow, {STATE} AS state, s.label, s.stuck_at IS NOT NULL AS is_stuck,
                        s.parked OR s.outcome IS NULL AS is_open
                 FROM sagas AS s
                 WHERE ($3::int2 IS NULL OR s.home = $3) AND (s.live OR s.parked OR s.outcome IS NULL) AND s.id > $1 ORDER BY s.id LIMIT $2)
             SELECT workflow, state, label, count(*) AS looked_at, count(*) FILTER (WHERE is_open) AS sagas,
                    count(*) FILTER (WHERE is_open AND is_stuck) AS stuck, (array_agg(id ORDER BY id DESC))[1] AS last
             FROM looked_at GROUP BY workflow, state, label"
        )))
        .bind(survey.walk.after)
        .bind(i64::from(look))
        .bind(survey.walk.home)
        .fetch_all(&self.database.pool)
        .await
        .map_err(error::of)?;
        let last = rows.iter().map(|row| row.last).max();
        let looked_at: i64 = rows.iter().map(|row| row.looked_at).sum();
        for row in rows {
            let sagas = row.sagas.unsigned_abs();
            survey.orphans += row.looked_at.unsigned_abs() - sagas;
            if sagas > 0 {
                *survey.labels.entry((row.workflow.clone(), row.label)).or_default() += sagas;
            }
            let sums = survey.sums.entry((row.workflow, row.state)).or_default();
            *sums = (sums.0 + sagas, sums.1 + row.stuck.unsigned_abs());
        }
        let is_page_full = looked_at >= i64::from(look);
        survey.walk.go_on(self.database.homes, last.filter(|_| is_page_full));
        Ok(u32::try_from(looked_at).unwrap_or(look))
    }
}

/// Counts of one part of a [`Survey`].
#[derive(FromRow)]
struct Counted {
    workflow: String,
    state: String,
    label: String,
    looked_at: i64,
    sagas: i64,
    stuck: i64,
    last: Uuid,
}
