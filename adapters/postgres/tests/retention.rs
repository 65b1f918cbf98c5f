//! History is dropped by month, and nothing that has not ended is dropped with it.

mod support;

use std::time::Duration;

use amends_engine::port::SagaStore;
use amends_postgres::{
    admin::{Admin, Filter},
    conformance::{World, known, moved},
    events::EventLog,
    retention::{History, RETENTION_LEAST, RetiredMonth},
    upkeep::{Upkeep, Walk},
};
use support::{Postgres, world};

const RETENTION: Duration = Duration::from_secs(400 * 24 * 3600);
const ENDED: &str = "live = false, outcome = 'completed', wake_at = NULL";

/// Returns the number of sagas, timelines, personal fields and orders.
async fn rows(world: &Postgres) -> Vec<i64> {
    sqlx::query_scalar(
        "SELECT count(*) FROM sagas UNION ALL SELECT count(DISTINCT saga_id) FROM timeline
         UNION ALL SELECT count(*) FROM personal UNION ALL SELECT count(*) FROM orders",
    )
    .fetch_all(world.owner())
    .await
    .unwrap()
}

async fn run(world: &Postgres, sql: &str) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(world.owner()).await.unwrap();
}

/// Returns the number of sagas that a call moved, and whether the month stays; `None` if no month is due.
async fn retire(upkeep: &Upkeep, what: History) -> Option<(u64, bool)> {
    let retired = upkeep.retire_month(what, RETENTION).await.unwrap();
    retired.map(|RetiredMonth { moved, stays, .. }| (moved, stays))
}

#[tokio::test]
async fn a_month_goes_once_all_of_it_is_past_its_time_and_its_orders_two_months_later() {
    let world = world().await;
    let upkeep = Upkeep::new(world.pool());
    let young = world.errand(1).await;
    for months in [13, 15, 17] {
        world.past(&young, months, 20, ENDED).await;
    }
    assert_eq!(rows(&world).await, [61, 61, 61, 60]);
    // 13 months ago: its last day is less than 400 days ago.
    assert_eq!(retire(&upkeep, History::Sagas).await, Some((0, false)));
    assert_eq!(retire(&upkeep, History::Sagas).await, Some((0, false)));
    assert_eq!(retire(&upkeep, History::Sagas).await, None);
    assert_eq!(rows(&world).await, [21, 21, 21, 60]);
    assert_eq!(retire(&upkeep, History::Orders).await, Some((0, false)));
    assert_eq!(retire(&upkeep, History::Orders).await, None);
    assert_eq!(rows(&world).await, [21, 21, 21, 40]);
    assert_eq!(world.store().load(&[young.id]).await.unwrap().sagas.len(), 1);
}

#[tokio::test]
async fn what_has_not_ended_outlives_its_month_with_all_that_is_its_own() {
    let world = world().await;
    let upkeep = Upkeep::new(world.pool());
    let young = world.errand(1).await;
    world.past(&young, 17, 20, ENDED).await;
    world.past(&young, 17, 3, "parked = true, live = false, wake_at = NULL").await;
    world.past(&young, 17, 2, "wake_at = now() - interval '1 minute'").await;
    // It waits for a signal.
    world.past(&young, 17, 1, "live = false, wake_at = NULL").await;
    assert_eq!(retire(&upkeep, History::Sagas).await, Some((6, false)));
    assert_eq!(retire(&upkeep, History::Orders).await, Some((6, false)));
    assert_eq!(rows(&world).await, [7, 7, 7, 6]);
    run(&world, "UPDATE sagas_default SET updated_at = now() - interval '401 days'").await;
    assert_eq!(upkeep.forget_leftovers(History::Sagas, RETENTION, &mut Walk::default()).await.unwrap(), 0);

    // They are found, shown and driven as before.
    let admin = Admin::new(world.pool());
    let parked =
        Filter { states: vec![amends_engine::core::SagaState::Parked], limit: 9, ..Filter::default() };
    let parked = admin.list(&parked).await.unwrap().items;
    assert_eq!(parked.len(), 3);
    let detail = admin.get(parked[0].id).await.unwrap().unwrap();
    assert_eq!(detail.timeline.len(), 1);
    let mut ended = moved(&detail.saga, 1, detail.now);
    (ended.saga.parked, ended.saga.outcome) = (false, Some(amends_engine::core::SagaOutcome::Undone));
    assert_eq!(world.store().commit(&[ended]).await.unwrap().written.len(), 1);
}

