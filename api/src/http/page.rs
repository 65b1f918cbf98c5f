//! Pages of lists: what a request asks for, and how its answer leads to the next page.

use std::borrow::Cow;

use amends_http::query::Parameter;
use amends_protocol::TokenKey;
use axum::{
    Json,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        ObjectBuilder, Ref, RefOr,
        schema::{Schema, SchemaType, Type},
    },
};

use super::openapi::schema;
use crate::{
    auth::Caller,
    orders::cursor::{CursorScope, Place},
    problem::{Fault, Problem},
};

/// The parameter with the number of items of a page.
pub const LIMIT: &str = "limit";
/// The parameter with the place at which a page begins.
pub const CURSOR: &str = "cursor";
/// The parameters of a list that cannot be filtered.
pub const PAGE_PARAMETERS: [Parameter; 2] = [Parameter::Once(LIMIT), Parameter::Once(CURSOR)];

/// Number of items of a page, unless the request says another.
pub const PAGE_USUAL: u32 = 50;
/// The largest number of items of a page.
pub const LARGEST_PAGE: u32 = 200;
/// All but the unreserved characters (RFC 3986, 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A page of a list, as it is answered.
#[derive(Debug, Serialize)]
pub struct Page<Items> {
    items: Items,
    /// The cursor of the next page; `None` on the last one.
    next: Option<String>,
}

impl<T: ToSchema> PartialSchema for Page<Vec<T>> {
    fn schema() -> RefOr<Schema> {
        let next = ObjectBuilder::new().schema_type(SchemaType::Array(vec![Type::String, Type::Null]));
        let next = next.description(Some("The `cursor` of the next page; null on the last one."));
        ObjectBuilder::new()
            .description(Some("A page of a list."))
            .property("items", schema::several(Ref::from_schema_name(T::name())))
            .property("next", next)
            .required("items")
            .required("next")
            .into()
    }
}

/// In documents a page of orders is an `OrderList`.
impl<T: ToSchema> ToSchema for Page<Vec<T>> {
    fn name() -> Cow<'static, str> {
        format!("{}List", T::name()).into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(schemas);
    }
}

/// A page that a caller asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest<P> {
    /// Maximum number of items.
    pub limit: u32,
    /// The place behind which the page begins; `None`: at the beginning of the list.
    pub after: Option<P>,
    path: String,
    of_list: Vec<(&'static str, String)>,
    scope: CursorScope,
}

impl<P: Place> PageRequest<P> {
    /// Reads the parameters of a page; all others belong to the list.
    ///
    /// # Errors
    /// 400.
    pub fn read(
        caller: &Caller,
        key: &TokenKey,
        path: &str,
        query: Vec<(&'static str, String)>,
    ) -> Result<Self, Problem> {
        let (of_page, of_list): (Vec<_>, Vec<_>) =
            query.into_iter().partition(|(name, _)| *name == LIMIT || *name == CURSOR);
        let parameters: Vec<(&str, &str)> =
            of_list.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let scope = CursorScope::new(caller.subject(), path, &parameters);
        let (mut limit, mut after, mut faults) = (PAGE_USUAL, None, Vec::new());
        for (name, value) in of_page {
            if name == LIMIT {
                match value.parse() {
                    Ok(stated @ 1..=LARGEST_PAGE) => limit = stated,
                    _ => faults.push(Fault::parameter(LIMIT, format!("must be 1-{LARGEST_PAGE}"))),
                }
                continue;
            }
            after = scope.after(key, &value);
            if after.is_none() {
                let why = "must be the `next` of a page of the same list, for the same caller";
                faults.push(Fault::parameter(CURSOR, why));
            }
        }
        if !faults.is_empty() {
            return Err(Problem::Invalid(faults));
        }
        Ok(Self { limit, after, path: path.to_owned(), of_list, scope })
    }

    /// Returns the parameters of the list.
    pub fn of_list(&self) -> &[(&'static str, String)] {
        &self.of_list
    }

    /// Returns the page's answer.
    pub fn answer(&self, key: &TokenKey, items: impl Serialize, next: Option<&P>) -> Response {
        let next = next.map(|after| self.scope.cursor(key, after));
        let of_list: Vec<(&str, &str)> =
            self.of_list.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let link = next.as_ref().map(|cursor| link(&self.path, &of_list, self.limit, cursor));
        let mut response = Json(Page { items, next }).into_response();
        if let Some(link) = link.and_then(|link| HeaderValue::try_from(link).ok()) {
            response.headers_mut().insert(header::LINK, link);
        }
        response
    }
}

/// Adds the link to the next page: the list at `path` with these parameters, of which the last one is its cursor.
pub fn link_next(response: &mut Response, path: &str, parameters: &[(&str, &str)]) {
    if let Ok(link) = HeaderValue::try_from(link_of(path, parameters)) {
        response.headers_mut().insert(header::LINK, link);
    }
}

/// Returns the header that leads to the next page (RFC 8288).
fn link(path: &str, of_list: &[(&str, &str)], limit: u32, cursor: &str) -> String {
    let limit = limit.to_string();
    link_of(path, &[of_list, &[(LIMIT, limit.as_str()), (CURSOR, cursor)]].concat())
}

fn link_of(path: &str, parameters: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = parameters
        .iter()
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, RESERVED)))
        .collect();
    format!("<{path}?{}>; rel=\"next\"", pairs.join("&"))
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use serde_json::Value;

    use super::*;

    fn read(query: &[(&'static str, &str)]) -> Result<PageRequest<String>, Problem> {
        let query = query.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        PageRequest::read(&Caller::dev(), &TokenKey::new([7; 32]), "/api/products", query)
    }

    #[test]
    fn the_link_to_the_next_page_is_the_same_list_with_its_cursor() {
        let link = link("/api/orders", &[("status", "PAID"), ("customerId", "a b&c")], 7, "00ff");
        assert_eq!(link, "</api/orders?status=PAID&customerId=a%20b%26c&limit=7&cursor=00ff>; rel=\"next\"");
    }

    #[tokio::test]
    async fn the_next_of_a_page_is_the_cursor_of_the_one_behind_it_and_of_no_other_list() {
        let key = TokenKey::new([7; 32]);
        let page = read(&[("below", "10"), ("limit", "2")]).unwrap();
        assert_eq!((page.limit, &page.after), (2, &None));
        let answer = page.answer(&key, [1, 2], Some(&"mug".to_owned()));
        let link = answer.headers()["link"].to_str().unwrap().to_owned();
        let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let next = body["next"].as_str().unwrap();
        assert!(link.starts_with("</api/products?below=10&limit=2&cursor=") && link.contains(next), "{link}");
        assert_eq!(read(&[("below", "10"), ("cursor", next)]).unwrap().after, Some("mug".to_owned()));
        for other in [read(&[("cursor", next)]), read(&[("below", "11"), ("cursor", next)])] {
            assert!(format!("{:?}", other.unwrap_err()).contains("cursor"));
        }
        let last = page.answer(&key, [1, 2], None);
        assert!(!last.headers().contains_key("link"));
    }

    #[test]
    fn a_limit_or_a_cursor_that_is_none_is_refused_by_name() {
        for (query, name) in [
            ([("limit", "0")], LIMIT),
            ([("limit", "201")], LIMIT),
            ([("limit", "x")], LIMIT),
            ([("cursor", "")], CURSOR),
            ([("cursor", "mug")], CURSOR),
        ] {
            let refused = format!("{:?}", read(&query).unwrap_err());
            assert!(refused.contains(name), "{query:?}: {refused}");
        }
    }
}
