//! Reads for operators.

use std::{cmp::Reverse, time::Duration};

use amends_engine::{
    core::{CommandState, Entry, Saga, SagaProgress, SagaState},
    port::Inputs,
};
use amends_pool::{Pool, sqlstate};
use amends_protocol::Reason;
use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, FromRow, Postgres, QueryBuilder};
use uuid::Uuid;

use crate::{
    Database, Error, error,
    homes::each_home,
    inputs,
    odd_replies::{self, OddRow},
    sagas::{self, COLUMNS},
    timeline,
};

/// A saga's state as a word, of a table called `s`: [`Saga::state`] in SQL.
pub(crate) const STATE: &str = "CASE WHEN s.parked THEN 'parked' WHEN s.outcome IS NOT NULL THEN s.outcome \
     WHEN s.heading_for IS NOT NULL THEN 'compensating' ELSE 'running' END";

/// The sagas of a table called `s` that have not ended. It is the predicate of the partial index.
pub(crate) const OPEN: &str = "(s.live OR s.parked OR s.outcome IS NULL)";

/// Parses a state's word.
pub(crate) fn state_of(word: &str) -> Option<SagaState> {
    use SagaState::{Compensating, Completed, Parked, Running, Undone};
    [Running, Compensating, Parked, Completed, Undone].into_iter().find(|state| state.as_str() == word)
}

/// Which sagas to list. Of each list of values, a saga has one; an empty list does not narrow.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    /// Only sagas in one of these states.
    pub states: Vec<SagaState>,
    /// Only sagas at one of these steps. Without a state: only sagas that have not ended.
    pub steps: Vec<String>,
    /// Only sagas with one of these labels.
    pub labels: Vec<String>,
    /// Only sagas of one of these workflows.
    pub workflows: Vec<OfWorkflow>,
    /// Only these sagas.
    pub among: Option<Vec<Uuid>>,
    /// Only sagas that are marked as stuck, or only those that are not.
    pub stuck: Option<bool>,
    /// Only sagas that ended undone and still hold something. The engine ends no saga like that: an effect discovered
    /// later is being undone, or waits for an operator.
    pub undone_holding: bool,
    /// Only sagas that have been at their step for at least this long. Without a state: only sagas that have not ended.
    pub older_than: Option<Duration>,
    /// Only sagas that were born at this time or later.
    pub born_after: Option<DateTime<Utc>>,
    /// Only sagas that were born before this time.
    pub born_before: Option<DateTime<Utc>>,
    /// Only sagas older than this one: the previous page's `next`.
    pub after: Option<Uuid>,
    /// Maximum number of sagas.
    pub limit: u32,
}

/// A workflow, in one version or in all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfWorkflow {
    /// Its name.
    pub name: String,
    /// Its version; `None`: every version.
    pub version: Option<u32>,
}

/// An item of the list.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// The saga.
    pub id: Uuid,
    /// The business key.
    pub business_key: String,
    /// Name of the workflow.
    pub workflow: String,
    /// Version of the workflow.
    pub workflow_version: u32,
    /// The state.
    pub state: SagaState,
    /// The public label.
    pub label: String,
    /// The current step.
    pub step: String,
    /// Why the saga is parked, or why it failed or is failing.
    pub reason: Option<Reason>,
    /// Since when the saga is at its step.
    pub since: DateTime<Utc>,
    /// Since when the saga counts as stuck.
    pub stuck_at: Option<DateTime<Utc>>,
    /// Time of birth.
    pub born_at: DateTime<Utc>,
    /// Time of the last change.
    pub updated_at: DateTime<Utc>,
}

/// A page of the list, newest saga first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// The items.
    pub items: Vec<Listed>,
    /// The `after` of the next page; `None` if this is the last.
    pub next: Option<Uuid>,
}

/// All that is stored about one saga.
#[derive(Debug, Clone, PartialEq)]
pub struct Detail {
    /// The saga's row.
    pub saga: Saga,
    /// Since when the saga counts as stuck.
    pub stuck_at: Option<DateTime<Utc>>,
    /// Time of the last change.
    pub updated_at: DateTime<Utc>,
    /// The saga's input. An answer to an operator masks or leaves out the personal fields.
    pub inputs: Inputs,
    /// The timeline, from birth on.
    pub timeline: Vec<Entry>,
    /// Replies that changed nothing, by reason.
    pub odd_replies: Vec<OddRow>,
    /// The database's time at the read.
    pub now: DateTime<Utc>,
}

/// Why a list could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The statement timeout was reached: the query had to read too many rows.
    #[error("the list takes too long")]
    TakesTooLong,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] Error),
}

impl From<sqlx::Error> for ListError {
    fn from(error: sqlx::Error) -> Self {
        match sqlstate::is_statement_timeout(&error) {
            true => Self::TakesTooLong,
            false => Self::Store(error::of(error)),
        }
    }
}

/// Reads for operators.
#[derive(Debug, Clone)]
pub struct Admin {
    pub(crate) database: Database,
}

