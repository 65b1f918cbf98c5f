//! Entity tags (RFC 9110, 8.8.3), and the requests that depend on them: `If-None-Match` and `If-Match`.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::problem::{Fault, Problem, problem_types};

/// The strong entity tag of a representation: it changes with every byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityTag(String);

/// A resource as it is sent, with its tag.
#[derive(Debug, Clone)]
pub struct Representation {
    json: Vec<u8>,
    /// The entity tag.
    pub tag: EntityTag,
}

/// The state for which a request is meant: the value of `If-Match`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMatch {
    /// `*`: any state, as long as the resource exists.
    Any,
    /// One of these states.
    Tags(Vec<ListedTag>),
}

/// A tag of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedTag {
    is_weak: bool,
    /// With its quotation marks.
    opaque: String,
}

impl EntityTag {
    /// Returns the tag of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let hex: String = Sha256::digest(bytes).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Self(format!("\"{hex}\""))
    }

    fn header(&self) -> Result<HeaderValue, Problem> {
        HeaderValue::try_from(&self.0).map_err(|_| Problem::Internal)
    }
}

impl Representation {
    /// Renders a resource.
    ///
    /// # Errors
    /// It has no JSON: a bug.
    pub fn of(resource: &impl Serialize) -> Result<Self, Problem> {
        let json = serde_json::to_vec(resource).map_err(|_| Problem::Internal)?;
        Ok(Self { tag: EntityTag::of(&json), json })
    }

    /// Returns it with the tag of another representation of the same state.
    #[must_use]
    pub fn tagged(self, tag: EntityTag) -> Self {
        Self { tag, ..self }
    }

