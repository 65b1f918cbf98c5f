//! `POST /api/orders/{id}/refunds`: money back without a return, at once or as it was quoted.

use std::sync::Arc;

use amends_http::{body, query};
use amends_orders::{NewOrderSaga, OrderView};
use amends_protocol::Json as Raw;
use amends_workflows::{order_refund, order_return::BackLine};
use axum::response::Response;
use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, Method},
    middleware::from_fn,
};
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{
    order_read::view_of,
    order_returns::{added, birth, state_for},
};
use crate::{
    auth::{
        Caller, Right,
        access::{Access, Routes},
    },
    http::{etag::IfMatch, idempotency},
    orders::changes::{self, OrderState, RefundRequest, Refused},
    problem::{Fault, Problem},
    state::Api,
};

const NOT_REFUNDABLE: (&str, &str) = ("not-refundable", "This cannot be refunded");

pub fn routes() -> Routes<Arc<Api>> {
    let (refunds, quotes) = (Access::Needs(Right::RefundOrders), Access::Needs(Right::QuoteRefunds));
    Routes::default()
        .on(Method::POST, "/api/orders/{id}/refunds", refunds, refund)
        .on(Method::POST, "/api/orders/{id}/refunds/quote", quotes, quote)
        .each(|routes| routes.route_layer(from_fn(query::none)))
}

async fn refund(
    State(api): State<Arc<Api>>,
    caller: Caller,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Problem> {
    let (id, condition) = (body::id("id", &id)?, IfMatch::read(&headers)?);
    let path = format!("/api/orders/{id}/refunds");
    let Some(digest) = idempotency::digest_of(&headers, &caller, &Method::POST, &path)? else {
        return Err(Problem::Invalid(vec![Fault::header("Idempotency-Key", "the header is missing")]));
    };
    let wanted = body::read::<RefundRequest>(&headers, &body)?.wanted(id, &api.engine.key)?;
    let seen = view_of(&api.orders, &caller, id).await?;
    let state = state_for(condition.as_ref(), &seen, &caller)?;
    let plan = |order: &OrderView, now: DateTime<Utc>| {
        let now_is = OrderState::of(order);
        if [state, wanted.quoted_at].into_iter().flatten().any(|state| state != now_is) {
            return Err(Refused::Moved);
        }
        let input = order.ledger().plan_refund(&wanted.of).map_err(Refused::Ledger)?;
        let (amount, lines) = (input.amount, Raw::of(&input.lines).unwrap_or_default());
        let definition = api.engine.born_in(order_refund::NAME).ok_or(Refused::NoWorkflow)?;
        let change = birth(&api, definition, id, &input, now);
        Ok(NewOrderSaga { change, carries_status: false, amount, lines, reason: wanted.reason.clone() })
    };
    added(&api, &caller, id, api.orders.add_saga(id, Some(digest), plan).await?, NOT_REFUNDABLE).await
}

/// What a refund would be, and the hash by which exactly that is applied.
#[derive(Serialize)]
struct Quoted {
    hash: String,
    amount: i64,
    currency: String,
    /// What is left of what was captured, before this refund.
    remaining: i64,
    lines: Vec<BackLine>,
}

async fn quote(
    State(api): State<Arc<Api>>,
    caller: Caller,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<Quoted>, Problem> {
    let id = body::id("id", &id)?;
    let request: RefundRequest = body::read(&headers, &body)?;
    let view = view_of(&api.orders, &caller, id).await?;
    let quote = request.quoted(id, OrderState::of(&view))?;
    let ledger = view.ledger();
    let (slug, title) = NOT_REFUNDABLE;
    let refused = |refusal| changes::problem(Refused::Ledger(refusal), slug, title);
    let planned = ledger.plan_refund(&quote.of()).map_err(refused)?;
    Ok(Json(Quoted {
        hash: quote.hash(&api.engine.key),
        amount: planned.amount,
        currency: planned.currency,
        remaining: ledger.remaining(),
        lines: planned.lines,
    }))
}
