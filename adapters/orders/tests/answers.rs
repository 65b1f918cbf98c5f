//! The answers that are kept for requests with an idempotency key: a key has one answer. With
//! `AMENDS_TEST_CITUS` also on a Citus.

#[path = "../../postgres/tests/support/mod.rs"]
mod support;

use std::time::Duration;

use amends_orders::answers::{ANSWER_LIFETIME, AnswerStore, KeyUse, Reservation, StoredAnswer};
use amends_testkit::eventually;
use support::worlds;

const REQUEST: [u8; 32] = [1; 32];
const BODY: [u8; 32] = [2; 32];

fn answer() -> StoredAnswer {
    StoredAnswer { status: 202, headers: "{}".to_owned(), body: "done".to_owned() }
}

async fn first(store: &AnswerStore) -> Reservation {
    match store.take(REQUEST, BODY, ANSWER_LIFETIME).await.unwrap() {
        KeyUse::First(reservation) => reservation,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_request_waits_for_the_firsts_answer() {
    for world in worlds().await {
        let store = AnswerStore::new(world.store.database().clone());
        let reservation = first(&store).await;
        let second = tokio::spawn({
            let store = store.clone();
            async move { store.take(REQUEST, BODY, ANSWER_LIFETIME).await }
        });
        eventually("the second request waits for the first", Duration::from_secs(60), || async {
            (world.waiting_anywhere("%").await > 0).then_some(())
        })
        .await;
        assert!(!second.is_finished());
        reservation.keep(&answer()).await.unwrap();
        assert!(matches!(second.await.unwrap().unwrap(), KeyUse::Replayed(kept) if kept == answer()));
        assert!(matches!(store.take(REQUEST, [3; 32], ANSWER_LIFETIME).await.unwrap(), KeyUse::KeyReused));
    }
}

#[tokio::test]
async fn a_key_is_free_again_after_a_refusal_a_crash_and_a_day() {
    for world in worlds().await {
        let store = AnswerStore::new(world.store.database().clone());
        first(&store).await.give_back().await;
        drop(first(&store).await);
        first(&store).await.keep(&answer()).await.unwrap();
        assert!(matches!(store.take(REQUEST, BODY, ANSWER_LIFETIME).await.unwrap(), KeyUse::Replayed(_)));
        assert_eq!(store.forget_expired().await.unwrap(), 0);
        let expired = "UPDATE idempotent_answers SET expires_at = now()";
        sqlx::query(expired).execute(world.owner()).await.unwrap();
        first(&store).await.keep(&answer()).await.unwrap();
        sqlx::query(expired).execute(world.owner()).await.unwrap();
        assert_eq!(store.forget_expired().await.unwrap(), 1);
    }
}
