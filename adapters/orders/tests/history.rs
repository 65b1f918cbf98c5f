//! Upkeep of the engine's database with a long history in its tables: each piece takes less than one hundredth of a
//! core, and completes. The workers' and the notifications' upkeep is not measured here.
//!
//! `make test` creates 20,000 orders in some seconds. `make history` creates a million (AMENDS_TEST_ORDERS), which
//! takes a few minutes and 2 GB.

#[path = "../../postgres/tests/support/mod.rs"]
mod support;

use std::{
    env, fs,
    time::{Duration, Instant},
};

use amends_orders::{
    answers::AnswerStore,
    keys::{self, KeyClass},
    webhook_deliveries::DeliveryStore,
};
use amends_pool::Pool;
use amends_postgres::{
    exposure::ExposureSurvey,
    lost_commits,
    retention::{History, RETENTION_LEAST},
    upkeep::{Survey, Upkeep, Walk},
};
use amends_protocol::id;
use amends_workflows::order_fulfilment::MONEY_CAPTURED;
use chrono::{TimeDelta, Utc};
use sqlx::AssertSqlSafe;
use support::{Postgres, world};
use uuid::Uuid;

/// Number of days over which the orders are spread, so that there is a month that ended 60 days ago.
const DAYS: u32 = 92;
/// Maximum share of a core for one piece of upkeep.
const SHARE_MOST: f64 = 0.01;
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// Maximum number of pages that one run of the pieces that delete page by page deletes.
const PAGES_MOST: usize = 50;

/// Each tenth order has an expired answer, each twentieth a delivery of a webhook, and each hundredth a lost commit.
///
/// Of a hundred sagas three wait for an answer, one is parked, and all others have ended; in the older half a tenth as
/// many are live or parked.
const HISTORY: &str = "
    SELECT ensure_month(now() - make_interval(months => m)) FROM generate_series(0, 4) AS m;
    CREATE UNLOGGED TABLE made AS
        SELECT n, at, (left(least_id(at)::text, 13) || right(md5(n::text)::uuid::text, 23))::uuid AS saga_id,
               (left(least_id(at)::text, 13) || right(md5('o' || n)::uuid::text, 23))::uuid AS order_id,
               n % 100 < 3 AND (2 * n < $ORDERS OR n % 1000 < 3) AS live,
               n % 100 = 3 AND (2 * n < $ORDERS OR n % 1000 = 3) AS parked
        FROM (SELECT n, now() - n * (make_interval(days => $DAYS) / $ORDERS) AS at
              FROM generate_series(1, $ORDERS) AS n) AS numbered;
    INSERT INTO sagas (home, id, born_at, workflow_version, slot, workflow, business_key, core_version, state_version,
                       revision, wake_at, since, updated_at, live, parked, outcome, step, label, state)
        SELECT 0, m.saga_id, m.at, workflow_version, n % 1024, workflow, m.order_id, core_version, state_version,
               revision, CASE WHEN m.live THEN now() + interval '1 hour' END, m.at, m.at, m.live, m.parked,
               CASE WHEN NOT m.live AND NOT m.parked THEN 'completed' END, step, label, state
        FROM made AS m, sagas AS s WHERE s.id = '$TEMPLATE';
    INSERT INTO timeline (home, saga_id, at, batch, revision, slot, body)
        SELECT 0, m.saga_id, m.at, n, r, n % 1024, t.body
        FROM made AS m, generate_series(1, 2) AS r, timeline AS t WHERE t.saga_id = '$TEMPLATE';
    INSERT INTO personal (home, saga_id, data)
        SELECT 0, m.saga_id, p.data FROM made AS m, personal AS p WHERE p.saga_id = '$TEMPLATE';
    INSERT INTO orders (home, id, saga_id, created_at, total, subject, customer_id, currency, lines)
        SELECT 0, order_id, saga_id, at, 2500, 'storefront', 'c-' || n % 1000, 'EUR', '[]' FROM made;
    INSERT INTO idempotency_keys (home, subject, key, order_id, expires_at, generation, fingerprint)
        SELECT 0, 'storefront', n::text, order_id, at + interval '1 day', n % 3, decode(md5(n::text) || md5('f' || n), 'hex')
        FROM made WHERE n <= 3 * $ORDERS / $DAYS;
    INSERT INTO idempotent_answers (home, request, expires_at, status, fingerprint, headers, body)
        SELECT 0, decode(md5(n::text) || md5('r' || n), 'hex'), at, 200, decode(md5(n::text) || md5('f' || n), 'hex'), '{}', '{}'
        FROM made WHERE n % 10 = 0;
    INSERT INTO webhooks (id, format, url, types, secret) VALUES (least_id(now()), 'event', 'https://shop.example', '{}', '');
    INSERT INTO webhook_deliveries (id, webhook_id, order_id, due_at, sequence, status, event_type, event_id, event)
        SELECT order_id, w.id, order_id, CASE WHEN n % 1000 = 0 THEN now() END, n,
               CASE WHEN n % 1000 = 0 THEN 'PENDING' ELSE 'DELIVERED' END, 'order.paid', n::text, repeat('x', 500)
        FROM made, webhooks AS w WHERE n % 20 = 0;
    INSERT INTO lost_commits (epoch, saga_id, noted_at, acknowledged_revision) SELECT 1, saga_id, at, 2 FROM made WHERE n % 100 = 0;
    UPDATE idempotency_key_classes SET began_at = now() - interval '25 hours';
    ANALYZE";

