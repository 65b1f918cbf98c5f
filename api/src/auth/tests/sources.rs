//! Where keys come from: rotation, sources that are away, and sources that answer nonsense.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use amends_testkit::eventually;
use axum::{Router, http::StatusCode, response::IntoResponse, routing::get};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::issuer::{ATTACKER, ISSUER, Issuer, claims, verified};
use crate::auth::{
    KeyCache,
    keys::KeySet,
    refusal::{NotAccepted, Refusal},
    roles::Role,
    token::UnverifiedToken,
};

const LONG: Duration = Duration::from_secs(60);

/// A key set that is served over HTTP.
struct Served {
    address: SocketAddr,
    answer: Arc<Mutex<(StatusCode, String)>>,
    readings: Arc<AtomicUsize>,
}

impl Served {
    async fn at(address: SocketAddr, answer: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let (answer, readings) =
            (Arc::new(Mutex::new((StatusCode::OK, answer.to_owned()))), Arc::new(AtomicUsize::new(0)));
        let served = Self { address: listener.local_addr().unwrap(), answer, readings };
        let (answer, readings) = (Arc::clone(&served.answer), Arc::clone(&served.readings));
        let answering = async move || {
            readings.fetch_add(1, Ordering::Relaxed);
            answer.lock().unwrap().clone().into_response()
        };
        let router = Router::new().route("/keys", get(answering));
        tokio::spawn(async move { axum::serve(listener, router).await });
        served
    }

    async fn new(issuers: &[&Issuer]) -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), &set(issuers)).await
    }

    fn answers(&self, status: StatusCode, text: &str) {
        *self.answer.lock().unwrap() = (status, text.to_owned());
    }

    fn readings(&self) -> usize {
        self.readings.load(Ordering::Relaxed)
    }
}

fn set(issuers: &[&Issuer]) -> String {
    json!({ "keys": issuers.iter().map(|issuer| issuer.published()).collect::<Vec<_>>() }).to_string()
}

fn cache(address: SocketAddr) -> Arc<KeyCache> {
    Arc::new(KeyCache::of_url(format!("http://{address}/keys").parse().unwrap()).unwrap())
}

const UNKNOWN: Result<(), NotAccepted> = Err(NotAccepted::Refused(Refusal::UnknownKey));

#[tokio::test]
async fn a_new_key_works_at_once_and_a_withdrawn_one_no_more() {
    let served = Served::new(&[&ISSUER]).await;
    let keys = cache(served.address);
    let stop = CancellationToken::new();
    let fresh = tokio::spawn(Arc::clone(&keys).keep_fresh(stop.clone()));
    // A token that came earlier would have the keys read itself.
    eventually("the keys are read", LONG, || async { keys.current() }).await;
    assert_eq!(verified(&keys, &ISSUER.good()).await, Ok(()));
    served.answers(StatusCode::OK, &set(&[&ISSUER, &ATTACKER]));
    assert_eq!(verified(&keys, &ATTACKER.good()).await, Ok(()));
    assert_eq!(verified(&keys, &ISSUER.good()).await, Ok(()));
    served.answers(StatusCode::OK, &set(&[&ATTACKER]));
    keys.read().await.unwrap();
    assert_eq!(verified(&keys, &ISSUER.good()).await, UNKNOWN);
    assert_eq!(verified(&keys, &ATTACKER.good()).await, Ok(()));
    stop.cancel();
    fresh.await.unwrap();
}

#[tokio::test]
async fn invented_key_ids_do_not_flood_the_issuer_and_delay_no_good_token() {
    let served = Served::new(&[&ISSUER]).await;
    let keys = cache(served.address);
    keys.read().await.unwrap();
    let before = served.readings();
    let invented = (0..50).map(|n| {
        let mut header = ISSUER.header();
        header["kid"] = json!(format!("invented-{n}"));
        let (keys, token) = (Arc::clone(&keys), ISSUER.sign(&header, &claims()));
        async move { verified(&keys, &token).await }
    });
    let refused = futures::future::join_all(invented).await;
    assert!(refused.iter().all(|refused| *refused == UNKNOWN), "{refused:?}");
    assert_eq!(served.readings() - before, 1);
    for _ in 0..50 {
        assert_eq!(verified(&keys, &ISSUER.good()).await, Ok(()));
    }
    assert_eq!(served.readings() - before, 1);
}

