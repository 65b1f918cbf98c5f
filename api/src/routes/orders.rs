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
    Json,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, HeaderName, Method, StatusCode, header},
    middleware::from_fn,
    response::{IntoResponse, Response},
};
use serde_json::json;
use uuid::Uuid;

use crate::{
    auth::{
        Caller, Right,
        access::{self, Access, Routes},
    },
    orders::{
        door, request,
        view::{Audience, Order},
    },
    problem::{Fault, Problem},
    state::Api,
};

const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

pub fn routes() -> Routes<Arc<Api>> {
    let reads = Access::Needs(Right::ReadOrders);
    Routes::default()
        .on(Method::POST, "/api/orders", Access::Needs(Right::PlaceOrders), place)
        .on(Method::DELETE, "/api/orders/{id}", Access::Needs(Right::CancelOrders), cancel)
        .on(Method::GET, "/api/orders/{id}/timeline", reads, timeline)
        .each(|routes| routes.route_layer(from_fn(query::none)))
}

async fn place(
    State(api): State<Arc<Api>>,
    caller: Caller,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let key = idempotency_key(&headers)?;
    let request: request::OrderRequest = body::read(&headers, &body)?;
    let order = request.placed_by(&caller)?;
    match api.door.place(caller.subject(), key, &order).await? {
        Placed::New { order, .. } => Ok(created(&Order::accepted(&order), order.id, false)),
        Placed::Replayed(order) => Ok(created(&Order::accepted(&order), order.id, true)),
        Placed::KeyReused => Err(Problem::KeyReused),
        Placed::Unstorable(why) => {
            tracing::error!(why, "an accepted order cannot be stored");
            Err(Problem::Internal)
        }
    }
}

fn created(order: &Order, id: Uuid, replayed: bool) -> Response {
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

async fn timeline(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = body::id("id", &id)?;
    if !caller.may(Right::ReadAnyOrder) {
        customer_of(&api, &caller, id).await?;
    }
    let entries = api.orders.timeline(id).await?.ok_or_else(no_order)?;
    let items = Audience::of(&caller).timeline(&entries);
    Ok(Json(json!({ "items": items })).into_response())
}

/// Returns the customer of an order, if the order exists for the caller. Callers who see every order do not need it.
async fn customer_of(api: &Api, caller: &Caller, order: Uuid) -> Result<String, Problem> {
    let view = api.orders.get(order).await?.filter(|view| caller.sees_orders_of(&view.order.customer_id));
    Ok(view.ok_or_else(no_order)?.order.customer_id)
}

/// 202 is a promise: the order ends `CANCELLED`.
async fn cancel(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = body::id("id", &id)?;
    if !caller.may(Right::CancelAnyOrder) && !caller.cancels_orders_of(&customer_of(&api, &caller, id).await?)
    {
        return Err(access::forbidden());
    }
    let saga = api.orders.saga_of(id).await?.ok_or_else(no_order)?;
    let event = Event::CancelRequested(Actor::new(caller.subject(), ""));
    match apply(&api.engine, saga, event).await? {
        Applied::Done(_) => {
            let view = api.orders.get(id).await?.ok_or_else(no_order)?;
            Ok((StatusCode::ACCEPTED, Json(Order::now(&view, Audience::of(&caller)))).into_response())
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

pub fn no_order() -> Problem {
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
