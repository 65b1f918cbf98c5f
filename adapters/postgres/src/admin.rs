//! What an operator sees.

use std::time::Duration;

use amends_engine::{
    core::{Entry, Saga, SagaState},
    port::Inputs,
};
use amends_protocol::Reason;
use chrono::{DateTime, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use crate::Error;

/// Which sagas to list.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    /// In this state.
    pub state: Option<SagaState>,
    /// At this step.
    pub step: Option<String>,
    /// Marked as stuck, or not.
    pub stuck: Option<bool>,
    /// There for at least so long.
    pub older_than: Option<Duration>,
    /// Only older than this one: the `next` of the page before.
    pub after: Option<Uuid>,
    /// At most so many.
    pub limit: u32,
}

/// A line of the list.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// The saga.
    pub id: Uuid,
    /// What it is about.
    pub business_key: String,
    /// Name of its workflow.
    pub workflow: String,
    /// Version of its workflow.
    pub workflow_version: u32,
    /// Its state.
    pub state: SagaState,
    /// What the world sees.
    pub label: String,
    /// Where it is.
    pub step: String,
    /// Why it is parked, or why it failed or is failing.
    pub reason: Option<Reason>,
    /// Since when it is there.
    pub since: DateTime<Utc>,
    /// Since when it counts as stuck.
    pub stuck_at: Option<DateTime<Utc>>,
    /// When it was born.
    pub born_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

/// A page of the list, newest saga first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// Its lines.
    pub items: Vec<Listed>,
    /// What the next page is after; `None` if this is the last.
    pub next: Option<Uuid>,
}

/// One saga with everything.
#[derive(Debug, Clone, PartialEq)]
pub struct Detail {
    /// Its row.
    pub saga: Saga,
    /// Since when it counts as stuck.
    pub stuck_at: Option<DateTime<Utc>>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
    /// Its input. An answer to an operator masks or leaves out the personal fields.
    pub inputs: Inputs,
    /// What happened, from its birth on.
    pub timeline: Vec<Entry>,
    /// The database's time when this was read.
    pub now: DateTime<Utc>,
}

/// Reads for operators.
#[derive(Debug, Clone)]
pub struct Admin {
    pool: PgPool,
}

impl Admin {
    /// Over these connections.
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Lists sagas, newest first: most that an operator looks for is recent, and history is never walked through
    /// to get there.
    ///
    /// # Errors
    /// The database's.
    pub async fn list(&self, filter: &Filter) -> Result<Page, Error> {
        let _ = (filter, &self.pool);
        Err(Error::Unavailable("not yet".into()))
    }

    /// One saga with everything.
    ///
    /// # Errors
    /// The database's, or a row that this program cannot read.
    pub async fn get(&self, saga_id: Uuid) -> Result<Option<Detail>, Error> {
        let _ = saga_id;
        Err(Error::Unavailable("not yet".into()))
    }
}
