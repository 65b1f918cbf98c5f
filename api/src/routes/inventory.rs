//! `/api/inventory/*`: what the inventory worker does, which owns the stock, with the caller's role.

use std::sync::Arc;

use amends_http::query::{self, Parameter};
use amends_inventory::{AddRequest, Movement, Product, SUBJECT, StockRequest, cache::Looked};
use axum::{
    body::Bytes,
    extract::{OriginalUri, Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::from_fn,
    response::{IntoResponse, Response},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::products::product_id;
use crate::{
    auth::{
        Caller, Right,
        access::{Access, Routes},
    },
    gateway::upstream::{Answered, Asked},
    http::{
        idempotency::{self, ADDS_STOCK},
        openapi::{Answer, Operation, schema},
        page::{CURSOR, LARGEST_PAGE, LIMIT, PAGE_PARAMETERS, PAGE_USUAL, PageRequest},
    },
    orders::cursor::Place,
    problem::{Fault, Problem, problem_types},
    state::Api,
};

const ONE: &str = "/api/inventory/{productId}";
const STOCK: &str = "/api/inventory/{productId}/stock";
const MOVEMENTS: &str = "/api/inventory/{productId}/movements";

const BELOW: &str = "below";
const LIST_PARAMETERS: [Parameter; 3] =
    [Parameter::Once(BELOW), Parameter::Once(LIMIT), Parameter::Once(CURSOR)];
/// The largest quantity on hand.
const ON_HAND_MOST: i64 = 1_000_000_000_000;
/// The headers of the worker's answer that reach the caller.
const PASSED_ON: [HeaderName; 5] = [
    header::CONTENT_TYPE,
    header::ALLOW,
    header::LOCATION,
    header::RETRY_AFTER,
    HeaderName::from_static("idempotency-replayed"),
];

pub fn routes() -> Routes<Arc<Api>> {
    let (reads, sets) = (Access::Needs(Right::ReadStock), Access::Needs(Right::SetStock));
    Routes::default()
        .on(
            Method::GET,
            ONE,
            reads,
            read,
            behind(Operation::new("readStock", "Read the stock of a product"))
                .answer(leading_on(Answer::json::<Product>(StatusCode::OK, "The stock.")))
                .problems(&[problem_types::UNKNOWN_PRODUCT]),
        )
        .on(
            Method::PUT,
            STOCK,
            sets,
            change,
            behind(Operation::new("changeStock", "Set or adjust the quantity of a product in the warehouse"))
                .about(
                    "`{\"onHand\": 100}` sets it, `{\"adjust\": -3}` changes it and needs an `Idempotency-Key`. The difference \
                     is an adjustment in the ledger. A new product begins with one.",
                )
                .key_taken()
                .body::<StockRequest>(json!({ "onHand": 100, "reason": "counted" }))
                .exactly_one_of(&[("onHand", &[]), ("adjust", &[])])
                .answer(leading_on(Answer::json::<Product>(StatusCode::OK, "The stock as it is now.")))
                .problems(&[
                    problem_types::UNKNOWN_PRODUCT,
                    problem_types::BELOW_RESERVED,
                    problem_types::STOCK_TOO_LARGE,
                ]),
        )
        .on(
            Method::POST,
            ADDS_STOCK,
            sets,
            change,
            behind(Operation::new("addStock", "Add pieces of a product to the warehouse"))
                .body::<AddRequest>(json!({ "productId": "mug-blue", "quantity": 20, "reason": "delivered" }))
                .answer(leading_on(Answer::json::<Product>(StatusCode::OK, "The stock as it is now.")))
                .answer(leading_on(Answer::json::<Product>(StatusCode::CREATED, "The stock of a product that is new.")))
                .problems(&[problem_types::STOCK_TOO_LARGE]),
        )
        .each(|routes| routes.route_layer(from_fn(query::none)))
        .on(
            Method::GET,
            ADDS_STOCK,
            reads,
            list,
            behind(Operation::new("listStock", "List the stock of products, by product"))
                .query(BELOW, "Only products of which fewer are available.", schema::integer(1, ON_HAND_MOST), 10)
                .query(LIMIT, "Largest number of products.", schema::limit(PAGE_USUAL, LARGEST_PAGE), 50)
                .query(CURSOR, "`next` of the page before.", schema::string(), Value::Null)
                .answer(Answer::page::<Product>().link(
                    "readStock",
                    "productId",
                    "$response.body#/items/0/productId",
                )),
        )
        .on(
            Method::GET,
            MOVEMENTS,
            reads,
            movements,
            behind(Operation::new("listStockMovements", "List the movements of a product's stock, the newest first"))
                .query(LIMIT, "Largest number of movements.", schema::limit(PAGE_USUAL, LARGEST_PAGE), 50)
                .query(CURSOR, "`next` of the page before.", schema::string(), Value::Null)
                .answer(Answer::page::<Movement>())
                .problems(&[problem_types::UNKNOWN_PRODUCT]),
        )
}

/// Adds to the answer with the stock of a product what can be done with it.
fn leading_on(answer: Answer) -> Answer {
    let of_stock = ["readStock", "changeStock", "listStockMovements", "readProduct"];
    let id = "$response.body#/productId";
    of_stock.into_iter().fold(answer, |answer, operation| answer.link(operation, "productId", id))
}

/// Adds the problems of every route that asks the worker.
fn behind(operation: Operation) -> Operation {
    operation.problems(&[
        problem_types::BUSY,
        problem_types::CIRCUIT_OPEN,
        problem_types::SERVICE_AWAY,
        problem_types::SERVICE_LATE,
    ])
}

/// A page of the worker's.
#[derive(Deserialize)]
struct WorkerPage {
    items: Box<RawValue>,
    next: Option<String>,
}

/// From the cache, or from the worker.
async fn read(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Response, Problem> {
    let id = product_id(id)?;
    let ticket = match api.stock_cache.look(&id).await {
        Looked::Found(stock) => {
            count_read("cache");
            return Ok(([(header::CONTENT_TYPE, "application/json")], stock).into_response());
        }
        Looked::Absent(ticket) => Some(ticket),
        Looked::Unknown => None,
    };
    count_read("worker");
    let path = format!("/api/inventory/{id}");
    let answered = api.inventory.ask(Asked { path, ..Asked::default() }).await?;
    if let (Some(ticket), StatusCode::OK, Ok(stock)) =
        (ticket, answered.status, std::str::from_utf8(&answered.body))
    {
        // The caller does not wait for the cache.
        let (cache, stock) = (api.stock_cache.clone(), stock.to_owned());
        tokio::spawn(async move { cache.keep(&id, ticket, &stock).await });
    }
    Ok(passed_on(answered))
}

fn count_read(from: &'static str) {
    metrics::counter!("amends_api_stock_reads_total", "from" => from).increment(1);
}

/// Sets, adjusts or adds. The worker takes the idempotency key in the transaction of the change.
async fn change(
    State(api): State<Arc<Api>>,
    caller: Caller,
    method: Method,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let mut forwarded = HeaderMap::new();
    if let Some(key) = idempotency::key(&headers)? {
        let request = idempotency::request(&caller, &method, uri.path(), &key);
        forwarded.extend(HeaderValue::try_from(hex::encode(request)).ok().map(|value| {
            // The caller's own key could be that of another caller.
            (HeaderName::from_static("idempotency-key"), value)
        }));
    }
    let subject = utf8_percent_encode(caller.subject(), NON_ALPHANUMERIC).to_string();
    forwarded.extend(HeaderValue::try_from(subject).ok().map(|subject| (SUBJECT, subject)));
    for kind in headers.get_all(header::CONTENT_TYPE) {
        forwarded.append(header::CONTENT_TYPE, kind.clone());
    }
    let path = uri.path().to_owned();
    Ok(passed_on(api.inventory.ask(Asked { method, path, headers: forwarded, body }).await?))
}

async fn list(
    State(api): State<Arc<Api>>,
    caller: Caller,
    OriginalUri(uri): OriginalUri,
) -> Result<Response, Problem> {
    let query = query::read(&uri, &LIST_PARAMETERS)?;
    let below = query.iter().find(|(name, _)| *name == BELOW).map(|(_, below)| below.parse::<i64>());
    let below = match below {
        None => String::new(),
        Some(Ok(below)) if (1..=ON_HAND_MOST).contains(&below) => format!("&below={below}"),
        Some(_) => {
            let why = format!("must be 1-{ON_HAND_MOST}");
            return Err(Problem::Invalid(vec![Fault::parameter(BELOW, why)]));
        }
    };
    let page = PageRequest::<String>::read(&caller, &api.engine.key, ADDS_STOCK, query)?;
    let after = page.after.as_ref().map(|after| format!("&after={after}")).unwrap_or_default();
    let path = format!("{ADDS_STOCK}?limit={}{after}{below}", page.limit);
    paged(&api, &page, path, Some).await
}

async fn movements(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(id): Path<String>,
    OriginalUri(uri): OriginalUri,
) -> Result<Response, Problem> {
    let (id, query) = (product_id(id)?, query::read(&uri, &PAGE_PARAMETERS)?);
    let list = format!("/api/inventory/{id}/movements");
    let page = PageRequest::<i64>::read(&caller, &api.engine.key, &list, query)?;
    let after = page.after.map(|after| format!("&after={after}")).unwrap_or_default();
    let path = format!("{list}?limit={}{after}", page.limit);
    paged(&api, &page, path, |next| next.parse().ok()).await
}

/// Reads a page of the worker's, and signs what leads to the next one.
async fn paged<P: Place>(
    api: &Api,
    page: &PageRequest<P>,
    path: String,
    place: impl Fn(String) -> Option<P>,
) -> Result<Response, Problem> {
    let answered = api.inventory.ask(Asked { path, ..Asked::default() }).await?;
    if answered.status != StatusCode::OK {
        return Ok(passed_on(answered));
    }
    let read: WorkerPage = serde_json::from_slice(&answered.body).map_err(|error| {
        tracing::error!(%error, "the inventory worker's page cannot be read");
        Problem::Internal
    })?;
    Ok(page.answer(&api.engine.key, read.items, read.next.and_then(place).as_ref()))
}

pub(super) fn passed_on(answered: Answered) -> Response {
    let kept = PASSED_ON.into_iter().filter_map(|name| {
        let value = answered.headers.get(&name)?.clone();
        Some((name, value))
    });
    (answered.status, kept.collect::<HeaderMap>(), answered.body).into_response()
}
