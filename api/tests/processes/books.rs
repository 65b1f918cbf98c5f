//! The books of a quiet deployment: RELIABILITY's invariants over the databases of the engine and the workers.
//! Each check adds the violations it finds, in words; none may be found.

use std::collections::HashMap;

use amends_engine::core::{NewSaga, replay};
use amends_postgres::admin::Admin;
use amends_testkit::eventually;
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{LONG, Stack};

/// Waits until nothing is under way: no saga has a timer or a command outstanding, no worker a call.
pub async fn settle(stack: &Stack) {
    eventually("everything has ended", LONG * 2, || async {
        let mut busy = count(stack.pool("engine"), "SELECT count(*) FROM sagas WHERE live").await;
        for worker in ["payment", "shipment"] {
            busy += count(stack.pool(worker), "SELECT count(*) FROM commands WHERE live").await;
        }
        (busy == 0).then_some(())
    })
    .await;
}

async fn count(pool: &PgPool, sql: &'static str) -> i64 {
    // A database that is just restarting has not settled.
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap_or(1)
}

/// What the engine says of an order.
struct Order {
    saga: Uuid,
    status: String,
    total: i64,
    quantity: i64,
}

/// What a worker's books say of a saga.
#[derive(Default)]
struct Effects {
    charges: i64,
    captured: i64,
    refunded: i64,
    bookings: i64,
    taken: i64,
}

/// Checks the books of a deployment that has settled and in which nothing is parked.
pub async fn balance(stack: &Stack) {
    let mut violations = Vec::new();
    let orders = orders(stack).await;
    stock(stack, &mut violations).await;
    effects(stack, &orders, &mut violations).await;
    outcomes(stack, &mut violations).await;
    replays(stack, &orders, &mut violations).await;
    let shown = violations.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
    assert!(violations.is_empty(), "{} violations in {} orders:\n{shown}", violations.len(), orders.len());
}

async fn orders(stack: &Stack) -> Vec<Order> {
    let rows: Vec<(Uuid, String, i64, i64)> = sqlx::query_as(
        "SELECT s.id, s.label, o.total, (SELECT sum((l->>'quantity')::int8)::int8 FROM json_array_elements(o.lines::json) l)
         FROM orders o JOIN sagas s ON s.id = o.saga_id",
    )
    .fetch_all(stack.pool("engine"))
    .await
    .unwrap();
    rows.into_iter().map(|(saga, status, total, quantity)| Order { saga, status, total, quantity }).collect()
}

/// 1 and 4: initial + adjustments = on hand + shipped, none negative, nothing reserved once it is quiet.
async fn stock(stack: &Stack, violations: &mut Vec<String>) {
    let rows: Vec<(String, i64, i64, i64, i64, i64, i64)> = sqlx::query_as(
        "SELECT product_id, adjusted, on_hand, reserved, shipped,
                (SELECT coalesce(sum(quantity), 0)::int8 FROM reservations r WHERE r.product_id = s.product_id AND status = 'held'),
                (SELECT coalesce(sum(quantity), 0)::int8 FROM reservations r WHERE r.product_id = s.product_id AND status = 'taken')
         FROM stock s",
    )
    .fetch_all(stack.pool("inventory"))
    .await
    .unwrap();
    for (product, adjusted, on_hand, reserved, shipped, held, taken) in rows {
        let sound = adjusted == on_hand + shipped
            && reserved == held
            && held == 0
            && shipped == taken
            && on_hand >= 0;
        if !sound {
            violations.push(format!(
                "stock of {product}: {adjusted} put in, {on_hand} on hand, {reserved} reserved, {shipped} shipped; {held} held, {taken} taken"
            ));
        }
    }
}

