//! `/api/orders`.

use std::sync::Arc;

use amends_engine::{
    core::{Actor, Event, Illegal},
    operate,
    port::{self, SagaStore as _},
    runtime::apply::{Applied, apply, apply_at},
};
use amends_http::{body, query};
use amends_orders::Placed;
use amends_workflows::order_fulfilment;
use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::from_fn,
    response::{IntoResponse, Response},
};
use serde_json::json;
use uuid::Uuid;

use super::order_read::view_of;
use crate::{
    auth::{
        Caller, Right,
        access::{self, Access, Routes},
    },
    http::{
        etag::{self, IfMatch, Representation},
        idempotency::{self, PLACES_ORDERS},
        openapi::{Answer, Operation},
    },
    orders::{
        door, explanation, request,
        timeline::Timeline,
        view::{Audience, Explanation, Order, instant},
    },
    problem::{Problem, problem_types},
    state::Api,
};

pub fn routes() -> Routes<Arc<Api>> {
    let (reads, cancels) = (Access::Needs(Right::ReadOrders), Access::Needs(Right::CancelOrders));
    Routes::default()
        .on(Method::POST, PLACES_ORDERS, Access::Needs(Right::PlaceOrders), place, describe_place())
        .on(
            Method::DELETE,
            "/api/orders/{id}",
            cancels,
            delete,
            describe_cancel(Operation::new("deleteOrder", "Cancel an order")),
        )
        .on(
            Method::POST,
            "/api/orders/{id}/cancel",
            cancels,
            cancel,
            describe_cancel(Operation::new("cancelOrder", "Cancel an order, with a reason"))
                .body::<request::CancelRequest>(json!({ "reason": "ordered twice" })),
        )
        .on(
            Method::GET,
            "/api/orders/{id}/timeline",
            reads,
            timeline,
            Operation::new("readOrderTimeline", "Read what has happened to an order")
                .about("A customer sees how the status changed, without operators' names, reasons and internals.")
                .answer(Answer::json::<Timeline>(StatusCode::OK, "The entries, the oldest first.")),
        )
        .on(
            Method::GET,
            "/api/orders/{id}/explanation",
            reads,
            explain,
            Operation::new("explainOrder", "Explain in one sentence what an order waits for, and until when")
                .about("A customer reads a sentence about the order, an operator the one about its saga.")
                .answer(Answer::json::<Explanation>(StatusCode::OK, "The sentence.")),
        )
        .each(|routes| routes.route_layer(from_fn(query::none)))
}

fn describe_place() -> Operation {
    let example = json!({
        "customerId": "c-1001",
        "currency": "EUR",
        "lines": [{ "productId": "mug-blue", "quantity": 2, "unitPrice": 1250 }],
        "payment": { "method": "card_approved" },
        "shippingAddress": {
            "name": "Test Customer", "line1": "1 Long Street", "city": "Vienna", "postalCode": "1010", "country": "AT",
        },
        "contact": { "email": "c-1001@shop.example" },
    });
    let placed = Answer::json::<Order>(StatusCode::CREATED, "The order as it was accepted.")
        .header("Location", "The path of the order.");
    Operation::new("placeOrder", "Place an order")
        .about(
            "Sent again with the same key, the request is answered with the order as it was accepted, whether or not the \
             first answer arrived. A customer states neither prices nor another customer.",
        )
        .body::<request::OrderRequest>(example)
        .answer(leading_on(placed))
        .problems(&[problem_types::NO_PRICE, problem_types::TOO_MANY_REQUESTS])
}

fn describe_cancel(operation: Operation) -> Operation {
    operation
        .about("202 is a promise: the order ends `CANCELLED`, once everything is undone.")
        .if_match()
        .answer(leading_on(Answer::json::<Order>(StatusCode::ACCEPTED, "The order as it is now.")))
        .problems(&[problem_types::CANNOT_CANCEL])
}

