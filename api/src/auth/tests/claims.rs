//! Claims of tokens that the issuer has signed.

use serde_json::{Value, json};

use super::issuer::{ISSUER, claims, now, refusal};
use crate::auth::{Caller, OwnKey, Role, refusal::Refusal};

/// Returns why a token with these claims is refused; `None` takes a claim away.
async fn refused(changes: &[(&str, Option<Value>)]) -> Option<Refusal> {
    let mut claims = claims();
    let object = claims.as_object_mut().unwrap();
    for (name, value) in changes {
        match value {
            Some(value) => drop(object.insert((*name).to_owned(), value.clone())),
            None => drop(object.remove(*name)),
        }
    }
    refusal(&ISSUER.sign(&ISSUER.header(), &claims)).await
}

/// Returns the caller that these claims describe, or why not, at a time.
fn at(claims: &Value, now: f64) -> Result<Caller, Refusal> {
    OwnKey::expected().caller(claims.to_string().as_bytes(), now)
}

#[tokio::test]
async fn another_issuer_is_refused() {
    let others = [json!("evil"), json!("amends-dev/"), json!("AMENDS-DEV"), json!(["amends-dev"]), json!(1)];
    for issuer in others.map(Some).into_iter().chain([None]) {
        assert_eq!(refused(&[("iss", issuer.clone())]).await, Some(Refusal::Issuer), "{issuer:?}");
    }
}

#[tokio::test]
async fn another_audience_is_refused() {
    let others = [json!("other"), json!([]), json!(["other"]), json!(["amends", 7]), json!({ "amends": 1 })];
    for audience in others.map(Some).into_iter().chain([None]) {
        assert_eq!(refused(&[("aud", audience.clone())]).await, Some(Refusal::Audience), "{audience:?}");
    }
    assert_eq!(refused(&[("aud", Some(json!(["other", "amends"])))]).await, None);
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    assert_eq!(refused(&[("exp", Some(json!(now() - 31)))]).await, Some(Refusal::Expired));
    assert_eq!(refused(&[("exp", Some(json!(-1)))]).await, Some(Refusal::Expired));
    assert_eq!(refused(&[("exp", Some(json!(0)))]).await, Some(Refusal::Expired));
}

#[tokio::test]
async fn a_token_of_the_future_is_refused() {
    assert_eq!(refused(&[("nbf", Some(json!(now() + 60)))]).await, Some(Refusal::NotYet));
    for wrong in [json!("0"), Value::Null, json!([0])] {
        assert_eq!(refused(&[("nbf", Some(wrong))]).await, Some(Refusal::NotYet));
    }
    assert_eq!(refused(&[("nbf", Some(json!(now())))]).await, None);
}

#[test]
fn clocks_may_differ_by_thirty_seconds_and_no_more() {
    let claims = json!({ "iss": "amends-dev", "aud": "amends", "sub": "c-1", "nbf": 1000, "exp": 2000.5 });
    for (now, expected) in [
        (969.9, Some(Refusal::NotYet)),
        (970.0, None),
        (1500.0, None),
        (2030.4, None),
        (2030.5, Some(Refusal::Expired)),
        (f64::MAX, Some(Refusal::Expired)),
    ] {
        assert_eq!(at(&claims, now).err(), expected, "{now}");
    }
}

#[tokio::test]
async fn a_token_without_an_expiry_is_refused() {
    assert_eq!(refused(&[("exp", None)]).await, Some(Refusal::NoExpiry));
}

#[tokio::test]
async fn an_expiry_that_is_no_number_is_refused() {
    let strings =
        [json!((now() + 600).to_string()), json!("never"), Value::Null, json!(true), json!([now() + 600])];
    for expiry in strings {
        assert_eq!(refused(&[("exp", Some(expiry.clone()))]).await, Some(Refusal::NoExpiry), "{expiry}");
    }
    let token = ISSUER.sign_text(&ISSUER.header().to_string(), r#"{"iss":"amends-dev","exp":1e999}"#);
    assert_eq!(refusal(&token).await, Some(Refusal::Malformed));
}

#[tokio::test]
async fn claims_that_stand_twice_are_refused() {
    for (one, two) in [
        (r#""sub":"c-2""#, r#""sub":"c-1""#),
        (r#""exp":1"#, r#""exp":99999999999"#),
        (r#""roles":["customer"]"#, r#""roles":["admin"]"#),
        (r#""roles":["customer"]"#, r#""role\u0073":["admin"]"#),
        (r#""nested":{"a":1,"a":2}"#, r#""x":1"#),
    ] {
        let mut rest = claims();
        for name in ["sub", "exp", "roles"].iter().filter(|name| one.contains(**name)) {
            rest.as_object_mut().unwrap().remove(*name);
        }
        let text = rest.to_string();
        let text = format!("{},{one},{two}}}", &text[..text.len() - 1]);
        let token = ISSUER.sign_text(&ISSUER.header().to_string(), &text);
        assert_eq!(refusal(&token).await, Some(Refusal::Malformed), "{text}");
    }
    for payload in ["", "[]", "7", "null", "{} {}", "\u{feff}{}"] {
        let token = ISSUER.sign_text(&ISSUER.header().to_string(), payload);
        assert_eq!(refusal(&token).await, Some(Refusal::Malformed), "{payload}");
    }
}

#[tokio::test]
async fn a_subject_is_1_to_200_visible_characters() {
    let wrong = [
        json!(""),
        json!(" "),
        json!("c".repeat(201)),
        json!("c\n1"),
        json!("c\u{0}"),
        json!("c\u{202e}1"),
        json!("c\u{200b}"),
        json!(7),
        Value::Null,
    ];
    for subject in wrong.map(Some).into_iter().chain([None]) {
        assert_eq!(refused(&[("sub", subject.clone())]).await, Some(Refusal::Subject), "{subject:?}");
    }
    for subject in ["auth0|5f7c8ec7c33c6c004bbafe82", "me@shop.example", "Zoë", &"c".repeat(200)] {
        assert_eq!(refused(&[("sub", Some(json!(subject)))]).await, None, "{subject}");
    }
}

#[test]
fn roles_are_an_array_or_separated_by_spaces_and_what_is_no_role_is_ignored() {
    let roles = |claim: Value| {
        let claims = json!({ "iss": "amends-dev", "aud": "amends", "sub": "c", "exp": 10, "roles": claim });
        at(&claims, 0.0).unwrap().roles()
    };
    let both = [Role::Customer, Role::Viewer].into_iter().collect();
    assert_eq!(roles(json!(["customer", "viewer", "superuser", 7])), both);
    assert_eq!(roles(json!("customer viewer  superuser")), both);
    let none = [
        json!([]),
        json!(""),
        json!("Admin"),
        json!("admin,viewer"),
        json!(7),
        Value::Null,
        json!({ "admin": true }),
    ];
    for claim in none {
        assert!(roles(claim.clone()).is_empty(), "{claim}");
    }
}