#[tokio::test]
async fn what_outlived_its_month_goes_once_it_has_ended_and_rested_and_its_order_after_it() {
    let world = world().await;
    let upkeep = Upkeep::new(world.pool());
    let young = world.errand(1).await;
    world.past(&young, 17, 3, "parked = true, live = false, wake_at = NULL").await;
    retire(&upkeep, History::Sagas).await;
    retire(&upkeep, History::Orders).await;
    let forget = async || {
        let mut walk = Walk::default();
        let sagas = upkeep.forget_leftovers(History::Sagas, RETENTION, &mut walk).await.unwrap();
        (sagas, upkeep.forget_leftovers(History::Orders, RETENTION, &mut Walk::default()).await.unwrap())
    };
    assert_eq!(forget().await, (0, 0), "parked");
    run(&world, "UPDATE sagas_default SET parked = false, outcome = 'undone', updated_at = now()").await;
    assert_eq!(forget().await, (0, 0), "ended just now");
    run(&world, "UPDATE sagas_default SET updated_at = now() - interval '401 days'").await;
    assert_eq!(forget().await, (3, 3));
    assert_eq!(rows(&world).await, [1, 1, 1, 0]);
}

/// Makes the sagas born `younger` months ago returns of the orders born `older` months ago, one each.
async fn give_back(world: &Postgres, older: i32, younger: i32) {
    let born = |months: i32| {
        format!(
            "SELECT o.id AS order_id, o.saga_id, row_number() OVER (ORDER BY o.id) AS n FROM orders AS o
             WHERE o.id BETWEEN least_id(date_trunc('month', now()) - make_interval(months => {months}))
                            AND least_id(date_trunc('month', now()) - make_interval(months => {months} - 1))"
        )
    };
    let sql = format!(
        "CREATE TEMP TABLE pairs ON COMMIT DROP AS
             SELECT o.order_id, o.saga_id AS older, y.saga_id AS younger, y.order_id AS own
             FROM ({}) AS o JOIN ({}) AS y USING (n);
         DELETE FROM orders AS o USING pairs AS p WHERE o.id = p.own;
         UPDATE orders AS o SET saga_id = p.younger FROM pairs AS p WHERE o.id = p.order_id;
         UPDATE sagas AS s SET business_key = p.order_id, workflow = 'order_return' FROM pairs AS p WHERE s.id = p.younger;
         INSERT INTO order_sagas (home, order_id, saga_id, created_at, amount, workflow, lines, reason)
             SELECT 0, order_id, older, now(), 0, 'order_fulfilment', '[]', '' FROM pairs
             UNION ALL SELECT 0, order_id, younger, now(), 1, 'order_return', '[]', 'r' FROM pairs",
        born(older),
        born(younger)
    );
    run(world, &sql).await;
}