/// What can be done with an order that was answered.
const OF_AN_ORDER: [&str; 10] = [
    "readOrder",
    "readOrderTimeline",
    "explainOrder",
    "deleteOrder",
    "cancelOrder",
    "returnOrder",
    "approveReturn",
    "rejectReturn",
    "refundOrder",
    "quoteRefund",
];

/// Adds to the answer with an order what can be done with it.
pub(super) fn leading_on(answer: Answer) -> Answer {
    OF_AN_ORDER
        .into_iter()
        .fold(answer, |answer, operation| answer.link(operation, "id", "$response.body#/id"))
}

async fn place(
    State(api): State<Arc<Api>>,
    caller: Caller,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let key = idempotency::key(&headers)?;
    let request: request::OrderRequest = body::read(&headers, &body)?;
    let unpriced = request.placed_by(&caller)?;
    let fingerprint = unpriced.fingerprint();
    let order = match unpriced.price(&api.products).await {
        Ok(order) => order,
        // Products change: a request that placed an order once is answered with that order.
        Err(refused) => return placed_before(&api, &caller, key, fingerprint).await?.ok_or(refused),
    };
    match api.door.place(caller.subject(), key, &order).await? {
        Placed::New { order, .. } => Ok(created(&Order::accepted(&order), order.id, false)),
        Placed::Replayed(order) => Ok(created(&Order::accepted(&order), order.id, true)),
        Placed::KeyReused => Err(Problem::KeyReused),
        Placed::Unstorable(why) => {
            tracing::error!(why, "an accepted order cannot be stored");
            Err(Problem::Internal)
        }
        Placed::Failed(error) => Err(error.into()),
    }
}

/// Returns the answer to an earlier request with this key, if there was one.
async fn placed_before(
    api: &Api,
    caller: &Caller,
    key: Option<String>,
    fingerprint: [u8; 32],
) -> Result<Option<Response>, Problem> {
    let Some(key) = key else { return Ok(None) };
    match api.orders.placed_with(caller.subject(), &key).await? {
        Some(known) if known.fingerprint == fingerprint => {
            Ok(Some(created(&Order::accepted(&known.order), known.order.id, true)))
        }
        Some(_) => Err(Problem::KeyReused),
        None => Ok(None),
    }
}

fn created(order: &Order, id: Uuid, replayed: bool) -> Response {
    let location = (header::LOCATION, format!("/api/orders/{id}"));
    let mut response = (StatusCode::CREATED, [location], Json(order)).into_response();
    if replayed {
        idempotency::mark_replayed(&mut response);
    }
    response
}

async fn timeline(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = body::id("id", &id)?;
    let view = view_of(&api.orders, &caller, id).await?;
    let entries = api.orders.timeline_of(&view).await?;
    let items = Audience::of(&caller).timeline(&view, &entries);
    Ok(Json(Timeline { items }).into_response())
}

