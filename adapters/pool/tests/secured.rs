//! A real Postgres that takes encrypted connections only.

use std::time::{Duration, Instant};

use amends_pool::{Error, Pool, check, connect};
use amends_testkit::{
    TlsPostgres, eventually,
    tls::{Authority, Flaw},
};
use sqlx::{AssertSqlSafe, Executor};

const PATIENCE: Duration = Duration::from_secs(60);

fn pool(url: &str) -> Pool {
    connect(url, 1, "test").unwrap()
}

/// Returns why no connection can be made. It must be known long before the patience ends.
async fn refusal(url: &str) -> String {
    let begun = Instant::now();
    let error = check(&pool(url), PATIENCE).await.expect_err(url);
    assert!(begun.elapsed() < PATIENCE / 2, "{error}");
    assert!(matches!(error, Error::Unreachable(_)), "{error}");
    error.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_and_its_host_are_checked_and_a_plain_connection_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let [ours, other] = ["ours", "other"].map(|name| Authority::new(directory.path(), name));
    let good = ours.issue("server", Flaw::None);
    let server = TlsPostgres::start(&directory.path().join("data"), &good, &ours).await;
    let verified = TlsPostgres::verified_by(&ours);
    let at = |parameters: &str| server.url("postgres", parameters);

    check(&pool(&at(&verified)), PATIENCE).await.unwrap();
    let encrypted: bool = sqlx::query_scalar("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        .fetch_one(&pool(&at(&verified)))
        .await
        .unwrap();
    assert!(encrypted);

    assert!(refusal(&at("sslmode=disable")).await.contains("no encryption"));
    assert!(refusal(&at(&TlsPostgres::verified_by(&other))).await.contains("UnknownIssuer"));
    let by_no_file = at("sslmode=verify-full");
    assert!(refusal(&by_no_file).await.contains("UnknownIssuer"), "only public authorities are trusted then");
    for (flaw, part) in [(Flaw::Expired, "expired"), (Flaw::OtherHost, "not valid for name")] {
        server.present(&ours.issue("flawed", flaw)).await;
        let why = refusal(&at(&verified)).await;
        assert!(why.contains(part), "{part}: {why}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_lets_in_where_the_server_wants_one() {
    let directory = tempfile::tempdir().unwrap();
    let [ours, other] = ["ours", "other"].map(|name| Authority::new(directory.path(), name));
    let server =
        TlsPostgres::start(&directory.path().join("data"), &ours.issue("server", Flaw::None), &ours).await;
    server.require_client_certificates().await;
    let verified = TlsPostgres::verified_by(&ours);
    let with = |authority: &Authority, name: &str| {
        let own = authority.issue(name, Flaw::None);
        let (certificate, key) = (own.certificate.display(), own.key.display());
        server.url("postgres", &format!("{verified}&sslcert={certificate}&sslkey={key}"))
    };
    check(&pool(&with(&ours, "client")), PATIENCE).await.unwrap();
    assert!(refusal(&server.url("postgres", &verified)).await.contains("certificate"));
    refusal(&with(&other, "stranger")).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_survives_a_wrong_certificate_and_follows_a_changed_password() {
    let directory = tempfile::tempdir().unwrap();
    let ours = Authority::new(directory.path(), "ours");
    let good = ours.issue("server", Flaw::None);
    let server = TlsPostgres::start(&directory.path().join("data"), &good, &ours).await;
    let old = server.url("postgres", &TlsPostgres::verified_by(&ours));
    let pool = pool(&old);
    check(&pool, PATIENCE).await.unwrap();

    server.present(&ours.issue("expired", Flaw::Expired)).await;
    server.end_sessions().await;
    eventually("connections fail", PATIENCE, || async { check(&pool, PATIENCE).await.err() }).await;
    server.present(&good).await;
    eventually("the pool is used again", PATIENCE, || async { check(&pool, PATIENCE).await.ok() }).await;

    let password = old.split(['/', ':', '@']).nth(4).unwrap().to_owned();
    let change = |to: &str| AssertSqlSafe(format!("ALTER ROLE postgres PASSWORD '{to}'"));
    pool.unbounded().execute(change("another")).await.unwrap();
    let new = old.replace(&password, "another");
    assert!(!pool.follow("postgres://elsewhere", &new).unwrap(), "it is another pool's URL");
    assert!(pool.follow(&old, "no url").is_err());
    assert!(pool.follow(&old, &new).unwrap());
    // The open connection goes; the next one needs the new password.
    sqlx::query("SELECT pg_terminate_backend(pg_backend_pid())").execute(&pool).await.unwrap_err();
    eventually("the new password counts", PATIENCE, || async { check(&pool, PATIENCE).await.ok() }).await;
    let mut superuser = pool.acquire().await.unwrap();
    superuser.execute(change(&password)).await.unwrap();
    drop(superuser);
    server.stop().await;
}