/// A connection whose processor time is measured.
struct Meter {
    pool: Pool,
    pid: i32,
    over: Vec<String>,
}

impl Meter {
    async fn new(world: &Postgres) -> Self {
        let pool = amends_pool::connect(&world.database.role_url("amends_engine"), 1, "upkeep").unwrap();
        let pid = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&pool).await.unwrap();
        Self { pool, pid, over: Vec::new() }
    }

    /// Returns the processor time, in seconds, of the connection's server process; `None` if it runs on another
    /// machine.
    fn used(&self) -> Option<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        let (name, numbers) = stat.rsplit_once(") ")?;
        let numbers: Vec<u64> = numbers.split(' ').filter_map(|n| n.parse().ok()).collect();
        // utime and stime, in hundredths of a second; the process state before them is not a number.
        name.contains("(postgres").then(|| (numbers[10] + numbers[11]) as f64 / 100.0)
    }

    /// Runs a piece of upkeep until it reports completion, and at least five times.
    async fn measure(&mut self, piece: &str, period: Duration, mut run_once: impl AsyncFnMut() -> bool) {
        let (begun, before) = (Instant::now(), self.used());
        let mut runs = 0;
        loop {
            let through = run_once().await;
            runs += 1;
            assert!(runs < 10_000, "{piece} does not end");
            if through && runs >= 5 {
                break;
            }
        }
        let took = begun.elapsed().as_secs_f64();
        let used = self.used().zip(before).map_or(took, |(after, before)| after - before);
        let share = used / (period.as_secs_f64() * f64::from(runs));
        let line = format!(
            "{piece}: {runs} runs in {took:.2} s, {used:.2} s of a core; one in {}s: {:.3} % of a core",
            period.as_secs(),
            share * 100.0
        );
        println!("{line}");
        if share > SHARE_MOST {
            self.over.push(line);
        }
    }
}

/// Deletes pages, as one run of such a piece; returns whether nothing is left.
async fn pages(mut page: impl AsyncFnMut() -> u64) -> bool {
    for _ in 0..PAGES_MOST {
        if page().await == 0 {
            return true;
        }
    }
    false
}

