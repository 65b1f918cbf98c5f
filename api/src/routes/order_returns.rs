//! `POST /api/orders/{id}/return`, and the decision about it.

use std::sync::Arc;

use amends_engine::{
    core::{Actor, Definition, Event, NewSaga, Signal, start_by},
    port::Inputs,
    runtime::apply::{Applied, apply, apply_at},
};
use amends_http::{ProblemDetails, ProblemType, body, problem_types, query};
use amends_orders::{Added, Asked, NewOrderSaga, OrderView};
use amends_protocol::{Json as Raw, id, trace};
use amends_workflows::{
    order_ledger::Standing,
    order_return::{self, DECISION, Decision},
};
use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode},
    middleware::from_fn,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::{
    order_read::view_of,
    orders::{leading_on, no_order},
};
use crate::{
    auth::{
        Caller, Right,
        access::{self, Access, Routes},
    },
    http::{
        etag::{self, IfMatch, Representation},
        idempotency,
        openapi::{Answer, Operation},
    },
    orders::{
        changes::{self, DecisionRequest, OrderState, Refused, ReturnRequest},
        view::{Audience, Order},
    },
    problem::Problem,
    state::Api,
};

/// The route by which a return is asked for.
const RETURN: &str = "/api/orders/{id}/return";

pub fn routes() -> Routes<Arc<Api>> {
    let (returns, decides) = (Access::Needs(Right::ReturnOrders), Access::Needs(Right::DecideReturns));
    Routes::default()
        .on(
            Method::POST,
            RETURN,
            returns,
            ask,
            Operation::new("returnOrder", "Ask to return an order, or some of its pieces")
                .about("Without `lines`, all that is left. The order is `RETURN_REQUESTED` until an operator decides.")
                .if_match()
                .body::<ReturnRequest>(
                    json!({ "reason": "damaged", "lines": [{ "lineId": "1", "quantity": 1 }] }),
                )
                .answer(leading_on(Answer::json::<Order>(StatusCode::ACCEPTED, "The order as it is now.")))
                .problems(&[problem_types::NOT_RETURNABLE]),
        )
        .on(
            Method::PUT,
            "/api/orders/{id}/return/approve",
            decides,
            approve,
            describe_decision("approveReturn", "Approve the return that waits for a decision").answer(leading_on(
                Answer::json::<Order>(StatusCode::ACCEPTED, "The order as it is now: it is refunded, then restocked."),
            )),
        )
        .on(
            Method::PUT,
            "/api/orders/{id}/return/reject",
            decides,
            reject,
            describe_decision("rejectReturn", "Reject the return that waits for a decision")
                .answer(leading_on(Answer::json::<Order>(StatusCode::OK, "The order as it is now."))),
        )
        .each(|routes| routes.route_layer(from_fn(query::none)))
}

fn describe_decision(id: &'static str, summary: &'static str) -> Operation {
    Operation::new(id, summary)
        .about("The first decision counts; the same one again changes nothing. The reason may be left out.")
        .if_match()
        .optional_body::<DecisionRequest>(json!({ "reason": "as agreed by phone" }))
        .problems(&[problem_types::NO_RETURN_TO_DECIDE])
}

