//! What can be wrong with a request, whatever its body: made from what the document says of the route.

use std::fmt::Write;

use amends_api::auth::Role;
use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use crate::support::{
    document::{Documented, type_of},
    issuer::{expired, token},
    shop::Shop,
};

/// A request that must be refused, and how.
pub(super) struct Case {
    pub(super) what: String,
    pub(super) request: RequestBuilder,
    pub(super) status: u16,
    pub(super) slug: &'static str,
    /// Where the first of `errors` must be: the member, and its value.
    pub(super) place: Option<(&'static str, String)>,
}

/// A route with valid ids, and a caller who may do everything.
pub(super) struct Target<'a> {
    pub(super) shop: &'a Shop,
    pub(super) route: &'a Documented,
    pub(super) path: String,
    pub(super) token: String,
}

pub(super) const INVALID: (u16, &str) = (400, "invalid-request");
const ID_TOO_LONG: usize = 65;
const TEXT_TOO_LONG: usize = 201;
/// Texts that show nothing, contain a control character, or look different from what they are.
pub(super) const UNFIT: [&str; 9] =
    ["", " ", "\u{a0}\u{3000}", "\u{200d}", "a\u{202e}b", "a\u{2066}b", "a\u{200b}b", "a\nb", "a\u{7f}b"];
/// Texts that are no time.
const NO_TIMES: [&str; 6] = [
    "2026-02-30T00:00:00Z",
    "2026-13-01T00:00:00Z",
    "2026-01-01T25:00:00Z",
    "2026-01-01",
    "yesterday",
    "0000-00-00T00:00:00Z",
];

pub(super) fn case(
    what: impl Into<String>,
    request: RequestBuilder,
    (status, slug): (u16, &'static str),
) -> Case {
    Case { what: what.into(), request, status, slug, place: None }
}

impl Case {
    pub(super) fn at(self, member: &'static str, place: impl Into<String>) -> Self {
        Self { place: Some((member, place.into())), ..self }
    }
}

/// Writes a value with one character of each kind that a query must escape.
fn escaped(text: &str) -> String {
    let mut query = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' => query.push(char::from(byte)),
            other => write!(query, "%{other:02X}").unwrap(),
        }
    }
    query
}

