//! Every known way to get a token accepted that its issuer has not signed.

use axum::{
    http::{HeaderMap, header},
    response::IntoResponse,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::executor::block_on;
use jsonwebtoken::{Algorithm, EncodingKey};
use proptest::{collection::vec, prelude::*, sample::Index};
use serde_json::{Value, json};

use super::issuer::{ATTACKER, ISSUER, authenticator, claims, refusal};
use crate::auth::{Authenticator, Caller, refusal::Refusal};

fn with(header: &Value, field: &str, value: Value) -> Value {
    let mut header = header.clone();
    header[field] = value;
    header
}

fn encoded(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

#[tokio::test]
async fn a_good_token_is_accepted_with_its_subject_and_roles() {
    let caller = authenticator().accepted(&ISSUER.good()).await.unwrap();
    assert_eq!(caller, Caller::new("c-1", [crate::auth::Role::Customer].into_iter().collect()));
}

#[tokio::test]
async fn alg_none_is_refused_however_it_is_spelt() {
    let signature = ISSUER.good().rsplit_once('.').unwrap().1.to_owned();
    for alg in [json!("none"), json!("None"), json!("NONE"), json!("nOnE"), json!(""), Value::Null, json!(7)]
    {
        let header = encoded(&with(&ISSUER.header(), "alg", alg.clone()).to_string());
        for signature in ["", &signature] {
            let token = format!("{header}.{}.{signature}", encoded(&claims().to_string()));
            assert_eq!(refusal(&token).await, Some(Refusal::Algorithm), "{alg}");
        }
    }
    let token = ISSUER.sign_text("{}", &claims().to_string());
    assert_eq!(refusal(&token).await, Some(Refusal::Algorithm), "no alg at all");
}

#[tokio::test]
async fn hs256_signed_with_the_public_key_is_refused() {
    let modulus = ISSUER.published()["n"].as_str().unwrap().to_owned();
    let secrets = [
        ISSUER.public_pem().into_bytes(),
        ISSUER.public_pem().trim_end().as_bytes().to_vec(),
        ISSUER.public_der(),
        modulus.clone().into_bytes(),
        URL_SAFE_NO_PAD.decode(modulus).unwrap(),
        ISSUER.published().to_string().into_bytes(),
    ];
    for secret in secrets {
        for alg in ["HS256", "RS256"] {
            let header = with(&ISSUER.header(), "alg", json!(alg)).to_string();
            let key = EncodingKey::from_secret(&secret);
            let token = ISSUER.sign_as(Algorithm::HS256, &header, &claims().to_string(), &key);
            let why = if alg == "HS256" { Refusal::Algorithm } else { Refusal::Signature };
            assert_eq!(refusal(&token).await, Some(why));
        }
    }
}

#[tokio::test]
async fn other_algorithms_are_refused_even_with_the_right_key() {
    for (algorithm, name) in [
        (Algorithm::RS384, "RS384"),
        (Algorithm::RS512, "RS512"),
        (Algorithm::PS256, "PS256"),
        (Algorithm::PS512, "PS512"),
    ] {
        let header = with(&ISSUER.header(), "alg", json!(name)).to_string();
        let token = ISSUER.sign_as(algorithm, &header, &claims().to_string(), &ISSUER.key);
        assert_eq!(refusal(&token).await, Some(Refusal::Algorithm), "{name}");
        // Its header claims RS256, its signature is another.
        let header = ISSUER.header().to_string();
        let token = ISSUER.sign_as(algorithm, &header, &claims().to_string(), &ISSUER.key);
        assert_eq!(refusal(&token).await, Some(Refusal::Signature), "{name}");
    }
}

/// Signed by the attacker with the key that the header carries; and by the issuer, so that the field alone decides.
async fn is_refused_in_a_header(field: &str, value: Value) {
    for issuer in [&ATTACKER, &ISSUER] {
        for key_id in [ISSUER.published()["kid"].clone(), ATTACKER.published()["kid"].clone()] {
            let header = with(&with(&issuer.header(), "kid", key_id), field, value.clone());
            let token = issuer.sign(&header, &claims());
            assert_eq!(refusal(&token).await, Some(Refusal::KeyInHeader), "{field}");
        }
    }
}

#[tokio::test]
async fn a_key_embedded_as_jwk_is_refused() {
    is_refused_in_a_header("jwk", ATTACKER.published()).await;
}

#[tokio::test]
async fn a_key_at_a_url_jku_is_refused_and_not_fetched() {
    is_refused_in_a_header("jku", json!("http://127.0.0.1:1/.well-known/jwks.json")).await;
}

#[tokio::test]
async fn a_certificate_at_a_url_x5u_or_embedded_as_x5c_is_refused() {
    is_refused_in_a_header("x5u", json!("http://127.0.0.1:1/chain.pem")).await;
    is_refused_in_a_header("x5c", json!(["MIIB"])).await;
}

#[tokio::test]
async fn a_key_id_is_a_name_and_nothing_that_is_opened_or_executed() {
    for id in
        ["../../../../dev/null", "/dev/null", "' OR '1'='1", "http://127.0.0.1:1/key", "|cat", "\0", "", "*"]
    {
        let token = ATTACKER.sign(&with(&ATTACKER.header(), "kid", json!(id)), &claims());
        assert_eq!(refusal(&token).await, Some(Refusal::UnknownKey), "{id:?}");
        // An HMAC with the empty content of /dev/null.
        let header = with(&with(&ISSUER.header(), "kid", json!(id)), "alg", json!("HS256")).to_string();
        let key = EncodingKey::from_secret(b"");
        let token = ISSUER.sign_as(Algorithm::HS256, &header, &claims().to_string(), &key);
        assert_eq!(refusal(&token).await, Some(Refusal::Algorithm), "{id:?}");
    }
    for id in [json!(7), Value::Null, json!(["a"]), json!({ "$ne": "" }), json!("k".repeat(201))] {
        let token = ISSUER.sign(&with(&ISSUER.header(), "kid", id.clone()), &claims());
        assert_eq!(refusal(&token).await, Some(Refusal::UnknownKey), "{id}");
    }
}

#[tokio::test]
async fn a_token_of_another_key_is_refused_under_any_name() {
    assert_eq!(refusal(&ATTACKER.good()).await, Some(Refusal::UnknownKey));
    let token = ATTACKER.sign(&ISSUER.header(), &claims());
    assert_eq!(refusal(&token).await, Some(Refusal::Signature));
    let nameless = json!({ "alg": "RS256" });
    assert_eq!(refusal(&ATTACKER.sign(&nameless, &claims())).await, Some(Refusal::UnknownKey));
    assert_eq!(refusal(&ISSUER.sign(&nameless, &claims())).await, None, "a good one needs no key id");
}

#[tokio::test]
async fn a_changed_token_is_refused() {
    let good = ISSUER.good();
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else { unreachable!() };
    let other = encoded(&claims().to_string().replace("c-1", "c-2"));
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    bytes[0] ^= 1;
    for (token, why) in [
        (format!("{header}.{other}.{signature}"), Refusal::Signature),
        (format!("{header}.{payload}.{}", URL_SAFE_NO_PAD.encode(&bytes)), Refusal::Signature),
        (format!("{header}.{payload}."), Refusal::Signature),
        (format!("{header}.{payload}.{signature}="), Refusal::Signature),
        (format!("{header}.{payload}.{}", &signature[..100]), Refusal::Signature),
        (format!("{header}..{signature}"), Refusal::Signature),
        (format!("{header}.{payload}"), Refusal::Malformed),
        (format!("{header}.{payload}.{signature}."), Refusal::Malformed),
        (format!("{header}.{payload}.{signature}.x.y"), Refusal::Malformed),
        (format!("{header}=.{payload}.{signature}"), Refusal::Malformed),
        (format!("+/.{payload}.{signature}"), Refusal::Malformed),
        (format!(".{payload}.{signature}"), Refusal::Malformed),
        ("..".to_owned(), Refusal::Malformed),
        ("x".to_owned(), Refusal::Malformed),
        (
            json!({ "payload": payload, "protected": header, "signature": signature }).to_string(),
            Refusal::Malformed,
        ),
    ] {
        assert_eq!(refusal(&token).await, Some(why), "{}", token.replace(signature, "…"));
    }
}

#[tokio::test]
async fn a_header_field_that_stands_twice_is_refused() {
    let id = ISSUER.published()["kid"].clone();
    for header in [
        format!(r#"{{"alg":"none","alg":"RS256","kid":{id}}}"#),
        format!(r#"{{"alg":"RS256","kid":"x","kid":{id}}}"#),
        r#"["RS256"]"#.to_owned(),
        format!(r#"{{"alg":"RS256","kid":{id}}} {{}}"#),
    ] {
        let token = ISSUER.sign_text(&header, &claims().to_string());
        assert_eq!(refusal(&token).await, Some(Refusal::Malformed), "{header}");
    }
}

#[tokio::test]
async fn critical_extensions_and_tokens_for_other_purposes_are_refused() {
    for (field, value, why) in [
        ("crit", json!(["exp"]), Some(Refusal::Critical)),
        ("crit", json!([]), Some(Refusal::Critical)),
        ("typ", json!("logout+jwt"), Some(Refusal::Type)),
        ("typ", json!("dpop+jwt"), Some(Refusal::Type)),
        ("typ", json!(1), Some(Refusal::Type)),
        ("typ", json!("at+JWT"), None),
        ("typ", json!("application/at+jwt"), None),
    ] {
        let token = ISSUER.sign(&with(&ISSUER.header(), field, value.clone()), &claims());
        assert_eq!(refusal(&token).await, why, "{field} {value}");
    }
}

#[tokio::test]
async fn an_oversized_token_is_refused_before_it_is_read() {
    let mut large = claims();
    large["filler"] = json!("x".repeat(8 << 10));
    assert_eq!(refusal(&ISSUER.sign(&ISSUER.header(), &large)).await, Some(Refusal::TooLong));
    assert_eq!(refusal(&"x.".repeat(1 << 20)).await, Some(Refusal::TooLong));
    large["filler"] = json!("x".repeat(4 << 10));
    assert_eq!(refusal(&ISSUER.sign(&ISSUER.header(), &large)).await, None);
}

proptest! {
    #[test]
    fn any_text_is_refused(text in "[A-Za-z0-9_.=-]{0,80}|.{0,40}|(ey[A-Za-z0-9_-]{0,40}\\.){2}[A-Za-z0-9_-]{0,40}") {
        assert!(block_on(refusal(&text)).is_some());
    }

    #[test]
    fn a_good_token_with_a_few_characters_changed_is_refused(
        changes in vec((any::<Index>(), "[A-Za-z0-9_.=-]"), 1..4),
    ) {
        let good = ISSUER.good();
        let mut changed = good.clone();
        for (place, character) in changes {
            let place = place.index(changed.len());
            changed.replace_range(place..=place, &character);
        }
        assert_eq!(block_on(refusal(&changed)).is_none(), changed == good);
    }
}

/// Returns the subject, or the status and the challenge.
async fn answer(auth: &Authenticator, authorization: &[&str]) -> Result<String, (u16, String)> {
    let mut headers = HeaderMap::new();
    for value in authorization {
        headers.append(header::AUTHORIZATION, value.parse().unwrap());
    }
    let problem = match auth.caller(&headers).await {
        Ok(caller) => return Ok(caller.subject().to_owned()),
        Err(problem) => problem.into_response(),
    };
    let challenge = problem.headers().get(header::WWW_AUTHENTICATE).unwrap().to_str().unwrap();
    Err((problem.status().as_u16(), challenge.to_owned()))
}

#[tokio::test]
async fn without_one_bearer_token_a_request_is_challenged() {
    let (auth, good) = (authenticator(), ISSUER.good());
    let bearer = format!("Bearer {good}");
    assert_eq!(answer(&auth, &[&bearer]).await, Ok("c-1".to_owned()));
    assert_eq!(answer(&auth, &[&format!("bearer {good}")]).await, Ok("c-1".to_owned()));
    let plain = "Bearer realm=\"amends\"".to_owned();
    assert_eq!(answer(&auth, &[]).await, Err((401, plain.clone())));
    let wrong = [
        vec![bearer.as_str(), bearer.as_str()],
        vec!["Basic YTpi"],
        vec!["Bearer"],
        vec!["Bearer "],
        vec![""],
        vec![good.as_str()],
    ];
    for authorization in wrong {
        let (status, challenge) = answer(&auth, &authorization).await.unwrap_err();
        assert_eq!(status, 401, "{authorization:?}");
        assert!(challenge.starts_with(&format!("{plain}, error=\"invalid_token\"")), "{challenge}");
        assert!(!challenge.contains(&good) && !challenge.contains("YTpi"), "{challenge}");
    }
}

#[tokio::test]
async fn an_open_service_still_refuses_a_token_that_is_wrong() {
    let auth = Authenticator::of_dev(&ISSUER.own, true).unwrap();
    assert_eq!(answer(&auth, &[]).await, Ok("dev".to_owned()));
    assert_eq!(answer(&auth, &[&format!("Bearer {}", ISSUER.good())]).await, Ok("c-1".to_owned()));
    let (status, challenge) = answer(&auth, &[&format!("Bearer {}", ATTACKER.good())]).await.unwrap_err();
    assert!(status == 401 && challenge.contains("a key that is not known here"), "{challenge}");
    let keyless = Authenticator::without_keys();
    assert_eq!(answer(&keyless, &[]).await, Ok("dev".to_owned()));
    assert_eq!(answer(&keyless, &[&format!("Bearer {}", ISSUER.good())]).await.unwrap_err().0, 401);
}