/// One sentence for the caller. Operators read that of the saga.
async fn explain(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Explanation>, Problem> {
    let view = view_of(&api.orders, &caller, body::id("id", &id)?).await?;
    let saga = api.engine.store.load(&[view.order.saga_id]).await?.sagas.pop();
    let explained = match (Audience::of(&caller), saga) {
        (Audience::Operator, Some(saga)) => {
            operate::explain(&saga, api.engine.catalog.get(&saga.workflow, saga.workflow_version))
        }
        // A saga that this program cannot read is explained by its status.
        (_, saga) => explanation::explain(&view, saga.is_some_and(|saga| saga.parked)),
    };
    Ok(Json(Explanation { sentence: explained.sentence, until: explained.until.map(instant) }))
}

async fn delete(
    State(api): State<Arc<Api>>,
    caller: Caller,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let (id, condition) = (body::id("id", &id)?, IfMatch::read(&headers)?);
    cancelled(&api, &caller, id, condition, String::new()).await
}

async fn cancel(
    State(api): State<Arc<Api>>,
    caller: Caller,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Problem> {
    let (id, condition) = (body::id("id", &id)?, IfMatch::read(&headers)?);
    let request::CancelRequest { reason } = body::read(&headers, &body)?;
    cancelled(&api, &caller, id, condition, reason).await
}

/// Cancels an order. 202 is a promise: the order ends `CANCELLED`.
async fn cancelled(
    api: &Api,
    caller: &Caller,
    id: Uuid,
    condition: Option<IfMatch>,
    reason: String,
) -> Result<Response, Problem> {
    let seen = view_of(&api.orders, caller, id).await?;
    if !caller.cancels_orders_of(&seen.order.customer_id) {
        return Err(access::forbidden());
    }
    // A return that is under way is not cancelled with its order.
    if seen.workflow != order_fulfilment::NAME {
        return Err(cannot_cancel(&seen.label, Illegal::PastPivot));
    }
    let (saga, event) = (seen.order.saga_id, Event::CancelRequested(Actor::new(caller.subject(), reason)));
    let applied = match condition {
        None => apply(&api.engine, saga, event).await?,
        Some(condition) => {
            condition.check(&Representation::of(&Order::now(&seen, Audience::of(caller)))?.tag)?;
            let revision = u32::try_from(seen.revision).unwrap_or_default();
            let applied = apply_at(&api.engine, saga, revision, event).await?;
            applied.ok_or_else(etag::precondition_failed)?
        }
    };
    match applied {
        Applied::Done(_) => {
            let view = api.orders.get(id).await?.ok_or_else(no_order)?;
            Ok((StatusCode::ACCEPTED, Json(Order::now(&view, Audience::of(caller)))).into_response())
        }
        Applied::Illegal(saga, why) => Err(cannot_cancel(&saga.label, why)),
        Applied::Missing => Err(no_order()),
    }
}

/// It speaks of the order only: a customer reads it.
fn cannot_cancel(label: &str, why: Illegal) -> Problem {
    let why = match why {
        Illegal::PastPivot => "it is already shipped",
        Illegal::Ended if label == order_fulfilment::FULFILLED => "it is already shipped",
        Illegal::Ended => "the order has ended",
        Illegal::UndoneOtherwise => "it is being undone after a failure",
        _ => "that is not possible now",
    };
    Problem::Refused(problem_types::CANNOT_CANCEL, format!("It is {label}: {why}."))
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
            port::Error::OtherEpoch(why) => {
                tracing::warn!(why, "this program ends: its database was restored");
                Problem::Unavailable(
                    "This program is about to be restarted. Sending the same request with the same key again is safe."
                        .to_owned(),
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
            amends_engine::runtime::Error::Contended => Problem::Unavailable(
                "Others change the same saga again and again. Nothing was changed. Try again.".to_owned(),
            ),
            other => {
                tracing::warn!(error = %other, "a request could not be carried out");
                Problem::Unavailable("It cannot be carried out now. Try again.".to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use amends_http::ProblemDetails;

    use super::*;

    #[test]
    fn a_refused_cancellation_speaks_of_the_order_and_of_no_saga() {
        for (label, why, said) in [
            ("FULFILLED", Illegal::Ended, "It is FULFILLED: it is already shipped."),
            ("FULFILLED", Illegal::PastPivot, "It is FULFILLED: it is already shipped."),
            ("CANCELLED", Illegal::Ended, "It is CANCELLED: the order has ended."),
            ("CANCELLING", Illegal::UndoneOtherwise, "It is CANCELLING: it is being undone after a failure."),
            ("PENDING", Illegal::Stale, "It is PENDING: that is not possible now."),
        ] {
            let expected = ProblemDetails::new(problem_types::CANNOT_CANCEL, said);
            assert_eq!(ProblemDetails::from(cannot_cancel(label, why)), expected);
        }
    }
}
