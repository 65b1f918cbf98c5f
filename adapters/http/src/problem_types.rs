//! Every type of problem that a listener of a deployment can answer: its slug, title and status, and the help that the
//! page `/problems/<slug>` shows. A problem can be made of one of these types only, so each `type` in an answer has a
//! page. To add one, add it to the table below and to the table in `docs/DEVELOPERS.md`.

use axum::http::StatusCode;

/// A type of problem.
#[derive(Debug, PartialEq, Eq)]
pub struct ProblemType {
    slug: &'static str,
    status: StatusCode,
    title: &'static str,
    meaning: &'static str,
    effect: Effect,
    remedy: &'static str,
}

/// What a refused request has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    Nothing,
    /// The server does not know: the request may have been carried out.
    Unknown,
}

impl Effect {
    /// Returns the sentence about it.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Nothing => "Nothing was changed.",
            Self::Unknown => {
                "The request was either carried out completely or not at all; this answer does not say which."
            }
        }
    }
}

impl ProblemType {
    /// Returns the name in `type`: `/problems/<slug>`.
    pub fn slug(&self) -> &'static str {
        self.slug
    }

    /// Returns `type` as it stands in a problem.
    pub fn uri(&self) -> String {
        format!("/problems/{}", self.slug)
    }

    /// Returns the status of every answer of this type.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the title.
    pub fn title(&self) -> &'static str {
        self.title
    }

    /// Returns what it means.
    pub fn meaning(&self) -> &'static str {
        self.meaning
    }

    /// Returns what the request has changed.
    pub fn effect(&self) -> Effect {
        self.effect
    }

    /// Returns what the caller can do.
    pub fn remedy(&self) -> &'static str {
        self.remedy
    }

    /// Returns the type with this slug.
    pub fn find(slug: &str) -> Option<&'static Self> {
        ALL.iter().copied().find(|kind| kind.slug == slug)
    }
}

macro_rules! problem_types {
    ($($name:ident {
        slug: $slug:literal, status: $status:ident, effect: $effect:ident,
        title: $title:literal,
        meaning: $meaning:literal,
        remedy: $remedy:literal,
    })*) => {
        $(
            #[doc = $meaning]
            pub const $name: &ProblemType = &ProblemType {
                slug: $slug,
                status: StatusCode::$status,
                title: $title,
                meaning: $meaning,
                effect: Effect::$effect,
                remedy: $remedy,
            };
        )*
        /// Every type, in the order of their statuses.
        pub const ALL: &[&ProblemType] = &[$($name),*];
    };
}