#[tokio::test]
async fn a_url_that_is_away_at_the_start_is_read_once_it_is_there() {
    let address = SocketAddr::from(([127, 0, 0, 1], amends_embedded::free_port().unwrap()));
    let keys = cache(address);
    assert_eq!(verified(&keys, &ISSUER.good()).await, Err(NotAccepted::KeysAway), "no verdict without keys");
    let stop = CancellationToken::new();
    let fresh = tokio::spawn(Arc::clone(&keys).keep_fresh(stop.clone()));
    let _served = Served::at(address, &set(&[&ISSUER])).await;
    eventually("the keys are read", LONG, || async { verified(&keys, &ISSUER.good()).await.ok() }).await;
    stop.cancel();
    fresh.await.unwrap();
}

#[tokio::test]
async fn the_last_good_set_is_kept_while_the_url_fails_or_answers_nonsense() {
    let served = Served::new(&[&ISSUER]).await;
    let keys = cache(served.address);
    keys.read().await.unwrap();
    for (status, text) in [
        (StatusCode::INTERNAL_SERVER_ERROR, set(&[&ATTACKER])),
        (StatusCode::NOT_FOUND, String::new()),
        (StatusCode::FOUND, set(&[&ATTACKER])),
        (StatusCode::OK, "<html>".to_owned()),
        (StatusCode::OK, "{}".to_owned()),
        (StatusCode::OK, r#"{"keys":[]}"#.to_owned()),
        (StatusCode::OK, format!("{}{}", set(&[&ATTACKER]), " ".repeat(513 << 10))),
    ] {
        served.answers(status, &text);
        assert!(keys.read().await.is_err(), "{status}");
        assert_eq!(verified(&keys, &ISSUER.good()).await, Ok(()), "{status}");
    }
    assert_eq!(verified(&keys, &ATTACKER.good()).await, UNKNOWN);
}

#[tokio::test]
async fn a_changed_key_file_is_read_again_and_a_broken_one_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.pem");
    fs::write(&path, ISSUER.public_pem()).unwrap();
    let keys = Arc::new(KeyCache::of_file(path.clone()).unwrap());
    assert_eq!(verified(&keys, &ISSUER.good()).await, Ok(()));
    assert_eq!(verified(&keys, &ATTACKER.good()).await, UNKNOWN);
    fs::write(&path, "half").unwrap();
    assert!(keys.read().await.is_err());
    assert_eq!(verified(&keys, &ISSUER.good()).await, Ok(()));
    fs::write(&path, ATTACKER.public_pem()).unwrap();
    keys.read().await.unwrap();
    assert_eq!(verified(&keys, &ISSUER.good()).await, UNKNOWN);
    assert_eq!(verified(&keys, &ATTACKER.good()).await, Ok(()));
}

#[test]
fn a_file_that_is_no_public_key_is_refused_and_its_path_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.pem");
    let wrong =
        ["", "text", ISSUER.private_pem(), "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"];
    for text in wrong {
        fs::write(&path, text).unwrap();
        let refused = KeyCache::of_file(path.clone()).err().unwrap();
        assert!(refused.contains(path.to_str().unwrap()) && !refused.contains('\n'), "{refused}");
    }
    assert!(KeyCache::of_file(directory.path().join("missing")).is_err());
}

#[test]
fn keys_for_other_purposes_and_weak_keys_are_left_out() {
    let changed = |field: &str, value: Value| {
        let mut key = ISSUER.published();
        key[field] = value;
        KeySet::from_jwks(json!({ "keys": [key] }).to_string().as_bytes()).is_ok()
    };
    assert!(changed("kid", json!("another")));
    for (field, value) in [
        ("use", json!("enc")),
        ("alg", json!("RS384")),
        ("alg", json!("HS256")),
        ("kty", json!("oct")),
        ("key_ops", json!(["sign"])),
        // 1024 bits.
        ("n", json!("_".repeat(171))),
        ("n", json!("")),
        ("n", json!("AQAB".repeat(2000))),
        ("e", json!(3)),
        ("kid", json!(3)),
    ] {
        assert!(!changed(field, value.clone()), "{field} {value}");
    }
    let many = json!({ "keys": vec![ISSUER.published(); 33] });
    assert!(KeySet::from_jwks(many.to_string().as_bytes()).is_err());
}

#[test]
fn the_public_half_of_devs_own_key_verifies_its_tokens_and_no_others() {
    let keys = KeySet::from_pem(ISSUER.own.public_pem().as_bytes()).unwrap();
    let verified = |issuer: &Issuer| {
        let token = issuer.own.mint("me", &[Role::Viewer], 60).unwrap();
        keys.verify(&UnverifiedToken::read(&token).unwrap())
    };
    verified(&ISSUER).unwrap();
    verified(&ATTACKER).unwrap_err();
}
