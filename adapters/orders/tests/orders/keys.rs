//! Idempotency keys: how long each is known, and how expired ones go.

use std::time::Duration;

use amends_orders::{
    Placed,
    keys::{self, KeyClass},
};
use amends_postgres::Error;
use amends_testkit::eventually;

use crate::{birth, new, order, orders, place, rows, support::Postgres};

#[tokio::test]
async fn an_expired_key_can_be_used_again() {
    let (world, store) = orders().await;
    let first = place(&store, &[order(Some(("k", 1)))]).await;
    sqlx::query("UPDATE idempotency_keys SET expires_at = expires_at - interval '24 hours 1 second'")
        .execute(world.owner())
        .await
        .unwrap();
    let again = place(&store, &[order(Some(("k", 2)))]).await;
    assert_ne!(new(&first[0]).id, new(&again[0]).id);
    let replayed = place(&store, &[order(Some(("k", 2)))]).await;
    assert_eq!(replayed, [Placed::Replayed(Box::new(new(&again[0]).clone()))]);
}

#[tokio::test]
async fn a_key_that_has_not_expired_cannot() {
    let (world, store) = orders().await;
    place(&store, &[order(Some(("k", 1)))]).await;
    sqlx::query("UPDATE idempotency_keys SET expires_at = expires_at - interval '23 hours 59 minutes'")
        .execute(world.owner())
        .await
        .unwrap();
    assert_eq!(place(&store, &[order(Some(("k", 2)))]).await, [Placed::KeyReused]);
}

/// Moves the start of the present generation of keys back by this many hours.
async fn aged(world: &Postgres, hours: i32) {
    sqlx::query("UPDATE idempotency_key_classes SET began_at = now() - make_interval(hours => $1)")
        .bind(hours)
        .execute(world.owner())
        .await
        .unwrap();
}

async fn generations(world: &Postgres) -> Vec<i16> {
    sqlx::query_scalar("SELECT generation FROM idempotency_keys ORDER BY key")
        .fetch_all(world.owner())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_key_is_known_across_generations_and_goes_with_its_partition_after_the_second_turn() {
    let (world, store) = orders().await;
    let pool = world.pool();
    let first = place(&store, &[order(Some(("a", 1)))]).await;
    assert!(!keys::turn(&pool, KeyClass::Placement).await.unwrap(), "a day has not passed");
    aged(&world, 24).await;
    assert!(keys::turn(&pool, KeyClass::Placement).await.unwrap());
    let replayed = place(&store, &[order(Some(("a", 1))), order(Some(("b", 1)))]).await;
    assert_eq!(replayed[0], Placed::Replayed(Box::new(new(&first[0]).clone())));
    assert_eq!(generations(&world).await, [0, 1]);
    for expected in [vec![0, 1], vec![1], vec![]] {
        aged(&world, 24).await;
        assert!(keys::turn(&pool, KeyClass::Placement).await.unwrap());
        assert_eq!(generations(&world).await, expected);
    }
    new(&place(&store, &[order(Some(("a", 2)))]).await[0]);
}

#[tokio::test]
async fn a_key_that_expired_in_another_generation_can_be_used_again() {
    let (world, store) = orders().await;
    place(&store, &[order(Some(("k", 1)))]).await;
    aged(&world, 25).await;
    keys::turn(&world.pool(), KeyClass::Placement).await.unwrap();
    sqlx::query("UPDATE idempotency_keys SET expires_at = now()").execute(world.owner()).await.unwrap();
    let again = place(&store, &[order(Some(("k", 2)))]).await;
    let replayed = place(&store, &[order(Some(("k", 2)))]).await;
    assert_eq!(replayed, [Placed::Replayed(Box::new(new(&again[0]).clone()))]);
    assert_eq!(generations(&world).await, [0, 1]);
}

#[tokio::test]
async fn no_generation_begins_while_a_key_is_being_taken() {
    let (world, store) = orders().await;
    aged(&world, 25).await;
    let batch = [order(Some(("k", 1)))];
    let paused = world.pause_before_commit(batch[0].saga.id).await;
    let placing = async { store.place(store.now().await.unwrap(), &batch, birth).await.unwrap() };
    let meanwhile = async {
        world.until_waiting("advisory", 1).await;
        let refused = keys::turn(&world.pool(), KeyClass::Placement).await;
        assert!(matches!(refused, Err(Error::Locked(_))), "{refused:?}");
        paused.end().await;
    };
    let (placed, ()) = tokio::join!(placing, meanwhile);
    // The server reports an error before it releases the locks.
    eventually("its turn", Duration::from_secs(60), || async {
        keys::turn(&world.pool(), KeyClass::Placement).await.is_ok_and(|turned| turned).then_some(())
    })
    .await;
    let replayed = place(&store, &[order(Some(("k", 1)))]).await;
    assert_eq!(replayed, [Placed::Replayed(Box::new(new(&placed[0]).clone()))]);
}

#[tokio::test]
async fn who_waits_for_a_new_generation_takes_its_keys_there() {
    let (world, store) = orders().await;
    let first = place(&store, &[order(Some(("a", 1)))]).await;
    // Another turn, slowly.
    let mut turning = world.owner().begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(hashtext('idempotency_keys'), 0)")
        .execute(&mut *turning)
        .await
        .unwrap();
    let batch = [order(Some(("a", 1))), order(Some(("b", 1)))];
    let turn = async {
        world.until_waiting("advisory", 1).await;
        sqlx::query("UPDATE idempotency_key_classes SET generation = 1")
            .execute(&mut *turning)
            .await
            .unwrap();
        turning.commit().await.unwrap();
    };
    let (placed, ()) = tokio::join!(place(&store, &batch), turn);
    assert_eq!(placed[0], Placed::Replayed(Box::new(new(&first[0]).clone())));
    assert_eq!(new(&placed[1]).id, batch[1].id);
    assert_eq!(generations(&world).await, [0, 1], "its statement began before the turn was committed");
}

#[tokio::test]
async fn expired_keys_go_without_being_read() {
    let (world, _store) = orders().await;
    sqlx::query(
        "INSERT INTO idempotency_keys (home, subject, key, order_id, fingerprint, expires_at, generation)
         SELECT 0, 's', n::text, gen_random_uuid(), decode(repeat('00', 32), 'hex'), now(), n % 3
         FROM generate_series(1, 6000) AS n",
    )
    .execute(world.owner())
    .await
    .unwrap();
    aged(&world, 25).await;
    assert!(keys::turn(&world.pool(), KeyClass::Placement).await.unwrap());
    assert_eq!(rows(world.owner()).await[4], 4000, "one partition");
    let read = world.counted("seq_tup_read + idx_tup_fetch + n_tup_del", "idempotency_keys_1").await;
    assert_eq!(read, 0);
}
