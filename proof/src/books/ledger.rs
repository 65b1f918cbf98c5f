//! What is known about a deployment from outside: answers to its clients and operators, and what was done to it.

use sqlx::PgConnection;
use uuid::Uuid;

/// What is known from outside. Empty parts are not checked.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// Each 2xx answer to a POST: the idempotency key, if one was sent, and the order's id.
    pub told: Vec<(Option<String>, Uuid)>,
    /// Orders whose cancellation was answered with 202.
    pub promised: Vec<Uuid>,
    /// Statuses seen by clients, with their orders.
    pub seen: Vec<(Uuid, String)>,
    /// Operators' actions.
    pub actions: Vec<Action>,
    /// Unreadable messages that were produced.
    pub poison: Vec<Poison>,
    /// Messages in the dead letter topics.
    pub dead_letters: Vec<DeadLetter>,
}

/// An operator's action.
#[derive(Debug, Clone)]
pub struct Action {
    /// The saga.
    pub saga: Uuid,
    /// Name in the timeline: `retry_requested`, `resolved`.
    pub action: &'static str,
    /// The reason given; unique for the action.
    pub why: String,
    /// Whether success was answered. Otherwise the action may or may not have been done.
    pub sure: bool,
}

/// An unreadable message.
#[derive(Debug, Clone)]
pub struct Poison {
    /// The topic to which it was produced.
    pub topic: String,
    /// Text by which it is recognised.
    pub mark: String,
    /// Whether it must be a dead letter; not if its topic was deleted meanwhile.
    pub sure: bool,
}

/// A dead letter.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The topic from which it was read before it was dead-lettered.
    pub topic: String,
    /// Text by which it is recognised.
    pub mark: String,
}

impl Ledger {
    /// Writes the ledger into the tables that the report reads.
    pub(super) async fn write(&self, workspace: &mut PgConnection) -> Result<(), sqlx::Error> {
        let (keys, orders): (Vec<_>, Vec<_>) = self.told.iter().cloned().unzip();
        sqlx::query("INSERT INTO told SELECT * FROM UNNEST($1::text[], $2::uuid[])")
            .bind(keys)
            .bind(orders)
            .execute(&mut *workspace)
            .await?;
        sqlx::query("INSERT INTO promised SELECT * FROM UNNEST($1::uuid[])")
            .bind(&self.promised)
            .execute(&mut *workspace)
            .await?;
        let (orders, statuses): (Vec<_>, Vec<_>) = self.seen.iter().cloned().unzip();
        sqlx::query("INSERT INTO seen SELECT * FROM UNNEST($1::uuid[], $2::text[])")
            .bind(orders)
            .bind(statuses)
            .execute(&mut *workspace)
            .await?;
        sqlx::query(
            "INSERT INTO acted SELECT * FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::boolean[])",
        )
        .bind(self.actions.iter().map(|a| a.saga).collect::<Vec<_>>())
        .bind(self.actions.iter().map(|a| a.action).collect::<Vec<_>>())
        .bind(self.actions.iter().map(|a| a.why.as_str()).collect::<Vec<_>>())
        .bind(self.actions.iter().map(|a| a.sure).collect::<Vec<_>>())
        .execute(&mut *workspace)
        .await?;
        sqlx::query("INSERT INTO poison SELECT * FROM UNNEST($1::text[], $2::text[], $3::boolean[])")
            .bind(self.poison.iter().map(|p| p.topic.as_str()).collect::<Vec<_>>())
            .bind(self.poison.iter().map(|p| p.mark.as_str()).collect::<Vec<_>>())
            .bind(self.poison.iter().map(|p| p.sure).collect::<Vec<_>>())
            .execute(&mut *workspace)
            .await?;
        sqlx::query("INSERT INTO dead_letters SELECT * FROM UNNEST($1::text[], $2::text[])")
            .bind(self.dead_letters.iter().map(|l| l.topic.as_str()).collect::<Vec<_>>())
            .bind(self.dead_letters.iter().map(|l| l.mark.as_str()).collect::<Vec<_>>())
            .execute(&mut *workspace)
            .await?;
        sqlx::raw_sql(
            "CREATE INDEX ON told (order_id); ANALYZE told, promised, seen, acted, poison, dead_letters",
        )
        .execute(workspace)
        .await?;
        Ok(())
    }
}
