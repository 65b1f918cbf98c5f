//! A page of a list when many orders are in the tables: what it reads does not grow with their number.
//!
//! `make test` creates 20,000 orders in some seconds. `make history` creates a million (AMENDS_TEST_ORDERS), and then a page
//! takes at most 5 ms, too.

#[path = "../../postgres/tests/support/mod.rs"]
mod support;

use std::{env, time::Instant};

use amends_orders::{Erasure, OrderFilter, OrderStore, Sort};
use amends_pool::Pool;
use chrono::TimeDelta;
use sqlx::AssertSqlSafe;
use support::{Postgres, world};

/// The longest time of a page in the database, with a million orders.
const PAGE_LONGEST_MS: f64 = 5.0;
/// Most blocks that a page of 50 orders reads: a few levels of four indexes, and a row, for each.
const BLOCKS_MOST: i64 = 2_500;
/// The same, of each order of a page.
const ORDER_BLOCKS_MOST: i64 = BLOCKS_MOST / 50;
/// How often so many pages are timed. The median counts: the database's time is that of all its connections.
const ROUNDS: usize = 11;
const PAGES: u32 = 5;

/// Orders of 92 days, each shipped; one in fifty is being returned. A customer has one in two hundred.
const ORDERS: &str = r#"
    SELECT ensure_month(now() - make_interval(months => m)) FROM generate_series(0, 4) AS m;
    CREATE UNLOGGED TABLE made AS
        SELECT n, at, (left(least_id(at)::text, 13) || right(md5(n::text)::uuid::text, 23))::uuid AS saga_id,
               (left(least_id(at)::text, 13) || right(md5('o' || n)::uuid::text, 23))::uuid AS order_id,
               (left(least_id(at)::text, 13) || right(md5('r' || n)::uuid::text, 23))::uuid AS return_id
        FROM (SELECT n, now() - n * (interval '92 days' / $ORDERS) AS at
              FROM generate_series(1, $ORDERS) AS n) AS numbered;
    INSERT INTO sagas (home, id, born_at, workflow_version, slot, workflow, business_key, core_version, state_version,
                       revision, wake_at, since, updated_at, live, parked, outcome, step, label, state)
        SELECT 0, m.saga_id, m.at, workflow_version, n % 1024, 'order_fulfilment', m.order_id, core_version, state_version,
               2, NULL::timestamptz, m.at, m.at, false, false, 'completed', 'take', 'FULFILLED', state
        FROM made AS m, sagas AS s WHERE s.id = '$TEMPLATE'
        UNION ALL
        SELECT 0, m.return_id, m.at, workflow_version, n % 1024, 'order_return', m.order_id, core_version, state_version,
               2, NULL, m.at, m.at, false, false, NULL, 'decision', 'RETURN_REQUESTED', state
        FROM made AS m, sagas AS s WHERE s.id = '$TEMPLATE' AND m.n % 50 = 0;
    INSERT INTO timeline (home, saga_id, at, batch, revision, slot, body)
        SELECT 0, m.saga_id, m.at, n, r, n % 1024,
               CASE r WHEN 1 THEN t.body ELSE '{"event":"replied","did":{"label":"FULFILLED"}}' END
        FROM made AS m, generate_series(1, 2) AS r, timeline AS t WHERE t.saga_id = '$TEMPLATE';
    INSERT INTO orders (home, id, saga_id, created_at, total, subject, customer_id, currency, lines)
        SELECT 0, order_id, CASE WHEN n % 50 = 0 THEN return_id ELSE saga_id END, at, 2500, 'storefront', 'c-' || n % 200,
               'EUR', '[]' FROM made;
    INSERT INTO order_sagas (home, order_id, saga_id, workflow, created_at, amount, lines, reason)
        SELECT 0, order_id, saga_id, 'order_fulfilment', at, 0, '[]', '' FROM made WHERE n % 50 = 0
        UNION ALL SELECT 0, order_id, return_id, 'order_return', at, 1, '[]', 'r' FROM made WHERE n % 50 = 0;
    ANALYZE"#;

/// Blocks that were read of the tables of orders and sagas, rows that were read without an index, and the milliseconds that
/// statements have taken in the database.
async fn read(pool: &Pool, world: &Postgres) -> (i64, i64, f64) {
    sqlx::query("SELECT pg_stat_force_next_flush()").execute(pool).await.unwrap();
    // The counters are written at the end of the next transaction.
    sqlx::query("SELECT 1").execute(pool).await.unwrap();
    let of_tables = "^(orders|order_sagas|sagas|timeline)";
    sqlx::query_as(
        "SELECT (SELECT sum(heap_blks_read + heap_blks_hit + COALESCE(idx_blks_read + idx_blks_hit, 0))::int8
                 FROM pg_statio_user_tables WHERE relname ~ $1),
                (SELECT sum(seq_tup_read)::int8 FROM pg_stat_user_tables WHERE relname ~ $1),
                (SELECT active_time FROM pg_stat_database WHERE datname = current_database())",
    )
    .bind(of_tables)
    .fetch_one(world.owner())
    .await
    .unwrap()
}