problem_types! {
    INVALID_REQUEST {
        slug: "invalid-request", status: BAD_REQUEST, effect: Nothing,
        title: "The request is invalid",
        meaning: "A field of the body, a parameter of the path or query, or a header is missing, unknown, repeated, or has a value that it cannot have.",
        remedy: "Each item of `errors` names a place (`pointer`, `parameter` or `header`) and says what would fit there. Correct these and send the request again.",
    }
    UNREADABLE_BODY {
        slug: "unreadable-body", status: BAD_REQUEST, effect: Nothing,
        title: "The body cannot be read as JSON",
        meaning: "The body is missing, incomplete, not JSON, nested deeper than 32, or contains the character U+0000.",
        remedy: "Send one JSON value in UTF-8; `detail` says where reading ended.",
    }
    MISSING_TOKEN {
        slug: "missing-token", status: UNAUTHORIZED, effect: Nothing,
        title: "A token is needed",
        meaning: "The request has no `Authorization` header, and this path is not open to everyone.",
        remedy: "Send `Authorization: Bearer` and a token of the configured issuer. `amends token` makes one for `amends dev`.",
    }
    INVALID_TOKEN {
        slug: "invalid-token", status: UNAUTHORIZED, effect: Nothing,
        title: "The token is refused",
        meaning: "The token is not a JSON Web Token signed with RS256 by a known key, or its claims do not hold: it has expired, or is for another issuer or audience.",
        remedy: "`detail` says what is wrong. Get a new token from the issuer, and send one `Authorization` header.",
    }
    SERVICE_TOKEN {
        slug: "service-token", status: UNAUTHORIZED, effect: Nothing,
        title: "Only services of this deployment are served here",
        meaning: "This is the own port of a service behind the api, or a path of the api that is for its services.",
        remedy: "Send the request to the api, with a token of your own.",
    }
    FORBIDDEN {
        slug: "forbidden", status: FORBIDDEN, effect: Nothing,
        title: "This is not allowed",
        meaning: "The token is valid, but none of its roles may do this, or may set the fields that `errors` names.",
        remedy: "Use a token with a role that may, or leave out the fields that `errors` names.",
    }
    FOREIGN_ORIGIN {
        slug: "foreign-origin", status: FORBIDDEN, effect: Nothing,
        title: "Pages of this origin are not allowed",
        meaning: "A page of another origin sent the request in a browser.",
        remedy: "Only pages of the same origin and of those in the setting `cors_origins` are allowed. Add the page's origin there, if it is yours.",
    }
    NOT_FOUND {
        slug: "not-found", status: NOT_FOUND, effect: Nothing,
        title: "Not found",
        meaning: "There is nothing at this path, or no such order, saga or notification. An order of another customer does not exist for a customer.",
        remedy: "Check the path and the id.",
    }
    UNKNOWN_PRODUCT {
        slug: "unknown-product", status: NOT_FOUND, effect: Nothing,
        title: "Unknown product",
        meaning: "Inventory has never had this product.",
        remedy: "Check the product's id. An operator sets the stock of a new product with `PUT /api/inventory/{productId}/stock`.",
    }
    METHOD_NOT_ALLOWED {
        slug: "method-not-allowed", status: METHOD_NOT_ALLOWED, effect: Nothing,
        title: "Method not allowed",
        meaning: "The path exists, but not for this method.",
        remedy: "Use one of the methods in the header `Allow`.",
    }
    NOT_ACCEPTABLE {
        slug: "not-acceptable", status: NOT_ACCEPTABLE, effect: Nothing,
        title: "No acceptable media type",
        meaning: "The header `Accept` includes none of the media types in which this route answers.",
        remedy: "`detail` names the media type. Include it in `Accept`, or leave the header out.",
    }
    REQUEST_TIMEOUT {
        slug: "request-timeout", status: REQUEST_TIMEOUT, effect: Nothing,
        title: "The request did not arrive in time",
        meaning: "The head or the body of the request took longer than 10 seconds to arrive.",
        remedy: "Send the whole request again, on a new connection.",
    }
    CANNOT_CANCEL {
        slug: "cannot-cancel", status: CONFLICT, effect: Nothing,
        title: "The order cannot be cancelled any more",
        meaning: "The order is shipped, has ended, or is already being undone after a failure.",
        remedy: "Read the order: its status says how it ended, or what it is heading for.",
    }
    NOT_RETURNABLE {
        slug: "not-returnable", status: CONFLICT, effect: Nothing,
        title: "This cannot be returned",
        meaning: "The order is not fulfilled, its time to be returned is over, a return is under way, or fewer pieces are left than are to come back.",
        remedy: "Read the order: its lines say what is left, and `returnableUntil` until when. `remaining` says what would fit.",
    }
    NO_RETURN_TO_DECIDE {
        slug: "no-return-to-decide", status: CONFLICT, effect: Nothing,
        title: "No return waits for this decision",
        meaning: "The order has no return, or the other decision about its newest one came first.",
        remedy: "Read the order: the status of each of its `returns` says how it was decided.",
    }
    NOT_REFUNDABLE {
        slug: "not-refundable", status: CONFLICT, effect: Nothing,
        title: "This cannot be refunded",
        meaning: "The order is not fulfilled, or the refund is more than was captured and is not refunded yet.",
        remedy: "`remaining` says what would fit.",
    }
    NOT_LEGAL_NOW {
        slug: "not-legal-now", status: CONFLICT, effect: Nothing,
        title: "This is not possible in the saga's present state",
        meaning: "An operator's action does not fit the state of the saga.",
        remedy: "Read the saga: `actions` lists what is possible now.",
    }
    STALE {
        slug: "stale", status: CONFLICT, effect: Nothing,
        title: "The saga has changed since you looked",
        meaning: "The saga is at another revision than the one that the request names, or another of its commands waits.",
        remedy: "Read the saga again, decide anew, and send the action with the present `revision`.",
    }
    BELOW_RESERVED {
        slug: "below-reserved", status: CONFLICT, effect: Nothing,
        title: "Less than is reserved",
        meaning: "The quantity on hand would be smaller than the quantity that orders have reserved.",
        remedy: "Set at least the reserved quantity, or wait until orders have been shipped or cancelled.",
    }
    STOCK_TOO_LARGE {
        slug: "stock-too-large", status: CONFLICT, effect: Nothing,
        title: "More than can be counted",
        meaning: "The quantity on hand would be larger than can be counted.",
        remedy: "`errors` says how much would fit. Correct the quantity, and send the request again.",
    }
    ORDERS_UNDER_WAY {
        slug: "orders-under-way", status: CONFLICT, effect: Nothing,
        title: "Orders are under way",
        meaning: "Orders of the customer still need their address, so personal data cannot be erased yet.",
        remedy: "`detail` names the orders. Wait until they have ended, or cancel them, and send the request again.",
    }
    WEBHOOKS_NOT_CONFIGURED {
        slug: "webhooks-not-configured", status: CONFLICT, effect: Nothing,
        title: "Webhooks are not configured",
        meaning: "The setting `webhook_key`, with which secrets are sealed in the database, is not set in this deployment.",
        remedy: "Set `webhook_key` or `webhook_key_file` for every api and engine, restart them, and send the request again.",
    }
    TOO_MANY_WEBHOOKS {
        slug: "too-many-webhooks", status: CONFLICT, effect: Nothing,
        title: "There are too many webhooks",
        meaning: "A deployment has 100 webhooks at most: each is delivered to by itself, so that none waits for another.",
        remedy: "Delete webhooks that are not needed any more, or let one receiver pass events on to others.",
    }
    PRECONDITION_FAILED {
        slug: "precondition-failed", status: PRECONDITION_FAILED, effect: Nothing,
        title: "It has changed since you read it",
        meaning: "The header `If-Match`, or the quote of a refund, names another state than the present one. What has no `ETag` is in no state that a tag names.",
        remedy: "Read the resource again, decide anew, and send the request with the new `ETag`, or with a new quote.",
    }
    PLAN_OUTDATED {
        slug: "plan-outdated", status: PRECONDITION_FAILED, effect: Nothing,
        title: "The saga has moved since the plan was made",
        meaning: "The saga is at another revision than the plan, or the plan would do something else by now.",
        remedy: "`detail` says what has changed. Read the saga again, and plan anew.",
    }
    BODY_TOO_LARGE {
        slug: "body-too-large", status: PAYLOAD_TOO_LARGE, effect: Nothing,
        title: "The body is too large",
        meaning: "The body has more than 64 KiB.",
        remedy: "Send a smaller body.",
    }
    URI_TOO_LONG {
        slug: "uri-too-long", status: URI_TOO_LONG, effect: Nothing,
        title: "The path and query are too long",
        meaning: "The path and query of the request have more than 65,534 bytes.",
        remedy: "Send a shorter query.",
    }
    NOT_JSON {
        slug: "not-json", status: UNSUPPORTED_MEDIA_TYPE, effect: Nothing,
        title: "The body is not JSON",
        meaning: "The header `Content-Type` is missing, repeated, or does not say JSON in UTF-8.",
        remedy: "Send `Content-Type: application/json`.",
    }
    FOREIGN_HOST {
        slug: "foreign-host", status: MISDIRECTED_REQUEST, effect: Nothing,
        title: "This host is not served here",
        meaning: "The server listens on a loopback address, and the header `Host` is neither a loopback name or address nor one of the setting `allowed_hosts`.",
        remedy: "Use a loopback name, or add the host to `allowed_hosts`.",
    }
    IDEMPOTENCY_KEY_REUSED {
        slug: "idempotency-key-reused", status: UNPROCESSABLE_ENTITY, effect: Nothing,
        title: "The idempotency key was used with another body",
        meaning: "A request with the same `Idempotency-Key`, caller, method and path, but with another body, was already carried out.",
        remedy: "A key identifies one request. Use a new key for a new request; to repeat a request, send the same body.",
    }
    NO_PRICE {
        slug: "no-price", status: UNPROCESSABLE_ENTITY, effect: Nothing,
        title: "A product has no price",
        meaning: "A customer orders a product that has no price in the catalogue. Customers do not state prices themselves.",
        remedy: "An operator sets the price of the product; a storefront may state `unitPrice` in the order.",
    }
    TOO_MANY_REQUESTS {
        slug: "too-many-requests", status: TOO_MANY_REQUESTS, effect: Nothing,
        title: "Too many requests",
        meaning: "More requests arrive than are admitted.",
        remedy: "Send the request again after the time in `Retry-After`.",
    }
    HEADERS_TOO_LARGE {
        slug: "headers-too-large", status: REQUEST_HEADER_FIELDS_TOO_LARGE, effect: Nothing,
        title: "There are too many headers, or too large ones",
        meaning: "The request has more than 100 headers, or its head has more than 64 KiB.",
        remedy: "Send fewer or shorter headers.",
    }
    INTERNAL {
        slug: "internal", status: INTERNAL_SERVER_ERROR, effect: Unknown,
        title: "Internal error",
        meaning: "The server met a fault of its own. Its logs contain the cause.",
        remedy: "Send the same request again with the same `Idempotency-Key`. If it fails again, report the time and the path to the operators.",
    }
    BUSY {
        slug: "busy", status: SERVICE_UNAVAILABLE, effect: Nothing,
        title: "Too many such requests at once",
        meaning: "Too many lists, streams or stock requests are served at once, or one asks for too much. Orders are not affected.",
        remedy: "Send the request again after the time in `Retry-After`; narrow a list that takes too long.",
    }
    UNAVAILABLE {
        slug: "unavailable", status: SERVICE_UNAVAILABLE, effect: Unknown,
        title: "Temporarily unavailable",
        meaning: "A service that the request needs, such as a database, is unavailable or did not answer in time.",
        remedy: "Send the same request again with the same `Idempotency-Key` after the time in `Retry-After`: that is safe.",
    }
    CIRCUIT_OPEN {
        slug: "circuit-open", status: SERVICE_UNAVAILABLE, effect: Nothing,
        title: "A service is not asked at present",
        meaning: "The service behind the api has failed too often, or an operator has cut it off, and is not asked for some time.",
        remedy: "Send the request again after the time in `Retry-After`.",
    }
    SERVICE_AWAY {
        slug: "service-away", status: SERVICE_UNAVAILABLE, effect: Unknown,
        title: "A service is away",
        meaning: "The service behind the api cannot be reached, or the connection to it broke.",
        remedy: "Send the same request again with the same `Idempotency-Key` after the time in `Retry-After`.",
    }
    SERVICE_LATE {
        slug: "service-late", status: GATEWAY_TIMEOUT, effect: Unknown,
        title: "A service has not answered in time",
        meaning: "The service behind the api was asked, and its answer did not come in time.",
        remedy: "Send the same request again with the same `Idempotency-Key`.",
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    #[test]
    fn each_type_has_a_slug_of_its_own_and_whole_sentences_of_help() {
        let slugs: BTreeSet<_> = ALL.iter().map(|kind| kind.slug).collect();
        assert_eq!(slugs.len(), ALL.len());
        for kind in ALL {
            assert!(kind.slug.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{}", kind.slug);
            assert!(!kind.title.ends_with('.'), "{}", kind.slug);
            assert!(kind.meaning.ends_with('.') && kind.remedy.ends_with('.'), "{}", kind.slug);
            assert!(kind.status.is_client_error() || kind.status.is_server_error(), "{}", kind.slug);
            assert_eq!(ProblemType::find(kind.slug), Some(*kind));
        }
        assert!(ALL.is_sorted_by_key(|kind| kind.status), "by status");
        assert_eq!(ProblemType::find("no-such-problem"), None);
    }

    #[test]
    fn each_type_has_its_row_in_the_developers_table() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/DEVELOPERS.md");
        let table = fs::read_to_string(path).unwrap();
        for kind in ALL {
            let row = format!("| `{}` | {}", kind.uri(), kind.status.as_u16());
            assert!(table.contains(&row), "docs/DEVELOPERS.md has no row `{row}`");
        }
    }
}
