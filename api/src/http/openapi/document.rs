//! The document: every route with what it takes and answers, and what follows from its method, path and access.

use std::collections::BTreeMap;

use amends_http::{ProblemBody, ProblemType, problem_types as types};
use axum::http::Method;
use serde_json::json;
use utoipa::openapi::{
    AllOfBuilder, Components, ContentBuilder, HttpMethod, InfoBuilder, LicenseBuilder, ObjectBuilder,
    OpenApi, OpenApiBuilder, Paths, Ref, RefOr, Required, Response, ResponseBuilder, Responses,
    SecurityRequirement, Tag,
    extensions::ExtensionsBuilder,
    path::{self, OperationBuilder, Parameter, ParameterBuilder, ParameterIn},
    security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    tag::TagBuilder,
};

use super::{
    operation::{Key, Operation, Schemas, header, reference},
    path as paths, schema,
};
use crate::auth::{
    Right, Role,
    access::{Access, Route},
    roles::Roles,
};

const PROBLEM: &str = "application/problem+json";
const BEARER: &str = "bearer";

/// Problems that every route can answer.
const EVERYWHERE: [&ProblemType; 9] = [
    types::INVALID_REQUEST,
    types::FOREIGN_ORIGIN,
    types::REQUEST_TIMEOUT,
    types::BODY_TOO_LARGE,
    types::URI_TOO_LONG,
    types::FOREIGN_HOST,
    types::HEADERS_TOO_LARGE,
    types::INTERNAL,
    types::UNAVAILABLE,
];
/// Problems of routes that need a token.
const OF_TOKENS: [&ProblemType; 5] =
    [types::MISSING_TOKEN, types::INVALID_TOKEN, types::FORBIDDEN, types::TOO_MANY_REQUESTS, types::BUSY];
/// Problems of routes with a body.
const OF_BODIES: [&ProblemType; 2] = [types::UNREADABLE_BODY, types::NOT_JSON];

const ABOUT: &str = "\
Orders, their sagas and the stock of Amends. JSON in camelCase, money in integer minor units with an ISO 4217 currency, \
instants by RFC 3339 in UTC, ids as UUIDv7. Refusals are problem details (RFC 9457); each `type` is the path of a page \
that says what it means, what was changed and what to do. `HEAD` is answered wherever `GET` is; any other method that a \
path does not have is 405 with `Allow` (`/problems/method-not-allowed`). Every answer carries `X-Request-Id`.";

/// Returns the document of these routes.
pub fn document(routes: &[Route]) -> OpenApi {
    let mut components = Components::new();
    components.add_security_scheme(BEARER, bearer());
    for (name, parameter) in [
        ("IdempotencyKey", idempotency_key(Required::False)),
        ("RequiredIdempotencyKey", idempotency_key(Required::True)),
        ("IfMatch", if_match()),
        ("RequestId", request_id()),
    ] {
        components.parameters.insert(name.to_owned(), RefOr::T(parameter));
    }
    let (mut schemas, mut documented) = (Schemas::new(), Paths::new());
    reference::<ProblemBody<'_>>(&mut schemas);
    for route in routes {
        schemas.extend(route.operation.schemas.iter().cloned());
        let operation = operation(route, &mut components);
        documented.add_path_operation(paths::documented(route.path), vec![method(&route.method)], operation);
    }
    components.schemas.extend(schemas);
    let license =
        LicenseBuilder::new().name(env!("CARGO_PKG_LICENSE")).identifier(Some(env!("CARGO_PKG_LICENSE")));
    let info = InfoBuilder::new()
        .title("Amends")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(ABOUT))
        .license(Some(license.build()));
    OpenApiBuilder::new()
        .info(info)
        .tags(Some(TAGS.map(|(_, name, about)| tag(name, about))))
        .paths(documented)
        .components(Some(components))
        .build()
}

fn bearer() -> SecurityScheme {
    let about = "A JSON Web Token signed with RS256. Its roles say what it may do; `amends token` makes one for `amends dev`.";
    SecurityScheme::Http(
        HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("JWT")
            .description(Some(about))
            .build(),
    )
}