impl Admin {
    /// Creates it over this database.
    pub fn new(database: impl Into<Database>) -> Self {
        Self { database: database.into() }
    }

    /// Lists sagas, newest first: operators mostly look for recent sagas, and the list never scans the whole history to
    /// find them.
    ///
    /// # Errors
    /// [`ListError`].
    pub async fn list(&self, filter: &Filter) -> Result<Page, ListError> {
        let Database { pool, homes, .. } = &self.database;
        let all = homes.all().map(|home| (home, ()));
        let mut rows: Vec<ListedRow> = each_home(all, |home, ()| rows_of_home(pool, home, filter))
            .await?
            .into_iter()
            .flatten()
            .collect();
        rows.sort_by_key(|row| Reverse(row.id));
        let limit = filter.limit.max(1) as usize;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let items: Vec<Listed> = rows.into_iter().map(Listed::from).collect();
        let next = items.last().map(|last| last.id).filter(|_| more);
        Ok(Page { items, next })
    }

    /// Counts the sagas of a list, exactly up to `most`; more are counted as `most + 1`. Where its page begins does not
    /// matter.
    ///
    /// # Errors
    /// [`ListError`].
    pub async fn count(&self, filter: &Filter, most: u32) -> Result<u32, ListError> {
        let Database { pool, homes, .. } = &self.database;
        let all = homes.all().map(|home| (home, ()));
        let counted = each_home(all, |home, ()| count_of_home(pool, home, filter, most + 1)).await?;
        Ok(u32::try_from(counted.into_iter().sum::<i64>()).unwrap_or(u32::MAX).min(most + 1))
    }

    /// Reads all that is stored about one saga.
    ///
    /// # Errors
    /// The database's, or a row that this program cannot read.
    pub async fn get(&self, saga_id: Uuid) -> Result<Option<Detail>, Error> {
        let read = self.read(saga_id).await.map_err(error::of)?;
        let Some(DetailRows { saga, inputs, timeline, odd_replies }) = read else { return Ok(None) };
        let DetailRow { row, stuck_at, updated_at, now } = saga;
        Ok(Some(Detail {
            saga: row.read()?,
            stuck_at,
            updated_at,
            inputs: inputs
                .ok_or_else(|| Error::Unreadable(format!("saga {saga_id} has no input")))?
                .read()?,
            timeline: timeline.iter().map(timeline::EntryRow::read).collect::<Result<_, _>>()?,
            odd_replies,
            now,
        }))
    }

    /// Reads everything in one snapshot.
    async fn read(&self, saga_id: Uuid) -> Result<Option<DetailRows>, sqlx::Error> {
        let Database { pool, homes, .. } = &self.database;
        let home = homes.of(saga_id);
        let mut tx = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let saga = sqlx::query_as(AssertSqlSafe(format!(
            "SELECT {COLUMNS}, s.stuck_at, s.updated_at, clock_timestamp() AS now FROM sagas AS s
             WHERE ($1::int2 IS NULL OR s.home = $1) AND s.id = $2"
        )))
        .bind(home)
        .bind(saga_id)
        .fetch_optional(&mut *tx)
        .await?;
        let inputs = inputs::rows(&mut *tx, home, &[saga_id]).await?.pop();
        let timeline = timeline::rows(&mut *tx, home, saga_id).await?;
        let odd_replies = odd_replies::rows(&mut *tx, home, saga_id).await?;
        tx.rollback().await?;
        Ok(saga.map(|saga| DetailRows { saga, inputs, timeline, odd_replies }))
    }
}

/// Reads a home's rows of a list, newest saga first: one more than requested, which shows whether there is a next page.
async fn rows_of_home(pool: &Pool, home: i16, filter: &Filter) -> Result<Vec<ListedRow>, ListError> {
    let mut query = QueryBuilder::new("SELECT s.id, s.business_key, s.workflow, s.workflow_version, ");
    query.push(STATE).push(
        " AS state_word, s.label, s.step, s.reason, s.since, s.stuck_at, s.born_at, s.updated_at,
          CASE WHEN s.parked THEN s.state END AS parked_state
          FROM sagas AS s WHERE ",
    );
    narrow(&mut query, home, filter);
    if let Some(after) = filter.after {
        query.push(" AND s.id < ").push_bind(after);
    }
    query.push(" ORDER BY s.id DESC LIMIT ").push_bind(i64::from(filter.limit.max(1)) + 1);
    Ok(query.build_query_as().fetch_all(pool).await?)
}

/// Counts a home's sagas, up to this number.
async fn count_of_home(pool: &Pool, home: i16, filter: &Filter, most: u32) -> Result<i64, ListError> {
    let mut query = QueryBuilder::new("SELECT count(*) FROM (SELECT FROM sagas AS s WHERE ");
    narrow(&mut query, home, filter);
    query.push(" LIMIT ").push_bind(i64::from(most)).push(") AS counted");
    Ok(query.build_query_scalar().fetch_one(pool).await?)
}

