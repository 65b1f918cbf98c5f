//! A reader of a slot that goes on from the last position it has seen skips no entry, however writers interleave.

mod support;

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use futures::future::join_all;
use sqlx::{AssertSqlSafe, PgPool};
use support::{Postgres, world};

/// Appends two entries in slot 7, as every writer does.
const NUMBERED: &str =
    "SELECT append_entries(0::int2, ARRAY[gen_random_uuid(), gen_random_uuid()], '{7,7}', '{1,1}',
    ARRAY[now(), now()], '{x,x}', 1, NULL)";
/// The same without the slot's lock.
const UNLOCKED: &str = "INSERT INTO timeline (home, saga_id, slot, revision, at, body, batch)
    SELECT 0, gen_random_uuid(), 7, 1, now(), 'x', 1 FROM generate_series(1, 2)";

const WRITERS: usize = 4;

async fn write(pool: &PgPool, statement: &'static str, pause: &str) {
    let mut tx = pool.begin().await.unwrap();
    sqlx::query(statement).execute(&mut *tx).await.unwrap();
    // Some commits are late, as on a busy disk.
    let pause = format!("SELECT pg_sleep({pause})");
    sqlx::query(AssertSqlSafe(pause)).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}

/// Lets writers commit `commits` transactions each while a reader follows them; returns how many entries it skipped.
async fn skipped(world: &Postgres, statement: &'static str, commits: usize) -> usize {
    sqlx::raw_sql("TRUNCATE timeline").execute(world.owner()).await.unwrap();
    let ended = AtomicUsize::new(0);
    let writers = join_all((0..WRITERS).map(|writer| {
        let ended = &ended;
        async move {
            for n in 0..commits {
                let pause = if (n + writer) % 3 == 0 { "0.003" } else { "0" };
                write(world.owner(), statement, pause).await;
            }
            ended.fetch_add(1, Ordering::SeqCst);
        }
    }));
    let reader = async {
        let (mut seen, mut reached) = (BTreeSet::new(), 0_i64);
        loop {
            let all_ended = ended.load(Ordering::SeqCst) == WRITERS;
            let next: Vec<i64> = sqlx::query_scalar(
                "SELECT position FROM timeline WHERE slot = 7 AND position > $1 ORDER BY position LIMIT 500",
            )
            .bind(reached)
            .fetch_all(world.owner())
            .await
            .unwrap();
            if all_ended && next.is_empty() {
                return seen.len();
            }
            reached = next.last().copied().unwrap_or(reached);
            seen.extend(next);
        }
    };
    let (_, seen) = tokio::join!(writers, reader);
    WRITERS * commits * 2 - seen
}

#[tokio::test(flavor = "multi_thread")]
async fn no_entry_is_skipped_where_the_slot_is_locked() {
    let world = world().await;
    assert_eq!(skipped(&world, NUMBERED, 150).await, 0);
}

/// The control: it shows that the test above can fail.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_slots_lock_entries_are_skipped() {
    let world = world().await;
    let begun = Instant::now();
    while skipped(&world, UNLOCKED, 30).await == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "no writer overtook another within a minute");
    }
}