#[tokio::test]
async fn every_piece_of_the_engines_upkeep_stays_below_a_hundredth_of_a_core_and_ends() {
    let orders: u32 = env::var("AMENDS_TEST_ORDERS").map_or(20_000, |n| n.parse().unwrap());
    let world = world().await;
    let template = world.errand(1).await;
    let begun = Instant::now();
    let history = HISTORY
        .replace("$ORDERS", &orders.to_string())
        .replace("$DAYS", &DAYS.to_string())
        .replace("$TEMPLATE", &template.id.to_string());
    sqlx::raw_sql(AssertSqlSafe(history)).execute(world.owner()).await.unwrap();
    println!("made {orders} orders in {:.0} s", begun.elapsed().as_secs_f64());

    let mut meter = Meter::new(&world).await;
    let (pool, upkeep) = (meter.pool.clone(), Upkeep::new(meter.pool.clone()));
    let mut survey = Survey::default();
    let mut counted = 0;
    let counts = async || match upkeep.count_some(&mut survey).await.unwrap() {
        Some(counts) => {
            counted = counts.sagas.iter().map(|count| count.sagas).sum();
            true
        }
        None => false,
    };
    meter.measure("counts", Duration::from_secs(2), counts).await;
    let (live, parked): (i64, i64) =
        sqlx::query_as("SELECT count(*) FILTER (WHERE live), count(*) FILTER (WHERE parked) FROM made")
            .fetch_one(world.owner())
            .await
            .unwrap();
    // Plus the saga of which they are copies.
    assert_eq!(counted, (live + parked).unsigned_abs() + 1);

    let (mut walk, mut marked) = (Walk::default(), 0);
    let live = usize::try_from(live).unwrap();
    let stuck = async || {
        marked += upkeep.mark_stuck(Duration::from_secs(300), &mut walk).await.unwrap().len();
        // The youngest are not stuck yet.
        marked + 5 >= live
    };
    meter.measure("marking the stuck", Duration::from_secs(2), stuck).await;
    let mut walk = Walk::default();
    let again = async || upkeep.mark_stuck(Duration::from_secs(300), &mut walk).await.unwrap().is_empty();
    meter.measure("marking the stuck, when all are", Duration::from_secs(2), again).await;
    let missed = async || upkeep.sweep_missed().await.unwrap().is_empty();
    meter.measure("sweep for missed wake-ups", Duration::from_secs(10), missed).await;
    let partitions = async || upkeep.ensure_partitions(3).await.unwrap() == 0;
    meter.measure("partitions", HOUR, partitions).await;
    let turned = async || !keys::turn(&pool, KeyClass::Placement).await.unwrap();
    meter.measure("expiry of idempotency keys", MINUTE, turned).await;
    let (mut survey, money) = (ExposureSurvey::default(), MONEY_CAPTURED);
    let added_up = async || upkeep.add_up_some(&mut survey, money).await.unwrap().is_some();
    meter.measure("money held", Duration::from_secs(2), added_up).await;
    let answers = AnswerStore::new(pool.clone());
    let forgotten = async || pages(async || answers.forget_expired().await.unwrap()).await;
    meter.measure("expiry of answers", MINUTE, forgotten).await;
    let deliveries = DeliveryStore::new(pool.clone());
    let due = async || deliveries.waiting(100_000).await.unwrap() >= 0;
    meter.measure("count of webhooks' deliveries", Duration::from_secs(5), due).await;
    let first_kept = id::dated(Uuid::nil(), Utc::now() - TimeDelta::days(30));
    let expired = async || {
        let page =
            async || deliveries.expire(first_kept).await.unwrap() + deliveries.clear_deleted().await.unwrap();
        pages(page).await
    };
    meter.measure("expiry of webhooks' deliveries", MINUTE, expired).await;
    let lost = async || lost_commits::count(&pool, HOUR * 24).await.unwrap() < u64::from(orders);
    meter.measure("count of lost commits", Duration::from_secs(30), lost).await;
    let mut gone = 0;
    for what in History::ALL {
        let month = async || {
            let retired = upkeep.retire_month(what, RETENTION_LEAST).await.unwrap();
            gone += u32::from(retired.as_ref().is_some_and(|retired| !retired.stays));
            retired.is_none_or(|retired| retired.stays)
        };
        meter.measure(&format!("months of {}", what.table()), MINUTE, month).await;
        let mut walk = Walk::default();
        let leftovers =
            async || upkeep.forget_leftovers(what, RETENTION_LEAST, &mut walk).await.unwrap() == 0;
        meter.measure(&format!("leftovers of {}", what.table()), MINUTE, leftovers).await;
    }
    assert!(gone > 0, "a month of sagas is past its time");
    assert_eq!(meter.over, [] as [String; 0]);
}