/// Adds the conditions of a filter, without the place at which a page begins.
fn narrow(query: &mut QueryBuilder<Postgres>, home: i16, filter: &Filter) {
    query.push("(").push_bind(home).push("::int2 IS NULL OR s.home = ").push_bind(home).push(")");
    for (at, state) in filter.states.iter().enumerate() {
        query.push(if at == 0 { " AND (" } else { " OR " });
        in_state(query, *state);
    }
    if !filter.states.is_empty() {
        query.push(")");
    } else if !filter.steps.is_empty() || filter.older_than.is_some() {
        // Step and age are searched only among sagas that have not ended: otherwise the query would read the whole
        // history.
        query.push(" AND ").push(OPEN);
    }
    match filter.stuck {
        Some(true) => query.push(" AND s.live AND s.stuck_at IS NOT NULL"),
        Some(false) => query.push(" AND s.stuck_at IS NULL"),
        None => &mut *query,
    };
    if filter.undone_holding {
        query.push(" AND s.outcome = 'undone' AND (s.live OR s.parked) AND s.state LIKE '%\"held\":[{%'");
    }
    if !filter.steps.is_empty() {
        query.push(" AND s.step = ANY(").push_bind(filter.steps.clone()).push(")");
    }
    if !filter.labels.is_empty() {
        query.push(" AND s.label = ANY(").push_bind(filter.labels.clone()).push(")");
    }
    for (at, workflow) in filter.workflows.iter().enumerate() {
        query.push(if at == 0 { " AND (" } else { " OR " });
        query.push("(s.workflow = ").push_bind(workflow.name.clone());
        if let Some(version) = workflow.version {
            query.push(" AND s.workflow_version = ").push_bind(i32::try_from(version).unwrap_or(i32::MAX));
        }
        query.push(")");
    }
    if !filter.workflows.is_empty() {
        query.push(")");
    }
    if let Some(age) = filter.older_than {
        query.push(" AND s.since <= now() - make_interval(secs => ").push_bind(age.as_secs_f64()).push(")");
    }
    if let Some(after) = filter.born_after {
        query.push(" AND s.born_at >= ").push_bind(after);
    }
    if let Some(before) = filter.born_before {
        query.push(" AND s.born_at < ").push_bind(before);
    }
    if let Some(among) = &filter.among {
        query.push(" AND s.id = ANY(").push_bind(among.clone()).push(")");
    }
}

/// Adds the condition of a state: the same predicates as those of the partial indexes.
fn in_state(query: &mut QueryBuilder<Postgres>, state: SagaState) {
    match state {
        SagaState::Parked => query.push("s.parked"),
        SagaState::Running | SagaState::Compensating => query
            .push("(")
            .push(OPEN)
            .push(" AND ")
            .push(STATE)
            .push(" = ")
            .push_bind(state.as_str())
            .push(")"),
        SagaState::Completed | SagaState::Undone => {
            query.push("(NOT s.parked AND s.outcome = ").push_bind(state.as_str()).push(")")
        }
    };
}

/// An item as it is stored.
#[derive(FromRow)]
struct ListedRow {
    id: Uuid,
    business_key: String,
    workflow: String,
    workflow_version: i32,
    state_word: String,
    label: String,
    step: String,
    reason: Option<String>,
    since: DateTime<Utc>,
    stuck_at: Option<DateTime<Utc>>,
    born_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    /// The state of a parked saga, from which its reason is read; not read for other sagas.
    parked_state: Option<String>,
}

impl From<ListedRow> for Listed {
    /// A row that this program cannot read is shown as far as possible.
    fn from(row: ListedRow) -> Self {
        let state: Option<SagaProgress> =
            row.parked_state.and_then(|state| serde_json::from_str(&state).ok());
        let parked = state.as_ref().and_then(|state| {
            let commands = state.commands.iter().rev();
            state.poisoned.as_ref().or_else(|| commands.into_iter().find_map(CommandState::parked)).cloned()
        });
        Listed {
            id: row.id,
            business_key: row.business_key,
            workflow: row.workflow,
            workflow_version: u32::try_from(row.workflow_version).unwrap_or_default(),
            state: state_of(&row.state_word).unwrap_or(SagaState::Running),
            label: row.label,
            step: row.step,
            reason: parked.or_else(|| serde_json::from_str(row.reason.as_deref()?).ok()),
            since: row.since,
            stuck_at: row.stuck_at,
            born_at: row.born_at,
            updated_at: row.updated_at,
        }
    }
}

/// All that is stored about one saga, as rows.
struct DetailRows {
    saga: DetailRow,
    inputs: Option<inputs::InputsRow>,
    timeline: Vec<timeline::EntryRow>,
    odd_replies: Vec<OddRow>,
}

/// A saga's row with the columns that the engine does not need.
#[derive(FromRow)]
struct DetailRow {
    #[sqlx(flatten)]
    row: sagas::SagaRow,
    stuck_at: Option<DateTime<Utc>>,
    updated_at: DateTime<Utc>,
    now: DateTime<Utc>,
}