    /// Returns the answer to a read: 200, or 304 if the caller has this state already.
    ///
    /// # Errors
    /// A bug.
    pub fn read(self, headers: &HeaderMap) -> Result<Response, Problem> {
        let is_known = matches_any(headers, &self.tag);
        let cache = [
            (header::ETAG, self.tag.header()?),
            (header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache")),
        ];
        if is_known {
            return Ok((StatusCode::NOT_MODIFIED, cache).into_response());
        }
        Ok((cache, [json_type()], Body::from(self.json)).into_response())
    }

    /// Returns the answer to a write: the resource as it is now, with its new tag.
    ///
    /// # Errors
    /// A bug.
    pub fn written(self, status: StatusCode) -> Result<Response, Problem> {
        let tag = (header::ETAG, self.tag.header()?);
        Ok((status, [tag, json_type()], Body::from(self.json)).into_response())
    }
}

fn json_type() -> (header::HeaderName, HeaderValue) {
    (header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
}

/// Returns whether `If-None-Match` names this tag. It compares weakly, as the standard says.
fn matches_any(headers: &HeaderMap, tag: &EntityTag) -> bool {
    headers.get_all(header::IF_NONE_MATCH).iter().any(|value| match value.to_str() {
        Ok(text) if text.trim() == "*" => true,
        Ok(text) => list(text).is_some_and(|tags| tags.iter().any(|listed| listed.opaque == tag.0)),
        Err(_) => false,
    })
}

impl IfMatch {
    /// Reads `If-Match`; `None` if the request is for any state, existing or not.
    ///
    /// # Errors
    /// 400: it is not a list of entity tags.
    pub fn read(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let values: Vec<&HeaderValue> = headers.get_all(header::IF_MATCH).iter().collect();
        if values.is_empty() {
            return Ok(None);
        }
        let fault = || {
            let why = "must be `*`, or entity tags as `ETag` has them, separated by commas";
            Problem::Invalid(vec![Fault::header("If-Match", why)])
        };
        let texts: Vec<&str> =
            values.into_iter().map(|value| value.to_str().map_err(|_| fault())).collect::<Result<_, _>>()?;
        let text = texts.join(",");
        if text.trim() == "*" {
            return Ok(Some(Self::Any));
        }
        let tags = list(&text).filter(|tags| !tags.is_empty()).ok_or_else(fault)?;
        Ok(Some(Self::Tags(tags)))
    }

    /// Checks that the resource is in a state for which the request is meant. It compares strongly: a weak tag never
    /// matches.
    ///
    /// # Errors
    /// 412.
    pub fn check(&self, tag: &EntityTag) -> Result<(), Problem> {
        match self {
            Self::Any => Ok(()),
            Self::Tags(tags) if tags.iter().any(|listed| !listed.is_weak && listed.opaque == tag.0) => Ok(()),
            Self::Tags(_) => Err(precondition_failed()),
        }
    }
}

/// The layer of routes that change something without an entity tag: no tag names its state, so `If-Match` is fulfilled
/// by `*` alone (RFC 9110, 13.1.1).
pub async fn without_tag(request: Request, next: Next) -> Response {
    match IfMatch::read(request.headers()) {
        Ok(None | Some(IfMatch::Any)) => next.run(request).await,
        Ok(Some(IfMatch::Tags(_))) => precondition_failed().into_response(),
        Err(problem) => problem.into_response(),
    }
}

/// The resource is in another state than the request is meant for.
pub fn precondition_failed() -> Problem {
    let detail = "`If-Match` names another state. Nothing was changed: read it again.";
    Problem::Refused(problem_types::PRECONDITION_FAILED, detail.to_owned())
}

/// Reads a list of entity tags. A tag may contain commas.
fn list(text: &str) -> Option<Vec<ListedTag>> {
    let (mut tags, mut rest) = (Vec::new(), text);
    loop {
        // Empty elements of a list are ignored (RFC 9110, 5.6.1).
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Some(tags);
        }
        let (is_weak, quoted) = match rest.strip_prefix("W/") {
            Some(quoted) => (true, quoted),
            None => (false, rest),
        };
        let end = quoted.strip_prefix('"')?.find('"')? + 2;
        let (opaque, behind) = quoted.split_at(end);
        if opaque.contains(|c: char| c.is_control() || c == ' ') {
            return None;
        }
        tags.push(ListedTag { is_weak, opaque: opaque.to_owned() });
        rest = behind.trim_start_matches([' ', '\t']);
        if !rest.is_empty() && !rest.starts_with(',') {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: header::HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(&name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_tag_is_of_its_bytes_and_is_found_in_every_form_of_if_none_match() {
        let (one, other) = (EntityTag::of(b"{}"), EntityTag::of(b"{ }"));
        assert_ne!(one, other);
        assert!(one.0.starts_with('"') && one.0.ends_with('"') && one.0.len() == 34, "{one:?}");
        let named = |list: &str| matches_any(&with(header::IF_NONE_MATCH, &[list]), &one);
        assert!(
            named(&one.0) && named(&format!("W/{}", one.0)) && named(&format!("{} , {}", other.0, one.0))
        );
        assert!(named("*") && named(&format!("\"a,b\",{}", one.0)));
        assert!(!named(&other.0) && !named("") && !named(one.0.trim_matches('"')));
        assert!(matches_any(&with(header::IF_NONE_MATCH, &[&other.0, &one.0]), &one));
    }

    #[test]
    fn if_match_compares_strongly_and_a_star_is_any_state() {
        let tag = EntityTag::of(b"{}");
        let passes = |values: &[&str]| {
            IfMatch::read(&with(header::IF_MATCH, values)).unwrap().unwrap().check(&tag).is_ok()
        };
        assert!(passes(&["*"]) && passes(&[&tag.0]) && passes(&[&format!("\"x\", {}", tag.0)]));
        assert!(passes(&["\"x\"", &tag.0]), "several headers are one list");
        assert!(!passes(&[&format!("W/{}", tag.0)]), "a weak tag never matches");
        assert!(!passes(&["\"x\""]) && !passes(&["W/\"x\", \"a,b\""]));
        assert_eq!(IfMatch::read(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn what_is_no_list_of_tags_is_refused() {
        for text in ["", "x", "\"x", "\"x\" \"y\"", "*, \"x\"", "w/\"x\"", "\"x\"y", "\"a b\""] {
            let refused = IfMatch::read(&with(header::IF_MATCH, &[text])).unwrap_err();
            assert!(format!("{refused:?}").contains("If-Match"), "{text}");
        }
    }
}