#[tokio::test]
async fn what_has_ended_stays_with_a_younger_saga_of_its_order_and_the_order_with_both() {
    let world = world().await;
    let upkeep = Upkeep::new(world.pool());
    let young = world.errand(1).await;
    world.past(&young, 17, 5, ENDED).await;
    world.past(&young, 2, 3, ENDED).await;
    give_back(&world, 17, 2).await;
    assert_eq!(retire(&upkeep, History::Sagas).await, Some((3, false)));
    assert_eq!(rows(&world).await, [7, 7, 7, 5]);
    assert_eq!(retire(&upkeep, History::Orders).await, Some((3, false)));
    assert_eq!(rows(&world).await, [7, 7, 7, 3]);
    let forget = async |what| upkeep.forget_leftovers(what, RETENTION, &mut Walk::default()).await.unwrap();
    assert_eq!((forget(History::Sagas).await, forget(History::Orders).await), (0, 0));
    // They do not outlive the younger ones.
    run(&world, "DELETE FROM sagas WHERE workflow = 'order_return'").await;
    assert_eq!((forget(History::Sagas).await, forget(History::Orders).await), (3, 3));
    assert_eq!(rows(&world).await[0], 1);
}

#[tokio::test]
async fn sagas_of_an_order_are_forgotten_together_and_none_that_somebody_adds_another_to() {
    let world = world().await;
    let upkeep = Upkeep::new(world.pool());
    let young = world.errand(1).await;
    world.past(&young, 17, 1, ENDED).await;
    world.past(&young, 15, 1, "parked = true, live = false, wake_at = NULL").await;
    give_back(&world, 17, 15).await;
    while retire(&upkeep, History::Sagas).await.is_some() {}
    let forget = async || {
        let mut walk = Walk::default();
        upkeep.forget_leftovers(History::Sagas, RETENTION, &mut walk).await.unwrap()
    };
    assert_eq!(forget().await, 0, "one is parked");
    run(
        &world,
        "UPDATE sagas_default SET parked = false, outcome = 'completed', updated_at = now() WHERE parked",
    )
    .await;
    assert_eq!(forget().await, 0, "it has ended just now");
    run(&world, "UPDATE sagas_default SET updated_at = now() - interval '401 days'").await;
    let mut adding = world.owner().begin().await.unwrap();
    sqlx::query("SELECT FROM orders FOR UPDATE").execute(&mut *adding).await.unwrap();
    assert_eq!(forget().await, 0, "its order is locked");
    adding.rollback().await.unwrap();
    assert_eq!(forget().await, 2);
}

#[tokio::test]
async fn a_month_of_whose_orders_too_many_have_a_younger_saga_is_due_once_those_are() {
    for (younger, retired) in [(2, None), (15, Some((0, false)))] {
        let world = world().await;
        let upkeep = Upkeep::new(world.pool());
        let young = world.errand(1).await;
        world.past(&young, 17, 2_001, ENDED).await;
        world.past(&young, younger, 2_001, ENDED).await;
        give_back(&world, 17, younger).await;
        assert_eq!(retire(&upkeep, History::Sagas).await, retired);
        let orders = retire(&upkeep, History::Orders).await;
        assert_eq!(orders.is_some(), retired.is_some(), "not before its sagas");
    }
}

#[tokio::test]
async fn odd_replies_go_with_their_saga_and_move_along_with_it() {
    let world = world().await;
    let upkeep = Upkeep::new(world.pool());
    let young = world.errand(1).await;
    world.past(&young, 17, 3, ENDED).await;
    world.past(&young, 17, 1, "parked = true, live = false, wake_at = NULL").await;
    run(
        &world,
        "INSERT INTO odd_replies (home, saga_id, reason, dead_lettered, count, first_at, last_at, topic, partition, \"offset\")
         SELECT 0, id, why, true, 1, now(), now(), 'saga.replies', 0, 1
         FROM sagas, UNNEST(ARRAY['forged', 'duplicate']) AS r (why)",
    )
    .await;
    let left = async || {
        let left: i64 =
            sqlx::query_scalar("SELECT count(*) FROM odd_replies").fetch_one(world.owner()).await.unwrap();
        left
    };
    assert_eq!(left().await, 2 * 5);
    assert_eq!(retire(&upkeep, History::Sagas).await, Some((1, false)));
    assert_eq!(left().await, 2 * 2, "those of the young saga and of the parked one");
    run(&world, "UPDATE sagas SET parked = false, outcome = 'undone' WHERE parked").await;
    let mut walk = Walk::default();
    assert_eq!(upkeep.forget_leftovers(History::Sagas, RETENTION, &mut walk).await.unwrap(), 1);
    assert_eq!(left().await, 2);
}

