//! A real Redis that takes encrypted connections only.

use std::{fs, time::Duration};

use amends_redis::{Away, BadUrl, Redis, Script};
use amends_testkit::{
    eventually,
    redis::RedisServer,
    tls::{Authority, Flaw},
};

const PATIENCE: Duration = Duration::from_secs(60);

async fn ping(redis: &Redis) -> Result<i64, Away> {
    redis.run(&Script::new("return ARGV[1] + #KEYS"), &["k".to_owned()], &[41]).await
}

/// Returns why the check refuses. A Redis that does not answer in time, as on a busy machine, counts as away.
async fn refusal(redis: &Redis) -> String {
    eventually("a refusal", PATIENCE, || async { redis.check().await.err() }).await.to_string()
}

fn trusting(server: &RedisServer, authority: &Authority) -> Redis {
    Redis::trusting(&server.url(), fs::read(authority.file()).unwrap()).unwrap()
}

#[tokio::test]
async fn the_certificate_and_its_host_are_checked_and_a_plain_connection_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let [ours, other] = ["ours", "other"].map(|name| Authority::new(directory.path(), name));
    let mut server = RedisServer::start_with_tls(ours.issue("server", Flaw::None));
    let redis = trusting(&server, &ours);
    redis.check().await.unwrap();
    eventually("it is used", PATIENCE, || async { ping(&redis).await.ok() }).await;

    let plain = Redis::new(&server.url().replace("rediss", "redis")).unwrap();
    assert_eq!(ping(&plain).await, Err(Away));
    let stranger = refusal(&trusting(&server, &other)).await;
    assert!(stranger.contains("UnknownIssuer"), "{stranger}");
    let public = refusal(&Redis::new(&server.url()).unwrap()).await;
    assert!(public.contains("UnknownIssuer"), "{public}");

    for (flaw, part) in [(Flaw::Expired, "expired"), (Flaw::OtherHost, "not valid for name")] {
        server.present(ours.issue("flawed", flaw));
        server.restart();
        let why = refusal(&redis).await;
        assert!(why.contains(part), "{part}: {why}");
        assert_eq!(ping(&redis).await, Err(Away), "a running role goes on without it");
    }
    server.present(ours.issue("again", Flaw::None));
    server.restart();
    eventually("it is used again", PATIENCE, || async { ping(&redis).await.ok() }).await;
    server.kill();
    redis.check().await.expect("a Redis that is away does not stop a start");
}

#[test]
fn authorities_need_a_url_with_encryption() {
    let directory = tempfile::tempdir().unwrap();
    let pem = fs::read(Authority::new(directory.path(), "ours").file()).unwrap();
    assert!(Redis::trusting("rediss://localhost", pem.clone()).is_ok());
    for url in ["redis://localhost", "rediss://localhost#insecure", "rediss://"] {
        assert_eq!(Redis::trusting(url, pem.clone()).err(), Some(BadUrl), "{url}");
    }
}
