//! A real Redis whose password changes, and one that moves elsewhere, while a client runs.

use std::time::Duration;

use amends_redis::{Away, BadUrl, Redis, Script};
use amends_testkit::{eventually, redis::RedisServer};

/// Longer than anything takes, even on a busy machine.
const LONG: Duration = Duration::from_secs(60);
/// How often an answer is awaited that a busy machine may be too late for.
const ATTEMPTS: usize = 10;

/// Sets a key.
async fn mark(redis: &Redis) -> Result<(), Away> {
    redis.run(&Script::new("redis.call('SET', KEYS[1], '1')"), &["k".to_owned()], &[0; 0]).await
}

/// Sets the key, as soon as it answers.
async fn marked(redis: &Redis) {
    eventually("it is used", LONG, || async { mark(redis).await.ok() }).await;
}

/// Returns whether the key is there.
async fn is_marked(redis: &Redis) -> Result<bool, Away> {
    redis.run(&Script::new("return redis.call('EXISTS', KEYS[1])"), &["k".to_owned()], &[0; 0]).await
}

#[tokio::test]
async fn a_changed_password_counts_for_the_next_connection_and_the_open_one_stays() {
    let mut server = RedisServer::start();
    server.require_password("first");
    let redis = Redis::new(&server.url_with("first")).unwrap();
    redis.check().await.unwrap();
    marked(&redis).await;

    server.require_password("another");
    server.end_connections();
    eventually("the old password is refused", LONG, || async { redis.check().await.err() }).await;
    eventually("for those who ask it is away", LONG, || async { mark(&redis).await.err() }).await;

    assert_eq!(redis.follow("no url").await, Err(BadUrl));
    assert_eq!(mark(&redis).await, Err(Away));
    redis.follow(&server.url_with("another")).await.unwrap();
    marked(&redis).await;
    redis.check().await.unwrap();

    // The file may be changed before the server's password.
    let mut stays = false;
    for _ in 0..ATTEMPTS {
        redis.follow(&server.url_with("another")).await.unwrap();
        marked(&redis).await;
        redis.follow(&server.url_with("later")).await.unwrap();
        stays |= mark(&redis).await.is_ok();
    }
    assert!(stays, "what is connected stays so");
}

#[tokio::test]
async fn a_url_that_leads_elsewhere_counts_at_once() {
    let [here, there] = [(); 2].map(|()| RedisServer::start());
    let redis = Redis::new(&here.url()).unwrap();
    for url in [here.url(), there.url(), format!("{}/1", there.url())] {
        redis.follow(&url).await.unwrap();
        let was_there = eventually("it is used", LONG, || async { is_marked(&redis).await.ok() }).await;
        assert!(!was_there, "{url} is another one");
        marked(&redis).await;
    }
}
