//! A transactional executor for tests, and its worker.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use amends_protocol::{Command, Json, Kind, Outcome};
use amends_worker::{
    Action, Answer, PgRows, PgTx, Settings, Transactional, TransactionalExecutor, Work, store,
};
use serde_json::json;
use sqlx::PgPool;

use crate::wire::Wire;

/// Writes one effect for each piece of work that its business key does not forbid.
#[derive(Clone, Default)]
pub(crate) struct Ledger {
    pub(crate) work: Arc<AtomicUsize>,
    /// Whether it never completes.
    pub(crate) stuck: bool,
}

impl TransactionalExecutor<PgTx> for Ledger {
    async fn run(&self, tx: &mut PgTx, work: &[Work]) -> Result<Vec<Answer>, store::Error> {
        let mut answers = Vec::new();
        for one in work {
            self.work.fetch_add(1, Ordering::Relaxed);
            answers.push(self.one(tx, one).await?);
        }
        if self.stuck {
            std::future::pending::<()>().await;
        }
        Ok(answers)
    }
}

impl Ledger {
    async fn one(&self, tx: &mut PgTx, work: &Work) -> Result<Answer, store::Error> {
        let Command { business_key, command_id, attempt, .. } = &work.command;
        match (business_key.as_str(), work.action) {
            ("refused", Action::Execute) => return Ok(Answer::refused("out_of_stock", "none left")),
            ("fails once", Action::Execute) | ("undo fails once", Action::Undo) if *attempt == 1 => {
                return Ok(Answer::failed_for_now("busy", ""));
            }
            ("fails for good", Action::Execute) => return Ok(Answer::failed_for_good("no_such_product", "")),
            ("nobody knows", Action::Execute) => return Ok(Answer::unknown("nobody_knows")),
            _ => {}
        }
        let amount = if business_key == "poison" { 1_000_000 } else { 1 };
        sqlx::query("INSERT INTO effects VALUES ($1, $2)")
            .bind(command_id)
            .bind(amount)
            .execute(&mut **tx)
            .await?;
        Ok(Answer::succeeded(Some(Json::from(json!({ "effect": command_id }))), vec![]))
    }
}

/// Creates a worker that reads and writes this wire.
pub(crate) fn worker(
    pool: &PgPool,
    wire: &Wire,
    ledger: Ledger,
) -> Transactional<PgRows, Ledger, Wire, Wire> {
    let settings = Settings::new("payment");
    Transactional::new(PgRows::new(pool.clone()), ledger, wire.clone(), wire.clone(), settings)
}

/// Lets a worker settle these commands as one batch. Returns its replies.
pub(crate) async fn settle(pool: &PgPool, wire: &Wire, commands: &[&Command]) -> Vec<(Kind, Outcome, u32)> {
    wire.put(commands);
    worker(pool, wire, Ledger::default()).run_once().await.unwrap();
    wire.outcomes()
}

/// Returns the number of rows of commands.
pub(crate) async fn rows(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM commands").fetch_one(pool).await.unwrap()
}
