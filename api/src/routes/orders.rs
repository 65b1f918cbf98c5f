//! `/api/orders`.

use std::sync::Arc;

use amends_engine::{
    core::{Actor, Event, Illegal},
    port,
    runtime::apply::{Applied, apply},
};
use amends_http::{body, query};
use amends_orders::Placed;
use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, HeaderName, StatusCode, header},
    middleware::from_fn,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::json;

use crate::{
    orders::{
        door, request,
        view::{Item, Order},
    },
    problem::{Fault, Problem},
    state::{AUDIENCE, Api, SUBJECT},
};

const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

pub fn router() -> Router<Arc<Api>> {
    Router::new()
        .route("/api/orders", post(place))
        .route("/api/orders/{id}", get(read).delete(cancel))
        .route("/api/orders/{id}/timeline", get(timeline))
        .route_layer(from_fn(query::none))
}

async fn place(State(api): State<Arc<Api>>, headers: HeaderMap, body: Bytes) -> Result<Response, Problem> {
    let key = idempotency_key(&headers)?;
    let request: request::NewOrder = body::read(&headers, &body)?;
    match api.door.place(SUBJECT, key, &request).await? {
        Placed::New { order, .. } => Ok(created(&Order::accepted(&order), order.id, false)),
        Placed::Replayed(order) => Ok(created(&Order::accepted(&order), order.id, true)),
        Placed::KeyReused => Err(Problem::KeyReused),
        Placed::Unstorable(why) => {
            tracing::error!(why, "an accepted order cannot be stored");
            Err(Problem::Internal)
        }
    }
}

fn created(order: &Order, id: uuid::Uuid, replayed: bool) -> Response {
    let location = (header::LOCATION, format!("/api/orders/{id}"));
    let mut response = (StatusCode::CREATED, [location], Json(order)).into_response();
    if replayed {
        response.headers_mut().insert(REPLAYED, header::HeaderValue::from_static("true"));
    }
    response
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let (Some(key), second) = (keys.next(), keys.next()) else { return Ok(None) };
    let bytes = key.as_bytes();
    let fits = (1..=255).contains(&bytes.len()) && bytes.iter().all(|b| (0x20..0x7f).contains(b));
    match key.to_str() {
        Ok(key) if fits && second.is_none() => Ok(Some(key.to_owned())),
        _ => {
            let why = "must be one header of 1-255 printable ASCII characters";
            Err(Problem::Invalid(vec![Fault::header(IDEMPOTENCY_KEY, why)]))
        }
    }
}

async fn read(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<Order>, Problem> {
    let id = body::id("id", &id)?;
    let view = api.orders.get(id).await?.ok_or_else(no_order)?;
    Ok(Json(Order::now(&view, AUDIENCE)))
}

async fn timeline(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Response, Problem> {
    let id = body::id("id", &id)?;
    let entries = api.orders.timeline(id).await?.ok_or_else(no_order)?;
    let items: Vec<Item> = entries.iter().map(Item::from).collect();
    Ok(Json(json!({ "items": items })).into_response())
}

/// 202 is a promise: the order ends `CANCELLED`.
async fn cancel(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Response, Problem> {
    let id = body::id("id", &id)?;
    let saga = api.orders.saga_of(id).await?.ok_or_else(no_order)?;
    let event = Event::CancelRequested(Actor::new(SUBJECT, ""));
    match apply(&api.engine, saga, event).await? {
        Applied::Done(_) => {
            let view = api.orders.get(id).await?.ok_or_else(no_order)?;
            Ok((StatusCode::ACCEPTED, Json(Order::now(&view, AUDIENCE))).into_response())
        }
        Applied::Illegal(saga, why) => Err(cannot_cancel(&saga.label, why)),
        Applied::Missing => Err(no_order()),
    }
}

pub fn cannot_cancel(label: &str, why: Illegal) -> Problem {
    Problem::Conflict {
        slug: "cannot-cancel",
        title: "The order cannot be cancelled any more",
        detail: format!("It is {label}: {why}."),
    }
}

fn no_order() -> Problem {
    Problem::NotFound("There is no such order.".to_owned())
}

impl From<door::Error> for Problem {
    fn from(error: door::Error) -> Self {
        match error {
            door::Error::Store(error) => error.into(),
            door::Error::TooMany(wait) => Problem::TooMany(wait),
            other => Problem::Unavailable(format!("{other}; try again.")),
        }
    }
}

impl From<port::Error> for Problem {
    fn from(error: port::Error) -> Self {
        match error {
            port::Error::Unavailable(why) => {
                tracing::warn!(why, "the database is unavailable");
                Problem::Unavailable(
                    "The database is unavailable. Sending the same request with the same key again is safe."
                        .to_owned(),
                )
            }
            port::Error::Locked(why) => {
                tracing::warn!(why, "another transaction holds what a request needs");
                Problem::Unavailable(
                    "Another transaction holds what this request needs. Sending it with the same key again is safe."
                        .to_owned(),
                )
            }
            port::Error::Unreadable(why) => {
                tracing::warn!(why, "this program cannot read what a request needs");
                Problem::Unavailable(
                    "This program cannot read what a newer one has written. Try again.".to_owned(),
                )
            }
            other @ port::Error::Data(_) => {
                tracing::error!(error = %other, "a request could not be stored");
                Problem::Internal
            }
        }
    }
}

impl From<amends_engine::runtime::Error> for Problem {
    fn from(error: amends_engine::runtime::Error) -> Self {
        match error {
            amends_engine::runtime::Error::Store(error) => error.into(),
            amends_engine::runtime::Error::PassedOver(saga, why) => {
                tracing::warn!(%saga, %why, "a request was passed over");
                Problem::Unavailable(format!("It cannot be changed now: {why}. Try again."))
            }
            other => Problem::Unavailable(other.to_string()),
        }
    }
}
