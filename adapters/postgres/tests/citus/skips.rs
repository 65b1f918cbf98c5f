//! With writers on all nodes, a reader of a slot's entries skips none.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use futures::future::join_all;
use sqlx::PgPool;

use crate::{
    nodes,
    support::{Postgres, citus},
};

/// Appends two entries in slot 7, as every writer does, and commits late now and then, as on a busy disk.
const NUMBERED: &str =
    "SELECT append_entries(3::int2, ARRAY[gen_random_uuid(), gen_random_uuid()], '{7,7}', '{1,1}',
    ARRAY[now(), now()], '{x,x}', 1, NULL)";
/// The same without a lock: numbers that are drawn in order, as from a sequence, and committed late now and then.
const UNLOCKED: &str = "SELECT append_unlocked(3::int2)";
const MAKE_UNLOCKED: &str = "
    CREATE OR REPLACE FUNCTION append_unlocked(of_home smallint) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO timeline (home, saga_id, slot, position, revision, at, body, batch)
        SELECT of_home, gen_random_uuid(), 7, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + n, 1, now(), 'x', 1
        FROM generate_series(1, 2) AS n;
        PERFORM pg_sleep(CASE WHEN random() < 0.3 THEN 0.003 ELSE 0 END);
    END $$;
    SELECT create_distributed_function('append_unlocked(smallint)', 'of_home', colocate_with := 'slot_positions')";

const WRITERS_EACH: usize = 2;

/// Lets writers on each node commit `commits` transactions each while a reader follows them on the coordinator; returns
/// how many entries there are, and how many it skipped.
async fn skipped(world: &Postgres, statement: &'static str, commits: usize) -> (usize, usize) {
    sqlx::raw_sql("TRUNCATE timeline").execute(world.owner()).await.unwrap();
    let nodes = nodes(world).await;
    let ended = AtomicUsize::new(0);
    let writers: Vec<&PgPool> = nodes.iter().flat_map(|node| [node; WRITERS_EACH]).collect();
    let count = writers.len();
    let writers = join_all(writers.into_iter().enumerate().map(|(writer, pool)| {
        let ended = &ended;
        async move {
            for n in 0..commits {
                // One in three is a transaction of its caller, which commits later.
                if (n + writer) % 3 == 0 {
                    let mut tx = pool.begin().await.unwrap();
                    sqlx::query(statement).execute(&mut *tx).await.unwrap();
                    sqlx::query("SELECT pg_sleep(0.003)").execute(&mut *tx).await.unwrap();
                    tx.commit().await.unwrap();
                } else {
                    sqlx::query(statement).execute(pool).await.unwrap();
                }
            }
            ended.fetch_add(1, Ordering::SeqCst);
        }
    }));
    let reader = async {
        let (mut seen, mut reached) = (BTreeSet::new(), 0_i64);
        loop {
            let all_ended = ended.load(Ordering::SeqCst) == count;
            let next: Vec<i64> = sqlx::query_scalar(
                "SELECT position FROM timeline WHERE home = 3 AND slot = 7 AND position > $1 ORDER BY position LIMIT 500",
            )
            .bind(reached)
            .fetch_all(&nodes[0])
            .await
            .unwrap();
            if all_ended && next.is_empty() {
                return seen;
            }
            reached = next.last().copied().unwrap_or(reached);
            seen.extend(next);
        }
    };
    let (_, seen) = tokio::join!(writers, reader);
    let all: Vec<i64> = sqlx::query_scalar("SELECT position FROM timeline WHERE home = 3 AND slot = 7")
        .fetch_all(&nodes[0])
        .await
        .unwrap();
    (all.len(), BTreeSet::from_iter(all).difference(&seen).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_writers_on_all_nodes_no_entry_is_skipped() {
    let Some(world) = citus().await else { return };
    let (entries, skipped) = skipped(&world, NUMBERED, 100).await;
    eprintln!("{entries} entries, {skipped} skipped");
    assert_eq!((entries, skipped), (nodes(&world).await.len() * WRITERS_EACH * 200, 0));
}

/// The control: it shows that the test above can fail.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_slots_row_entries_are_skipped() {
    let Some(world) = citus().await else { return };
    sqlx::raw_sql(MAKE_UNLOCKED).execute(world.owner()).await.unwrap();
    let begun = Instant::now();
    loop {
        let (entries, skipped) = skipped(&world, UNLOCKED, 50).await;
        eprintln!("{entries} entries, {skipped} skipped");
        if skipped > 0 {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "no writer overtook another within a minute");
    }
}