fn idempotency_key(required: Required) -> Parameter {
    let about = "Identifies the request, so that it can be sent again safely. The same request gets the same answer, with \
                 `Idempotency-Replayed: true`; with another body it is refused.";
    let schema = schema::string().pattern(Some("^[ -~]{1,255}$"));
    ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(required)
        .description(Some(about))
        .schema(Some(schema))
        .build()
}

fn if_match() -> Parameter {
    let about = "`*`, or the entity tags of states as they were read. In any other state nothing is changed (412). What has no \
         `ETag` is in no state that a tag names.";
    // `*`, or quoted tags, separated by commas.
    let tag = r#"(W/)?"[!#-~]*""#;
    let schema = schema::string().pattern(Some(format!(r"^(\*|{tag}( *, *{tag})*)$")));
    ParameterBuilder::new()
        .name("If-Match")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(about))
        .schema(Some(schema))
        .build()
}

fn request_id() -> Parameter {
    let about = "Names the request in the answer, in a problem and in the logs. Without one, or with one of another form, the \
                 server makes one.";
    ParameterBuilder::new()
        .name("X-Request-Id")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(about))
        // Any text: one of another form is no fault.
        .schema(Some(schema::string()))
        .build()
}

/// The groups of routes: the beginning of their paths, their name, and what they are.
const TAGS: [(&str, &str, &str); 7] = [
    ("/api/orders", "orders", "Orders: placed, read, followed, cancelled."),
    ("/api/products", "products", "Products and their prices."),
    ("/api/inventory", "inventory", "The stock of products."),
    ("/api/webhooks", "webhooks", "Where events are sent, and their deliveries."),
    ("/api/customers", "customers", "Customers' personal data."),
    ("/admin", "admin", "Sagas and circuit breakers, for operators."),
    ("/", "service", "The service itself: health, metrics, keys, and these documents. No token is needed."),
];

fn tag(name: &str, about: &str) -> Tag {
    TagBuilder::new().name(name).description(Some(about)).build()
}

fn tag_of(path: &str) -> &'static str {
    TAGS.iter().find(|(beginning, ..)| path.starts_with(beginning)).map_or("service", |(_, name, _)| name)
}

fn method(method: &Method) -> HttpMethod {
    match *method {
        Method::GET => HttpMethod::Get,
        Method::POST => HttpMethod::Post,
        Method::PUT => HttpMethod::Put,
        Method::PATCH => HttpMethod::Patch,
        Method::DELETE => HttpMethod::Delete,
        ref other => unreachable!("no route of ours answers {other}"),
    }
}

fn operation(route: &Route, components: &mut Components) -> path::Operation {
    let Operation { id, summary, about, parameters, body, .. } = route.operation.clone();
    let mut operation =
        OperationBuilder::new().operation_id(Some(id)).summary(Some(summary)).tag(tag_of(route.path));
    if !about.is_empty() {
        operation = operation.description(Some(about));
    }
    for parameter in paths::parameters(route.path).into_iter().chain(parameters) {
        operation = operation.parameter(parameter);
    }
    let key = match route.operation.key {
        Key::Required => Some("RequiredIdempotencyKey"),
        Key::ByMethod | Key::Taken => takes_key(route).then_some("IdempotencyKey"),
    };
    for name in key.into_iter().chain(takes_if_match(route).then_some("IfMatch")).chain(["RequestId"]) {
        operation = operation.parameter_ref(Ref::new(format!("#/components/parameters/{name}")));
    }
    if let Access::Needs(right) = route.access {
        let roles = json!(roles_with(right));
        operation = operation
            .security(SecurityRequirement::new(BEARER, std::iter::empty::<String>()))
            .extensions(Some(ExtensionsBuilder::new().add("x-roles", roles).build()));
    }
    operation.request_body(body).responses(responses(route, components)).build()
}