impl Target<'_> {
    pub(super) fn ask(&self) -> RequestBuilder {
        self.at(&self.path)
    }

    fn at(&self, path: &str) -> RequestBuilder {
        self.shop.ask(self.route.method.clone(), path, Some(&self.token))
    }

    fn with_query(&self, query: &str) -> RequestBuilder {
        self.good(self.at(&format!("{}?{query}", self.path)))
    }

    /// Completes a request so that nothing else is wrong with it.
    fn good(&self, request: RequestBuilder) -> RequestBuilder {
        let request = match self.route.body() {
            Some(body) => request.json(&body),
            None => request,
        };
        self.keyed(request)
    }

    /// Adds the key without which some requests are refused.
    pub(super) fn keyed(&self, request: RequestBuilder) -> RequestBuilder {
        let needs =
            |parameter: &Value| parameter["name"] == "Idempotency-Key" && parameter["required"] == true;
        match self.route.parameters("header").iter().any(needs) {
            true => request.header("idempotency-key", "bad-input"),
            false => request,
        }
    }

    pub(super) fn with(&self, body: impl Into<String>) -> RequestBuilder {
        self.keyed(self.ask().header("content-type", "application/json").body(body.into()))
    }

    pub(super) fn cases(&self) -> Vec<Case> {
        let mut cases = self.everywhere();
        cases.extend(self.unauthorized());
        cases.extend(self.paths());
        cases.extend(self.queries());
        cases.extend(self.headers());
        if let Some(body) = self.route.body() {
            cases.extend(self.bodies(&body));
            self.fields(&self.route.body_schema(), &body, "", &mut cases);
        }
        cases
    }

    /// What is wrong whatever the route.
    fn everywhere(&self) -> Vec<Case> {
        let good = || self.good(self.ask());
        let foreign = (403, "foreign-origin");
        let mut cases = vec![
            case("a foreign host", good().header("host", "evil.example"), (421, "foreign-host")),
            case("two hosts", good().header("host", "localhost").header("host", "localhost"), INVALID)
                .at("header", "Host"),
            case("a page of another origin", good().header("origin", "http://evil.example"), foreign),
            case("a sandboxed page", good().header("origin", "null"), foreign),
            case("a page of another site", good().header("sec-fetch-site", "cross-site"), foreign),
            case("too large a body", self.ask().body(" ".repeat((64 << 10) + 1)), (413, "body-too-large")),
            case("an unknown parameter", self.with_query("colour=red"), INVALID).at("parameter", "query"),
            case("a parameter without a name", self.with_query("=1"), INVALID).at("parameter", "query"),
        ];
        if !self.route.kinds().is_empty() {
            let refused = good().header("accept", "application/x-evil, image/x-evil");
            cases.push(case("another media type only", refused, (406, "not-acceptable")));
            let refused = good().header("accept", "*/*;q=0");
            cases.push(case("no media type at all", refused, (406, "not-acceptable")));
        }
        cases
    }

    fn unauthorized(&self) -> Vec<Case> {
        if !self.route.needs_token() {
            return Vec::new();
        }
        let ask =
            |token: Option<&str>| self.good(self.shop.ask(self.route.method.clone(), &self.path, token));
        let invalid = (401, "invalid-token");
        let old = expired("c-a", &Role::ALL);
        let mut cases = vec![
            case("no token", ask(None), (401, "missing-token")),
            case("an expired token", ask(Some(&old)), invalid),
            case("no JSON Web Token", ask(Some("evil")), invalid),
            case("another scheme", ask(None).header("authorization", "Basic ZXZpbDpldmls"), invalid),
            case("two tokens", ask(Some(&self.token)).header("authorization", "Bearer evil"), invalid),
            case("a token without a role", ask(Some(&token("nobody", &[]))), (403, "forbidden")),
        ];
        if self.route.method != Method::GET {
            let viewer = token("vera", &[Role::Viewer]);
            cases.push(case("a role that only reads", ask(Some(&viewer)), (403, "forbidden")));
        }
        cases
    }

    fn paths(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        for parameter in self.route.parameters("path") {
            let name = parameter["name"].as_str().unwrap().to_owned();
            let schema = self.route.resolved(&parameter["schema"]);
            let is_closed = schema.get("format").is_some() || schema.get("pattern").is_some();
            // What is open is only found or not.
            if !is_closed {
                cases.push(case(
                    "nothing there",
                    self.good(self.at(&self.route.filled(&[(&name, "x-y-z")]))),
                    (404, "not-found"),
                ));
                continue;
            }
            let is_text = schema.get("maxLength").is_some();
            let too_long = "x".repeat(if is_text { TEXT_TOO_LONG } else { ID_TOO_LONG });
            let odd: &[&str] = if is_text { &[] } else { &["a%20b", "%F0%9F%98%80", "a%2Fb"] };
            for bad in odd.iter().chain(&["%20", "%E2%80%AE", "a%00b", "a%0Ab", too_long.as_str()]) {
                let path = self.route.filled(&[(&name, bad)]);
                cases.push(
                    case(format!("{name} {bad}"), self.good(self.at(&path)), INVALID)
                        .at("parameter", name.clone()),
                );
            }
            let path = self.route.filled(&[(&name, "%FF")]);
            cases.push(
                case(format!("{name} not UTF-8"), self.good(self.at(&path)), INVALID).at("parameter", "path"),
            );
            if schema["format"] == "uuid" {
                let unknown = self.route.filled(&[(&name, "0198c0de-0000-7000-8000-000000000000")]);
                cases.push(case("nobody's", self.good(self.at(&unknown)), (404, "not-found")));
                for bad in ["7", "0198c0de00007000800000000000000", "{0198c0de-0000-7000-8000-000000000000}"]
                {
                    let path = self.route.filled(&[(&name, &escaped(bad))]);
                    cases.push(
                        case(format!("{name} {bad}"), self.good(self.at(&path)), INVALID)
                            .at("parameter", name.clone()),
                    );
                }
            }
        }
        cases
    }

    fn queries(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        for parameter in self.route.parameters("query") {
            let name = parameter["name"].as_str().unwrap();
            let mut schema = self.route.resolved(&parameter["schema"]);
            let is_several = type_of(&schema) == "array";
            if is_several {
                schema = self.route.resolved(&schema["items"]);
            }
            let mut bad: Vec<String> = ["%FF", "a%00b", "a%0Ab"].map(str::to_owned).into();
            match (type_of(&schema), schema["format"].as_str()) {
                ("integer", _) => {
                    bad.extend(["", "x", "1.5", "1e1", "-1", "0", "99999999999999999999"].map(str::to_owned))
                }
                ("string", Some("date-time")) => bad.extend(NO_TIMES.map(escaped)),
                ("string", Some("uuid")) => bad.extend(["", "7", "x"].map(str::to_owned)),
                ("string", _) if schema.get("enum").is_some() => bad.extend(["", "evil"].map(str::to_owned)),
                ("string", _) if schema.get("maxLength").is_some() => {
                    bad.extend(UNFIT.map(escaped));
                    bad.push("x".repeat(TEXT_TOO_LONG));
                }
                ("string", _) => bad.extend(["", "evil!", "%E2%80%AE"].map(str::to_owned)),
                (other, _) => panic!("{name} is {other}"),
            }
            for bad in bad {
                cases.push(case(format!("{name}={bad}"), self.with_query(&format!("{name}={bad}")), INVALID));
            }
            if !is_several {
                let twice = self.with_query(&format!("{name}=1&{name}=1"));
                cases.push(case(format!("{name} twice"), twice, INVALID).at("parameter", name));
            }
        }
        cases
    }

    fn headers(&self) -> Vec<Case> {
        let good = || match self.route.body() {
            Some(body) => self.ask().json(&body),
            None => self.ask(),
        };
        let mut cases = Vec::new();
        if self.route.takes_header("Idempotency-Key") {
            let wrong = |what: &str, request| {
                case(format!("a key: {what}"), request, INVALID).at("header", "Idempotency-Key")
            };
            let key = |value: &[u8]| good().header("idempotency-key", value);
            cases.push(wrong("empty", key(b"")));
            cases.push(wrong("256 characters", key("k".repeat(256).as_bytes())));
            cases.push(wrong("not ASCII", key("k\u{e9}".as_bytes())));
            cases.push(wrong("two", key(b"a").header("idempotency-key", "b")));
        }
        if self.route.takes_header("If-Match") {
            let matches = |value: &str| self.keyed(good().header("if-match", value));
            for bad in ["", "evil", "\"evil", "*, \"x\"", "\"a b\""] {
                cases.push(case(format!("If-Match {bad}"), matches(bad), INVALID).at("header", "If-Match"));
            }
            for stale in ["\"stale\"", "W/\"stale\"", "\"a\", \"b\""] {
                cases.push(case(format!("If-Match {stale}"), matches(stale), (412, "precondition-failed")));
            }
        }
        if self.route.takes_header("Last-Event-ID") {
            for bad in ["", "7", "evil"] {
                let request = self.ask().header("last-event-id", bad);
                cases.push(
                    case(format!("Last-Event-ID {bad}"), request, INVALID).at("header", "Last-Event-ID"),
                );
            }
        }
        cases
    }
}
