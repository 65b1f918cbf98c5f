//! The cache of stock beside the worker: nobody reads less than a reply or an answer has told, with Redis and without.

use std::time::{Duration, Instant};

use amends_inventory::{
    Inventory,
    cache::{Looked, StockCache, Ticket},
    router, settings,
};
use amends_protocol::Outcome;
use amends_redis::Redis;
use amends_testkit::redis::RedisServer;
use amends_worker::{PgRows, Settings, Transactional};
use axum::{
    body::{Body, to_bytes},
    http::StatusCode,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::world::{World, request, reserve, take};

/// Longer than anything takes, even on a busy machine.
const LONG: Duration = Duration::from_secs(60);
/// How long after its product was looked up a value is shown.
const VALUE_LIFETIME: Duration = Duration::from_secs(1);

/// Looks a product up. Redis is not waited for, not even by a busy machine: then it is looked up again.
async fn looked(cache: &StockCache, product: &str) -> Looked {
    amends_testkit::eventually("Redis is there", LONG, || async {
        Some(cache.look(product).await).filter(|looked| *looked != Looked::Unknown)
    })
    .await
}

/// Returns the ticket of a product that is not in the cache.
async fn ticket(cache: &StockCache, product: &str) -> Ticket {
    match looked(cache, product).await {
        Looked::Absent(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

/// Tries something with a product of its own each time, until it takes no longer than a value is shown. What it finds wrong
/// within that time fails the test.
async fn in_time(attempt: impl AsyncFn(&str) -> Result<(), String>) {
    for number in 0..20 {
        let begun = Instant::now();
        let Err(wrong) = attempt(&format!("mug-{number}")).await else { return };
        assert!(begun.elapsed() >= VALUE_LIFETIME / 4, "{wrong}");
    }
    panic!("this machine is too slow to say");
}

/// A world whose worker and routes share a cache.
struct Cached {
    world: World,
    cache: StockCache,
    _stop: tokio_util::sync::DropGuard,
}

impl Cached {
    async fn with(cache: StockCache) -> Self {
        let world = World::quiet().await;
        let stop = CancellationToken::new();
        let settings = Settings { patience: Duration::from_millis(20), ..settings() };
        let (rows, executor) = (PgRows::new(world.pool.clone()), Inventory::with_cache(cache.clone()));
        let worker =
            Transactional::new(rows, executor, world.topics.source(), world.topics.clone(), settings);
        tokio::spawn(worker.run(stop.clone()));
        Self { world, cache, _stop: stop.drop_guard() }
    }

    async fn http(&self, method: &str, path: &str, body: &Value) -> (StatusCode, String) {
        let app = router(self.world.pool.clone(), 2, self.cache.clone());
        let request = request(method, path).header("content-type", "application/json");
        let body = if method == "GET" { Body::empty() } else { Body::from(body.to_string()) };
        let response = app.oneshot(request.body(body).unwrap()).await.unwrap();
        let status = response.status();
        let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    async fn put(&self, on_hand: i64) {
        let put = self.http("PUT", "/api/inventory/mug/stock", &json!({ "onHand": on_hand })).await;
        assert_eq!(put.0, StatusCode::OK, "{}", put.1);
    }

    /// Reads a product as the api does; returns what is on hand, what is reserved, and whether the cache had it.
    async fn read(&self) -> (i64, i64, bool) {
        let (stock, was_cached) = match self.cache.look("mug").await {
            Looked::Found(stock) => (stock, true),
            looked => {
                let (status, stock) = self.http("GET", "/api/inventory/mug", &Value::Null).await;
                assert_eq!(status, StatusCode::OK, "{stock}");
                if let Looked::Absent(ticket) = looked {
                    self.cache.keep("mug", ticket, &stock).await;
                }
                (stock, false)
            }
        };
        let stock: Value = serde_json::from_str(&stock).unwrap();
        (stock["onHand"].as_i64().unwrap(), stock["reserved"].as_i64().unwrap(), was_cached)
    }
}

/// Reads until a read is from the cache; they must all be alike.
async fn read_and_keep(cached: &Cached) -> (i64, i64) {
    let (on_hand, reserved, _) = cached.read().await;
    amends_testkit::eventually("a read is from the cache", LONG, || async {
        let (again, reserved_again, was_cached) = cached.read().await;
        assert_eq!((again, reserved_again), (on_hand, reserved));
        was_cached.then_some(())
    })
    .await;
    (on_hand, reserved)
}

/// Every change is seen once its reply or answer is there, and reads between changes come from the cache.
async fn is_never_behind(cached: &Cached) {
    cached.put(100).await;
    assert_eq!(read_and_keep(cached).await, (100, 0));
    cached.put(50).await;
    assert_eq!(read_and_keep(cached).await, (50, 0));
    for n in 1..=10 {
        let order = reserve(&[("mug", 1)]);
        assert_eq!(cached.world.ask(&order).await.outcome, Outcome::Succeeded);
        assert_eq!(read_and_keep(cached).await, (51 - n, 1));
        assert_eq!(cached.world.ask(&take(&order)).await.outcome, Outcome::Succeeded);
        assert_eq!(read_and_keep(cached).await, (50 - n, 0));
    }
}

#[tokio::test]
async fn a_cache_within_the_process_is_never_behind_a_reply_or_an_answer() {
    is_never_behind(&Cached::with(StockCache::within_process()).await).await;
}

#[tokio::test]
async fn a_cache_in_redis_is_never_behind_a_reply_or_an_answer() {
    let server = RedisServer::start();
    let cache = StockCache::in_redis(Redis::new(&server.url()).unwrap());
    is_never_behind(&Cached::with(cache).await).await;
}

#[tokio::test]
async fn what_was_read_before_a_change_is_not_kept_after_it_in_redis() {
    let server = RedisServer::start();
    // The reader and the writer are two processes.
    let [reader, writer] = [(); 2].map(|()| StockCache::in_redis(Redis::new(&server.url()).unwrap()));
    in_time(async |product| {
        let shows = async |expected: &str| match looked(&reader, product).await {
            Looked::Found(found) if found == expected => Ok(()),
            other => Err(format!("{other:?} instead of {expected}")),
        };
        let early = ticket(&reader, product).await;
        writer.forget(&["hat", product]).await;
        reader.keep(product, early.clone(), "old").await;
        let later = ticket(&reader, product).await;
        reader.keep(product, early, "old").await;
        reader.keep(product, later.clone(), "new").await;
        shows("new").await?;
        // Another reader had the same ticket.
        reader.keep(product, later, "newer").await;
        shows("new").await
    })
    .await;
}

#[tokio::test]
async fn a_value_is_gone_after_its_lifetime_and_a_late_one_is_not_kept() {
    let server = RedisServer::start();
    let cache = StockCache::in_redis(Redis::new(&server.url()).unwrap());
    in_time(async |product| {
        let early = ticket(&cache, product).await;
        cache.keep(product, early.clone(), "5").await;
        match looked(&cache, product).await {
            Looked::Found(found) if found == "5" => {}
            other => return Err(format!("{other:?}")),
        }
        amends_testkit::eventually("it expires", LONG, || async {
            matches!(looked(&cache, product).await, Looked::Absent(_)).then_some(())
        })
        .await;
        cache.keep(product, early, "5").await;
        assert!(matches!(looked(&cache, product).await, Looked::Absent(_)), "its time is over");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_has_lost_everything_keeps_nothing_that_was_read_before() {
    let mut server = RedisServer::start();
    let cache = StockCache::in_redis(Redis::new(&server.url()).unwrap());
    let early = ticket(&cache, "mug").await;
    server.restart();
    amends_testkit::eventually("it is back", LONG, || async {
        cache.keep("hat", early.clone(), "5").await;
        (cache.look("hat").await != Looked::Unknown).then_some(())
    })
    .await;
    cache.keep("mug", early, "5").await;
    assert!(matches!(looked(&cache, "mug").await, Looked::Absent(_)));
}

#[tokio::test]
async fn with_a_redis_that_is_killed_answers_stay_right_and_replies_wait_until_old_values_have_expired() {
    let mut server = RedisServer::start();
    let cache = StockCache::in_redis(Redis::new(&server.url()).unwrap());
    let cached = Cached::with(cache).await;
    cached.put(100).await;
    assert_eq!(read_and_keep(&cached).await, (100, 0));
    server.kill();
    let began = Instant::now();
    let order = reserve(&[("mug", 1)]);
    assert_eq!(cached.world.ask(&order).await.outcome, Outcome::Succeeded);
    assert!(began.elapsed() >= Duration::from_secs(1), "a value of another reader may live that long");
    assert_eq!(cached.read().await, (100, 1, false));
    cached.put(90).await;
    assert_eq!(cached.read().await, (90, 1, false));
    server.restart();
    amends_testkit::eventually("it is used again", LONG, || async {
        let (on_hand, reserved, was_cached) = cached.read().await;
        assert_eq!((on_hand, reserved), (90, 1));
        was_cached.then_some(())
    })
    .await;
    assert_eq!(cached.world.ask(&take(&order)).await.outcome, Outcome::Succeeded);
    assert_eq!(read_and_keep(&cached).await, (89, 0));
}
