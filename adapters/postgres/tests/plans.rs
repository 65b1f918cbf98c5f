//! What operators have planned: kept until it expires, answered once.

mod support;

use std::time::Duration;

use amends_postgres::plans::{self, NewPlan, StoredPlan};
use support::{Postgres, world};
use uuid::Uuid;

const LIFETIME: Duration = Duration::from_secs(900);

const HASH: &str = "a0000000000000000000000000000000000000000000000000000000000000a0";
const ANOTHER: &str = "b0000000000000000000000000000000000000000000000000000000000000b0";

fn plan(hash: &str) -> NewPlan<'_> {
    NewPlan { hash, saga_id: Uuid::from_u128(7), revision: 3, event: "{}", planned_by: "ada" }
}

async fn kept(world: &Postgres, hash: &str) -> StoredPlan {
    plans::get(&world.pool(), hash).await.unwrap().expect("it is kept")
}

#[tokio::test]
async fn a_plan_expires_by_the_databases_clock_and_planned_again_it_lives_longer() {
    let world = world().await;
    let pool = world.pool();
    assert_eq!(plans::get(&pool, HASH).await.unwrap(), None);
    let ended = plans::keep(&pool, plan(HASH), Duration::ZERO).await.unwrap();
    let expired = kept(&world, HASH).await;
    assert_eq!((expired.has_expired, expired.expires_at), (true, ended));
    let later = plans::keep(&pool, plan(HASH), LIFETIME).await.unwrap();
    let plan = kept(&world, HASH).await;
    assert_eq!((plan.has_expired, plan.expires_at), (false, later));
    assert_eq!((plan.saga_id, plan.revision, plan.event.as_str()), (Uuid::from_u128(7), 3, "{}"));
    assert_eq!((plan.planned_by.as_str(), plan.answer), ("ada", None));
}

#[tokio::test]
async fn of_two_answers_to_a_plan_the_first_is_the_answer_to_both() {
    let world = world().await;
    let pool = world.pool();
    plans::keep(&pool, plan(HASH), LIFETIME).await.unwrap();
    plans::keep(&pool, plan(ANOTHER), LIFETIME).await.unwrap();
    for answer in ["first", "second"] {
        assert_eq!(plans::answered(&pool, HASH, answer).await.unwrap().as_deref(), Some("first"));
    }
    // To plan it again takes no answer away.
    plans::keep(&pool, plan(HASH), LIFETIME).await.unwrap();
    assert_eq!(kept(&world, HASH).await.answer.as_deref(), Some("first"));
    assert_eq!(kept(&world, ANOTHER).await.answer, None);
    assert_eq!(plans::answered(&pool, "unknown", "first").await.unwrap(), None);
}

#[tokio::test]
async fn plans_that_expired_a_day_ago_go_a_hundred_at_a_time() {
    let world = world().await;
    let pool = world.pool();
    sqlx::query(
        "INSERT INTO plans (hash, saga_id, revision, event, planned_by, expires_at)
         SELECT lpad(n::text, 64, '0'), gen_random_uuid(), 1, '{}', 'ada', now() - n * interval '1 hour'
         FROM generate_series(1, 200) AS n",
    )
    .execute(world.owner())
    .await
    .unwrap();
    let mut left = Vec::new();
    for _ in 0..3 {
        plans::keep(&pool, plan(HASH), LIFETIME).await.unwrap();
        let count: i64 =
            sqlx::query_scalar("SELECT count(*) FROM plans").fetch_one(world.owner()).await.unwrap();
        left.push(count);
    }
    // 23 of the 200 have expired within a day; the new one lives.
    assert_eq!(left, [101, 24, 24]);
    let of_hour = |n: u32| format!("{n:064}");
    assert!(plans::get(&pool, &of_hour(23)).await.unwrap().is_some());
    assert!(plans::get(&pool, &of_hour(25)).await.unwrap().is_none());
}