#[tokio::test]
async fn a_page_of_fifty_orders_reads_the_same_however_many_there_are_and_takes_five_milliseconds() {
    let orders: u32 = env::var("AMENDS_TEST_ORDERS").map_or(20_000, |n| n.parse().unwrap());
    let world = world().await;
    let template = world.errand(1).await;
    let made = ORDERS.replace("$ORDERS", &orders.to_string()).replace("$TEMPLATE", &template.id.to_string());
    sqlx::raw_sql(AssertSqlSafe(made)).execute(world.owner()).await.unwrap();

    let pool = amends_pool::connect(&world.database.role_url("amends_engine"), 1, "lists").unwrap();
    let store = OrderStore::new(pool.clone());
    let fifty = || OrderFilter { limit: 50, ..OrderFilter::default() };
    let of_status = |status: &str| OrderFilter { statuses: vec![status.to_owned()], ..fifty() };
    let middle = store.list(&OrderFilter { limit: 200, ..fifty() }).await.unwrap().next;
    let of_customer = |filter| OrderFilter { customer_id: Some("c-7".into()), ..filter };
    let second = store.list(&of_status("RETURN_REQUESTED")).await.unwrap().next;
    let now = store.now().await.unwrap();
    let days_ago = |days| Some(now - TimeDelta::days(days));
    let of_a_period =
        |sort| OrderFilter { created_after: days_ago(50), created_before: days_ago(40), sort, ..fifty() };
    let mut slow = Vec::new();
    for (what, filter, items) in [
        ("the newest", fifty(), 50),
        ("the oldest", OrderFilter { sort: Sort::OldestFirst, ..fifty() }, 50),
        ("the fifth page", OrderFilter { after: middle, ..fifty() }, 50),
        ("those of a period, newest first,", of_a_period(Sort::NewestFirst), 50),
        ("those of a period, oldest first,", of_a_period(Sort::OldestFirst), 50),
        ("a customer's", of_customer(fifty()), 50),
        ("a customer's of a common status", of_customer(of_status("FULFILLED")), 50),
        ("of a common status", of_status("FULFILLED"), 50),
        // One in fifty, of the 600 in which a page looks for it.
        ("of a rare status", of_status("RETURN_REQUESTED"), 12),
        (
            "the second page of a rare status",
            OrderFilter { after: second, ..of_status("RETURN_REQUESTED") },
            12,
        ),
    ] {
        let listed = store.list(&filter).await.unwrap();
        assert_eq!(listed.items.len(), items, "{what}");
        let before = read(&pool, &world).await;
        store.list(&filter).await.unwrap();
        let after = read(&pool, &world).await;
        let (blocks, scanned) = (after.0 - before.0, after.1 - before.1);
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let (begun, before) = (Instant::now(), read(&pool, &world).await.2);
            for _ in 0..PAGES {
                store.list(&filter).await.unwrap();
            }
            let worked = read(&pool, &world).await.2 - before;
            rounds.push((worked / f64::from(PAGES), begun.elapsed() / PAGES));
        }
        rounds.sort_by(|one, other| one.0.total_cmp(&other.0));
        let (worked, took) = rounds[ROUNDS / 2];
        let line = format!(
            "{what} of {orders}: {blocks} blocks, {scanned} rows without an index, {worked:.2} ms in the database, {took:?} for the caller"
        );
        println!("{line}");
        // A rare status is looked for in up to 600 orders, a common one in 200.
        let most = match filter.statuses.first().map(String::as_str) {
            None => BLOCKS_MOST,
            Some("FULFILLED") => 2 * BLOCKS_MOST,
            Some(_) => 4 * BLOCKS_MOST,
        };
        assert!(blocks <= most && scanned <= 100, "{line}");
        if worked > PAGE_LONGEST_MS {
            slow.push(line);
        }
    }
    assert!(orders < 1_000_000 || slow.is_empty(), "{slow:?}");

    // A customer's personal data: a page, and whether any order is under way, which asks for each.
    let before = read(&pool, &world).await;
    assert_eq!(store.personal_data("c-7", None, 50).await.unwrap().items.len(), 50);
    let exported = read(&pool, &world).await;
    let erasure = store.erase_personal_data("c-50", "a test", &[]).await.unwrap();
    assert!(matches!(erasure, Erasure::UnderWay(returned) if !returned.is_empty()), "all are being returned");
    let looked = read(&pool, &world).await;
    for (what, of, (blocks, scanned)) in [
        ("a page of a customer's personal data", 50, (exported.0 - before.0, exported.1 - before.1)),
        (
            "an erasure's look",
            i64::from(orders / 200).min(1_000),
            (looked.0 - exported.0, looked.1 - exported.1),
        ),
    ] {
        println!("{what} of {orders}: {blocks} blocks, {scanned} rows without an index");
        assert!(blocks <= of * ORDER_BLOCKS_MOST && scanned <= 100, "{what}: {blocks}, {scanned}");
    }
}
