//! What is known of a deployment from outside: what its clients and operators were told, and what was done to it.

use sqlx::PgConnection;
use uuid::Uuid;

/// What is known from outside. What is empty is not checked.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// Each 2xx answer to a POST: the idempotency key, if one was sent, and the order's id.
    pub told: Vec<(Option<String>, Uuid)>,
    /// Orders whose cancellation was answered 202.
    pub promised: Vec<Uuid>,
    /// Statuses that orders were seen with.
    pub seen: Vec<(Uuid, String)>,
    /// What operators did.
    pub actions: Vec<Action>,
    /// Messages produced that nobody can read.
    pub poison: Vec<Poison>,
    /// What is in the dead letter topics.
    pub letters: Vec<Letter>,
}

/// Something an operator did.
#[derive(Debug, Clone)]
pub struct Action {
    /// To this saga.
    pub saga: Uuid,
    /// As the timeline calls it: `retry_requested`, `resolved`.
    pub action: &'static str,
    /// The reason given; unique to it.
    pub why: String,
    /// Whether it was answered that it was done. Otherwise it may or may not have been.
    pub sure: bool,
}

/// A message that nobody can read.
#[derive(Debug, Clone)]
pub struct Poison {
    /// Where it was produced.
    pub topic: String,
    /// What it is recognised by.
    pub mark: String,
    /// Whether it must be a dead letter: not, if its topic was deleted meanwhile.
    pub sure: bool,
}

/// A dead letter.
#[derive(Debug, Clone)]
pub struct Letter {
    /// The topic it was read from before it was put on that topic's dead letter topic.
    pub topic: String,
    /// What it is recognised by.
    pub mark: String,
}

impl Ledger {
    /// Writes it where the report looks for it.
    pub(super) async fn write(&self, desk: &mut PgConnection) -> Result<(), sqlx::Error> {
        let (keys, orders): (Vec<_>, Vec<_>) = self.told.iter().cloned().unzip();
        sqlx::query("INSERT INTO told SELECT * FROM UNNEST($1::text[], $2::uuid[])")
            .bind(keys)
            .bind(orders)
            .execute(&mut *desk)
            .await?;
        sqlx::query("INSERT INTO promised SELECT * FROM UNNEST($1::uuid[])")
            .bind(&self.promised)
            .execute(&mut *desk)
            .await?;
        let (orders, statuses): (Vec<_>, Vec<_>) = self.seen.iter().cloned().unzip();
        sqlx::query("INSERT INTO seen SELECT * FROM UNNEST($1::uuid[], $2::text[])")
            .bind(orders)
            .bind(statuses)
            .execute(&mut *desk)
            .await?;
        sqlx::query(
            "INSERT INTO acted SELECT * FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::boolean[])",
        )
        .bind(self.actions.iter().map(|a| a.saga).collect::<Vec<_>>())
        .bind(self.actions.iter().map(|a| a.action).collect::<Vec<_>>())
        .bind(self.actions.iter().map(|a| a.why.as_str()).collect::<Vec<_>>())
        .bind(self.actions.iter().map(|a| a.sure).collect::<Vec<_>>())
        .execute(&mut *desk)
        .await?;
        sqlx::query("INSERT INTO poison SELECT * FROM UNNEST($1::text[], $2::text[], $3::boolean[])")
            .bind(self.poison.iter().map(|p| p.topic.as_str()).collect::<Vec<_>>())
            .bind(self.poison.iter().map(|p| p.mark.as_str()).collect::<Vec<_>>())
            .bind(self.poison.iter().map(|p| p.sure).collect::<Vec<_>>())
            .execute(&mut *desk)
            .await?;
        sqlx::query("INSERT INTO letters SELECT * FROM UNNEST($1::text[], $2::text[])")
            .bind(self.letters.iter().map(|l| l.topic.as_str()).collect::<Vec<_>>())
            .bind(self.letters.iter().map(|l| l.mark.as_str()).collect::<Vec<_>>())
            .execute(&mut *desk)
            .await?;
        sqlx::raw_sql(
            "CREATE INDEX ON told (order_id); ANALYZE told, promised, seen, acted, poison, letters",
        )
        .execute(desk)
        .await?;
        Ok(())
    }
}