async fn ask(
    State(api): State<Arc<Api>>,
    caller: Caller,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Problem> {
    let (id, condition) = (body::id("id", &id)?, IfMatch::read(&headers)?);
    let request: ReturnRequest = body::read(&headers, &body)?;
    let seen = view_of(&api.orders, &caller, id).await?;
    if !caller.returns_orders_of(&seen.order.customer_id) {
        return Err(access::forbidden());
    }
    let state = state_for(condition.as_ref(), &seen, &caller)?;
    let pieces = request.pieces();
    let plan = |order: &OrderView, now: DateTime<Utc>| {
        if state.is_some_and(|state| state != OrderState::of(order)) {
            return Err(Refused::Moved);
        }
        let input = order.ledger().plan_return(pieces.as_deref(), now).map_err(Refused::Ledger)?;
        let (amount, lines) = (input.amount, Raw::of(&input.lines).unwrap_or_default());
        let definition = api.engine.born_in(order_return::NAME).ok_or(Refused::NoWorkflow)?;
        let change = birth(&api, definition, id, &input, now);
        Ok(NewOrderSaga { change, carries_status: true, amount, lines, reason: request.reason.clone() })
    };
    let asked = Asked { amount: None, pieces: pieces.clone(), reason: request.reason.clone() };
    let path = format!("/api/orders/{id}/return");
    let keyed = idempotency::keyed(&headers, &caller, (RETURN, path.as_str()), &body, asked)?;
    let done = api.orders.add_saga(id, keyed.as_ref(), plan).await?;
    added(&api, &caller, id, done, problem_types::NOT_RETURNABLE).await
}

/// Returns the state for which a request with `If-Match` is meant.
///
/// # Errors
/// 412.
pub(super) fn state_for(
    condition: Option<&IfMatch>,
    seen: &OrderView,
    caller: &Caller,
) -> Result<Option<OrderState>, Problem> {
    let Some(condition) = condition else { return Ok(None) };
    condition.check(&Representation::of(&Order::now(seen, Audience::of(caller)))?.tag)?;
    Ok(Some(OrderState::of(seen)))
}

/// Creates the birth of a further saga of an order, which has the order's slot.
pub(super) fn birth(
    api: &Api,
    definition: &Definition,
    order: Uuid,
    input: &impl Serialize,
    now: DateTime<Utc>,
) -> amends_engine::core::Change {
    let saga = id::dated(id::at_slot(Uuid::now_v7(), id::slot(order)), now);
    let new = NewSaga { id: saga, business_key: order.to_string(), trace: trace::current() };
    let input = Raw::of(input).unwrap_or_default();
    start_by(api.engine.fleet.core_version(), definition, new, &input, now)
}

/// Sends the first commands of a saga that was added, and answers with the order as it is now.
pub(super) async fn added(
    api: &Api,
    caller: &Caller,
    order: Uuid,
    added: Added<Refused>,
    kind: &'static ProblemType,
) -> Result<Response, Problem> {
    match added {
        Added::Done(change) => {
            if let Event::Started(data) = change.entry.occurrence.event.clone() {
                let (saga, trace) = (change.saga.id, change.saga.trace().trace_id_hex());
                let inputs = Inputs { saga_id: saga, data, personal: None };
                if let Err(error) = api.engine.send(vec![(change.saga, change.sends, inputs)]).await {
                    tracing::warn!(%order, %saga, trace, %error, "commands are committed but could not be sent; they are sent when due");
                }
            }
        }
        Added::Known => {
            let mut response = as_it_is(api, caller, order, StatusCode::ACCEPTED).await?;
            idempotency::mark_replayed(&mut response);
            return Ok(response);
        }
        Added::KeyReused => return Err(Problem::KeyReused),
        Added::Refused(refused) => return Err(changes::problem(refused, kind)),
        Added::NoOrder => return Err(no_order()),
    }
    as_it_is(api, caller, order, StatusCode::ACCEPTED).await
}

async fn as_it_is(api: &Api, caller: &Caller, order: Uuid, status: StatusCode) -> Result<Response, Problem> {
    let view = api.orders.get(order).await?.ok_or_else(no_order)?;
    Ok((status, Json(Order::now(&view, Audience::of(caller)))).into_response())
}

async fn approve(
    State(api): State<Arc<Api>>,
    caller: Caller,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Problem> {
    decide(&api, &caller, &headers, &id, &body, Decision { approved: true }).await
}

async fn reject(
    State(api): State<Arc<Api>>,
    caller: Caller,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Problem> {
    decide(&api, &caller, &headers, &id, &body, Decision { approved: false }).await
}

/// Delivers the decision about the order's newest return. Sent again, it changes nothing; the first one counts.
async fn decide(
    api: &Api,
    caller: &Caller,
    headers: &HeaderMap,
    id: &str,
    body: &Bytes,
    decision: Decision,
) -> Result<Response, Problem> {
    let (id, condition) = (body::id("id", id)?, IfMatch::read(headers)?);
    let DecisionRequest { reason } =
        if body.is_empty() { DecisionRequest::default() } else { body::read(headers, body)? };
    let view = view_of(&api.orders, caller, id).await?;
    state_for(condition.as_ref(), &view, caller)?;
    let mut sagas = view.sagas.iter().flatten().rev();
    let Some(newest) = sagas.find(|saga| saga.workflow == order_return::NAME) else {
        return Err(undecidable("It has no return."));
    };
    let payload = Raw::of(&decision).unwrap_or_default();
    let by = Actor::new(caller.subject(), reason.unwrap_or_default());
    let event = Event::Signalled(Signal { name: DECISION.to_owned(), payload, by });
    let applied = match condition {
        None => apply(&api.engine, newest.saga_id, event).await?,
        Some(_) => {
            let revision = u32::try_from(newest.revision.unwrap_or_default()).unwrap_or_default();
            let applied = apply_at(&api.engine, newest.saga_id, revision, event).await?;
            applied.ok_or_else(etag::precondition_failed)?
        }
    };
    match applied {
        Applied::Done(_) => {
            let status = if decision.approved { StatusCode::ACCEPTED } else { StatusCode::OK };
            as_it_is(api, caller, id, status).await
        }
        Applied::Illegal(saga, _) => Err(undecidable(match Standing::of(&saga.step, saga.outcome) {
            Standing::Rejected => "Its return was rejected.",
            _ => "Its return was approved.",
        })),
        Applied::Missing => Err(undecidable("Its return is past its retention.")),
    }
}

fn undecidable(detail: &str) -> Problem {
    ProblemDetails::new(problem_types::NO_RETURN_TO_DECIDE, detail).into()
}