/// Returns whether a route takes an `Idempotency-Key`.
fn takes_key(route: &Route) -> bool {
    let by_method = route.method == Method::POST && route.access != Access::Open;
    by_method || route.operation.key != Key::ByMethod
}

/// Returns whether a route takes an `If-Match`: whatever changes something does.
fn takes_if_match(route: &Route) -> bool {
    route.method != Method::GET
}

/// Returns the names of the roles with a right.
fn roles_with(right: Right) -> Vec<&'static str> {
    let may = |role: &Role| Roles::from_iter([*role]).may(right);
    Role::ALL.into_iter().filter(may).map(Role::as_str).collect()
}

fn responses(route: &Route, components: &mut Components) -> Responses {
    let mut responses = Responses::new();
    for answer in &route.operation.answers {
        let mut response = answer.response.clone();
        if takes_key(route) && answer.status.is_success() {
            let about = "`true`: the answer to an earlier request with the same key.";
            response.headers.insert("Idempotency-Replayed".to_owned(), RefOr::T(header(about)));
        }
        responses.responses.insert(answer.status.as_str().to_owned(), RefOr::T(response));
    }
    for (status, kinds) in problems(route) {
        let refusal = refusal(&kinds);
        match responses.responses.get_mut(&status.to_string()) {
            Some(RefOr::T(answer)) => answer.content.extend(refusal.content),
            _ => {
                let slugs: Vec<&str> = kinds.iter().map(|kind| kind.slug()).collect();
                let name = slugs.join(".");
                let reference = Ref::from_response_name(&name);
                components.responses.insert(name, RefOr::T(refusal));
                responses.responses.insert(status.to_string(), RefOr::Ref(reference));
            }
        }
    }
    responses
}

/// Returns the problems that a route can answer, by status.
pub(super) fn problems(route: &Route) -> BTreeMap<u16, Vec<&'static ProblemType>> {
    let operation = &route.operation;
    let answers_content = operation.answers.iter().any(|answer| !answer.response.content.is_empty());
    let when = |holds: bool, kind: &'static ProblemType| holds.then_some(kind);
    let needs_token = route.access != Access::Open;
    let takes_key = takes_key(route);
    let mut kinds: Vec<&'static ProblemType> = EVERYWHERE.to_vec();
    kinds.extend(OF_TOKENS.iter().filter(|_| needs_token));
    kinds.extend(OF_BODIES.iter().filter(|_| operation.body.is_some()));
    kinds.extend(when(route.path.contains('{'), types::NOT_FOUND));
    kinds.extend(when(answers_content, types::NOT_ACCEPTABLE));
    kinds.extend(when(takes_key, types::IDEMPOTENCY_KEY_REUSED));
    kinds.extend(when(takes_if_match(route), types::PRECONDITION_FAILED));
    kinds.extend(&operation.problems);
    let mut by_status = BTreeMap::<u16, Vec<&'static ProblemType>>::new();
    for kind in types::ALL.iter().filter(|kind| kinds.contains(kind)) {
        by_status.entry(kind.status().as_u16()).or_default().push(*kind);
    }
    by_status
}

/// Returns the answer of one status with these problems.
fn refusal(kinds: &[&'static ProblemType]) -> Response {
    let about: Vec<String> =
        kinds.iter().map(|kind| format!("- `{}`: {}", kind.uri(), kind.title())).collect();
    let uris = kinds.iter().map(|kind| kind.uri());
    let kind = ObjectBuilder::new().property("type", schema::string().enum_values(Some(uris)));
    let schema = AllOfBuilder::new().item(Ref::from_schema_name("Problem")).item(kind);
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let mut response = ResponseBuilder::new().description(about.join("\n")).content(PROBLEM, content).build();
    let added = match kinds.first().map_or(0, |kind| kind.status().as_u16()) {
        401 => Some(("WWW-Authenticate", "What the caller must present.")),
        429 | 503 => Some(("Retry-After", "Seconds after which the request may be sent again.")),
        _ => None,
    };
    if let Some((name, about)) = added {
        response.headers.insert(name.to_owned(), RefOr::T(header(about)));
    }
    response
}
