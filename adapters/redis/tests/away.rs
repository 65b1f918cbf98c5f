//! A real Redis that goes away and comes back.

use std::time::{Duration, Instant};

use amends_redis::{Away, BadUrl, Redis, Script};
use amends_testkit::{eventually, redis::RedisServer};

async fn ping(redis: &Redis) -> Result<i64, Away> {
    redis.run(&Script::new("return ARGV[1] + #KEYS"), &["k".to_owned()], &[41]).await
}

#[tokio::test]
async fn a_redis_that_is_away_fails_soon_and_is_used_again_once_it_is_back() {
    let mut server = RedisServer::start();
    let redis = Redis::new(&server.url()).unwrap();
    assert_eq!(ping(&redis).await, Ok(42));
    server.kill();
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(ping(&redis).await, Err(Away));
    }
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "it is not waited for each time: {:?}",
        began.elapsed()
    );
    server.restart();
    eventually("it is used again", Duration::from_secs(20), || async { ping(&redis).await.ok() }).await;
}

#[tokio::test]
async fn a_redis_that_accepts_and_says_nothing_fails_soon() {
    let silent = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let redis = Redis::new(&format!("redis://{}", silent.local_addr().unwrap())).unwrap();
    let began = Instant::now();
    assert_eq!(ping(&redis).await, Err(Away));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[test]
fn a_url_of_something_else_is_refused() {
    for url in
        ["", "localhost:6379", "http://localhost", "rediss://h#insecure", "redis://", "redis://localhost:x"]
    {
        assert_eq!(Redis::new(url).err(), Some(BadUrl), "{url}");
    }
}