#[tokio::test]
async fn a_month_of_which_too_much_has_not_ended_stays_whole() {
    let world = world().await;
    let upkeep = Upkeep::new(world.pool());
    let young = world.errand(1).await;
    world.past(&young, 17, 2_001, "parked = true, live = false, wake_at = NULL").await;
    assert_eq!(retire(&upkeep, History::Sagas).await, Some((2_001, true)));
    assert_eq!(rows(&world).await, [2_002, 2_002, 2_002, 2_001]);
}

#[tokio::test]
async fn a_stray_is_kept_so_long_after_it_came() {
    let world = world().await;
    let upkeep = Upkeep::new(world.pool());
    run(
        &world,
        "SELECT ensure_month(now() - interval '17 months');
         INSERT INTO strays (home, saga_id, command_id, received_at, reply)
         SELECT 0, least_id(date_trunc('month', now()) - interval '17 months' + interval '10 days'), gen_random_uuid(),
                now() - n * interval '300 days', '{}' FROM generate_series(1, 2) AS n",
    )
    .await;
    assert_eq!(retire(&upkeep, History::Strays).await, Some((1, false)));
    let left = async || {
        let left: i64 =
            sqlx::query_scalar("SELECT count(*) FROM strays").fetch_one(world.owner()).await.unwrap();
        left
    };
    // The entry that came later brings the other one of its saga along; that one is deleted separately.
    assert_eq!(left().await, 2);
    let mut walk = Walk::default();
    assert_eq!(upkeep.forget_leftovers(History::Strays, RETENTION, &mut walk).await.unwrap(), 1);
    assert_eq!(left().await, 1);
}

#[tokio::test]
async fn the_engine_cannot_forget_what_is_young() {
    let world = world().await;
    let upkeep = Upkeep::new(world.pool());
    let young = world.errand(1).await;
    world.past(&young, 5, 3, ENDED).await;
    let short = RETENTION_LEAST - Duration::from_secs(1);
    for what in History::ALL {
        assert!(upkeep.retire_month(what, short).await.is_err(), "{what:?}");
        assert!(upkeep.forget_leftovers(what, short, &mut Walk::default()).await.is_err(), "{what:?}");
    }
    assert_eq!(rows(&world).await, [4, 4, 4, 3]);
    assert!(upkeep.retire_month(History::Sagas, RETENTION_LEAST).await.unwrap().is_some());
}

#[tokio::test]
async fn a_month_that_somebody_reads_waits_and_nobody_waits_for_it() {
    let world = world().await;
    let upkeep = Upkeep::new(world.pool());
    let young = world.errand(1).await;
    world.past(&young, 17, 3, ENDED).await;
    let mut reading = world.owner().begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM sagas").execute(&mut *reading).await.unwrap();
    let refused = upkeep.retire_month(History::Sagas, RETENTION).await;
    assert!(matches!(refused, Err(amends_postgres::Error::Locked(_))), "{refused:?}");
    world.errand(1).await;
    reading.rollback().await.unwrap();
    assert_eq!(retire(&upkeep, History::Sagas).await, Some((0, false)));
}

#[tokio::test]
async fn the_publisher_passes_over_what_is_gone() {
    let world = world().await;
    let (gone, there) = (world.errand(1).await, world.errand(1).await);
    run(&world, &format!("DELETE FROM sagas WHERE id = '{}'", gone.id)).await;
    let entries = EventLog::new(world.pool()).unpublished(&[(1, 0)], 10, &known()).await.unwrap().entries;
    assert_eq!(entries.iter().map(|entry| entry.saga_id).collect::<Vec<_>>(), [there.id]);
}