/// 2, 4, 5, 6, 12: a fulfilled order has exactly one of each effect, any other nets to zero; no effect is
/// without an order.
async fn effects(stack: &Stack, orders: &[Order], violations: &mut Vec<String>) {
    let mut effects: HashMap<Uuid, Effects> = HashMap::new();
    let charges: Vec<(Uuid, i64, i64)> = sqlx::query_as(
        "SELECT c.saga_id, g.amount, coalesce(r.amount, 0)
         FROM gateway_charges g
         LEFT JOIN gateway_refunds r ON r.charge_key = g.key
         LEFT JOIN commands c ON c.command_id = g.key
         WHERE g.declined IS NULL",
    )
    .fetch_all(stack.pool("payment"))
    .await
    .unwrap();
    for (saga, captured, refunded) in charges {
        let of = effects.entry(saga).or_default();
        of.charges += 1;
        of.captured += captured;
        of.refunded += refunded;
    }
    let bookings: Vec<(Uuid,)> = sqlx::query_as(
        "SELECT c.saga_id FROM carrier_bookings b JOIN commands c ON c.command_id = b.key
         WHERE b.tracking_number IS NOT NULL AND NOT EXISTS (SELECT FROM carrier_cancellations x WHERE x.booking_key = b.key)",
    )
    .fetch_all(stack.pool("shipment"))
    .await
    .unwrap();
    for (saga,) in bookings {
        effects.entry(saga).or_default().bookings += 1;
    }
    let taken: Vec<(Uuid, i64)> = sqlx::query_as(
        "SELECT saga_id, sum(quantity)::int8 FROM reservations WHERE status = 'taken' GROUP BY saga_id",
    )
    .fetch_all(stack.pool("inventory"))
    .await
    .unwrap();
    for (saga, quantity) in taken {
        effects.entry(saga).or_default().taken += quantity;
    }
    for Order { saga, status, total, quantity } in orders {
        let of = effects.remove(saga).unwrap_or_default();
        let sound = if status == "FULFILLED" {
            of.charges == 1
                && of.captured == *total
                && of.refunded == 0
                && of.bookings == 1
                && of.taken == *quantity
        } else {
            of.charges <= 1 && of.captured == of.refunded && of.bookings == 0 && of.taken == 0
        };
        if !sound {
            violations.push(format!(
                "saga {saga} is {status}: {} charges, {} captured, {} refunded, {} bookings, {} pieces taken",
                of.charges, of.captured, of.refunded, of.bookings, of.taken
            ));
        }
    }
    violations.extend(effects.keys().map(|saga| format!("saga {saga}: effects without an order")));
}

/// 3, 8 and 13: one outcome each, which never changed, and a timeline without a gap.
async fn outcomes(stack: &Stack, violations: &mut Vec<String>) {
    let rows: Vec<(Uuid, String, i64, i64, i64, i64)> = sqlx::query_as(
        "SELECT s.id, s.label, count(*) FILTER (WHERE t.body::json->'did'->>'ended' IS NOT NULL), s.revision::int8,
                count(t.revision), max(t.revision)::int8
         FROM sagas s LEFT JOIN timeline t ON t.saga_id = s.id
         GROUP BY s.id, s.label, s.revision, s.outcome, s.parked
         HAVING s.outcome IS NULL OR s.parked OR count(*) FILTER (WHERE t.body::json->'did'->>'ended' IS NOT NULL) <> 1
             OR count(t.revision) <> s.revision OR max(t.revision) <> s.revision",
    )
    .fetch_all(stack.pool("engine"))
    .await
    .unwrap();
    for (saga, label, ended, revision, entries, newest) in rows {
        violations.push(format!(
            "saga {saga} is {label}: ended {ended} times, revision {revision}, {entries} entries up to {newest}"
        ));
    }
}

/// 8: replaying a timeline through the pure core gives the stored row.
async fn replays(stack: &Stack, orders: &[Order], violations: &mut Vec<String>) {
    let catalog = amends_workflows::catalog(amends_workflows::Settings::default());
    let admin = Admin::new(stack.pool("engine").clone());
    for Order { saga, .. } in orders.iter().take(300) {
        let detail = admin.get(*saga).await.unwrap().expect("the order's saga");
        let definition = catalog.get(&detail.saga.workflow, detail.saga.workflow_version).unwrap();
        let new =
            NewSaga { id: *saga, slot: detail.saga.slot, business_key: detail.saga.business_key.clone() };
        match replay(definition, new, &detail.timeline) {
            // `wake_at` is a lower bound that a look without an entry may raise.
            Ok(mut replayed) => {
                replayed.wake_at = detail.saga.wake_at;
                if replayed != detail.saga {
                    violations.push(format!("saga {saga}: its timeline replays to another row"));
                }
            }
            Err(why) => violations.push(format!("saga {saga}: {why}")),
        }
    }
}
