//! What an order goes through while a process dies.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{Postgres, Transaction};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::crew::Crew;
use crate::campaign::workload::order;

/// Longer than any recovery.
const PATIENCE: Duration = Duration::from_secs(60);
const PACE: Duration = Duration::from_millis(20);
/// How long a saga may be pending in the scenario with a timeout, with some margin.
pub const PENDING: Duration = Duration::from_secs(1);
const PENDING_OVER: Duration = Duration::from_millis(1400);
/// How long a row is held at most. A worker that dies before it replies is asked again only once the row is free.
const HELD_MOST: Duration = Duration::from_secs(5);

/// What an order goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// Every step succeeds; the payment's first answer is lost.
    Forward,
    /// The carrier refuses: refund and release.
    Compensating,
    /// No reservation arrives in time: the saga's own timeout undoes it, with the reserve command on its way.
    TimingOut,
    /// Cancelled while the call to the carrier is in progress.
    Cancelled,
    /// Another transaction holds the saga's row while the carrier's answer arrives: the reply is deferred.
    Held,
}

/// All scenarios.
pub const ALL: [Scenario; 5] =
    [Scenario::Forward, Scenario::Compensating, Scenario::TimingOut, Scenario::Cancelled, Scenario::Held];

impl Scenario {
    /// Returns the name for people.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::Forward => "forward",
            Scenario::Compensating => "compensating",
            Scenario::TimingOut => "timing out",
            Scenario::Cancelled => "cancelled",
            Scenario::Held => "held",
        }
    }

    /// Takes an order through the scenario, whichever process dies; returns what is wrong with its end.
    pub async fn run(self, crew: &mut Crew, key: &str) -> Option<String> {
        match self {
            Scenario::Forward => ends(crew, key, "card_lost_reply", "AT", "FULFILLED").await,
            Scenario::Compensating => ends(crew, key, "card_approved", "AQ", "SHIPMENT_FAILED").await,
            Scenario::TimingOut => {
                crew.freeze("inventory").await;
                let id = place(crew, key, "card_approved", "AT", PENDING).await?;
                crew.pass(PENDING_OVER).await;
                crew.thaw("inventory");
                status(crew, id, &["CANCELLED"]).await
            }
            Scenario::Cancelled => {
                let id = match waits_for_the_carrier(crew, key).await? {
                    Ok(id) => id,
                    Err(wrong) => return Some(wrong),
                };
                crew.cancel(id).await;
                crew.thaw("shipment");
                status(crew, id, &["CANCELLED"]).await
            }
            Scenario::Held => {
                let id = match waits_for_the_carrier(crew, key).await? {
                    Ok(id) => id,
                    Err(wrong) => return Some(wrong),
                };
                let held = hold(crew, id).await;
                crew.thaw("shipment");
                match held {
                    Ok(held) => until_deferred(crew, held).await,
                    Err(error) => return Some(format!("the row of order {id} cannot be held: {error}")),
                }
                status(crew, id, &["FULFILLED"]).await
            }
        }
    }
}

async fn ends(crew: &mut Crew, key: &str, method: &str, country: &str, end: &str) -> Option<String> {
    let id = place(crew, key, method, country, Duration::ZERO).await?;
    status(crew, id, &[end]).await
}

/// Places an order, and returns it once it waits for a carrier that stands still. `None` if it cannot be placed.
async fn waits_for_the_carrier(crew: &mut Crew, key: &str) -> Option<Result<Uuid, String>> {
    crew.freeze("shipment").await;
    let id = place(crew, key, "card_approved", "AT", Duration::ZERO).await?;
    match status(crew, id, &["PAID"]).await {
        None => Some(Ok(id)),
        Some(wrong) => {
            crew.thaw("shipment");
            Some(Err(wrong))
        }
    }
}

/// A transaction that holds an order's saga.
struct Holding {
    saga: Uuid,
    transaction: Transaction<'static, Postgres>,
}

async fn hold(crew: &Crew, order: Uuid) -> Result<Holding, sqlx::Error> {
    let mut transaction = crew.deployment.pool("engine").begin().await?;
    let saga = sqlx::query_scalar(
        "SELECT s.id FROM orders AS o JOIN sagas AS s ON s.id = o.saga_id WHERE o.id = $1 FOR UPDATE OF s",
    )
    .bind(order)
    .fetch_one(&mut *transaction)
    .await?;
    Ok(Holding { saga, transaction })
}

/// Waits until a reply to the held saga is deferred, and lets go of the row.
async fn until_deferred(crew: &mut Crew, Holding { saga, transaction }: Holding) {
    let (begun, engine) = (Instant::now(), crew.deployment.pool("engine"));
    while begun.elapsed() < HELD_MOST {
        let deferred = sqlx::query_scalar("SELECT EXISTS (SELECT FROM deferred_replies WHERE saga_id = $1)")
            .bind(saga)
            .fetch_one(&engine)
            .await;
        if matches!(deferred, Ok(true)) {
            break;
        }
        crew.meanwhile(sleep(PACE)).await;
    }
    // If the connection is lost, so is the lock.
    let _ = transaction.rollback().await;
}

async fn place(crew: &mut Crew, key: &str, method: &str, country: &str, pending: Duration) -> Option<Uuid> {
    let line: Value = json!({ "productId": "mug", "quantity": 2, "unitPrice": 1250 });
    let client = if pending.is_zero() { crew.client.clone() } else { crew.hasty.clone() };
    let order = order(vec![line], "EUR", method, country);
    crew.meanwhile(client.place(&order, key)).await
}

/// Waits until an order has one of these statuses; if it does not, returns what is wrong.
async fn status(crew: &mut Crew, id: Uuid, wanted: &[&str]) -> Option<String> {
    let (begun, mut last) = (Instant::now(), String::new());
    while begun.elapsed() < PATIENCE {
        let client = crew.client.clone();
        if let Some(answer) = crew.meanwhile(async { client.get(&format!("/api/orders/{id}")).await }).await {
            last = answer.body["status"].as_str().unwrap_or("nothing").to_owned();
            if wanted.contains(&last.as_str()) {
                return None;
            }
        }
        crew.meanwhile(sleep(PACE)).await;
    }
    Some(format!("order {id} is {last} and not {}", wanted.join(" or ")))
}
