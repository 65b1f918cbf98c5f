//! A real Redis that goes away and comes back.

use std::time::{Duration, Instant};

use amends_redis::{Away, BadUrl, Redis, Script};
use amends_testkit::{eventually, redis::RedisServer};
use tokio::time::timeout;

/// Longer than anything takes, even on a busy machine.
const LONG: Duration = Duration::from_secs(60);

async fn ping(redis: &Redis) -> Result<i64, Away> {
    redis.run(&Script::new("return ARGV[1] + #KEYS"), &["k".to_owned()], &[41]).await
}

#[tokio::test]
async fn a_redis_that_is_away_fails_soon_and_is_used_again_once_it_is_back() {
    let mut server = RedisServer::start();
    let redis = Redis::new(&server.url()).unwrap();
    // It is not waited for, not even by a busy machine.
    let answer = eventually("it is used", LONG, || async { ping(&redis).await.ok() }).await;
    assert_eq!(answer, 42);
    server.kill();
    let began = Instant::now();
    for _ in 0..200 {
        assert_eq!(ping(&redis).await, Err(Away));
    }
    // Each time a quarter of a second would be 50 s.
    assert!(
        began.elapsed() < Duration::from_secs(25),
        "it is not waited for each time: {:?}",
        began.elapsed()
    );
    server.restart();
    eventually("it is used again", LONG, || async { ping(&redis).await.ok() }).await;
}

#[tokio::test]
async fn a_redis_that_accepts_and_says_nothing_fails_soon() {
    let silent = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let redis = Redis::new(&format!("redis://{}", silent.local_addr().unwrap())).unwrap();
    let said = timeout(LONG, ping(&redis)).await.expect("it is not waited for for ever");
    assert_eq!(said, Err(Away));
}

#[test]
fn a_url_of_something_else_is_refused() {
    for url in
        ["", "localhost:6379", "http://localhost", "rediss://h#insecure", "redis://", "redis://localhost:x"]
    {
        assert_eq!(Redis::new(url).err(), Some(BadUrl), "{url}");
    }
}
