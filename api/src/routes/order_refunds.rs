//! `POST /api/orders/{id}/refunds`: money back without a return, at once or as it was quoted.

use std::sync::Arc;

use amends_http::{body, problem_types, query};
use amends_orders::{Asked, NewOrderSaga, OrderView};
use amends_protocol::Json as Raw;
use amends_workflows::{order_ledger::RefundOf, order_refund, order_return::BackLine};
use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode},
    middleware::from_fn,
    response::Response,
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::{
    order_read::view_of,
    order_returns::{added, birth, state_for},
    orders::leading_on,
};
use crate::{
    auth::{
        Caller, Right,
        access::{Access, Routes},
    },
    http::{
        etag::IfMatch,
        idempotency,
        openapi::{Answer, Operation, schema::Currency},
    },
    orders::{
        changes::{self, OrderState, QuoteRequest, RefundRequest, Refused},
        view::Order,
    },
    problem::{Fault, Problem},
    state::Api,
};

pub fn routes() -> Routes<Arc<Api>> {
    let (refunds, quotes) = (Access::Needs(Right::RefundOrders), Access::Needs(Right::QuoteRefunds));
    Routes::default()
        .on(
            Method::POST,
            idempotency::REFUNDS,
            refunds,
            refund,
            Operation::new("refundOrder", "Pay money back without a return")
                .about(
                    "Exactly one of `amount`, `lines` and `quote`; `reason` is needed but for a quote. Never more than was \
                     captured and is not refunded yet. A quote is applied only while the order is as it was quoted.",
                )
                .if_match()
                .key_required()
                .body::<RefundRequest>(json!({ "amount": 1, "reason": "it came late" }))
                .exactly_one_of(&[("amount", &["reason"]), ("lines", &["reason"]), ("quote", &[])])
                .answer(leading_on(Answer::json::<Order>(StatusCode::ACCEPTED, "The order as it is now.")))
                .problems(&[problem_types::NOT_REFUNDABLE]),
        )
        .on(
            Method::POST,
            "/api/orders/{id}/refunds/quote",
            quotes,
            quote,
            Operation::new("quoteRefund", "Say what a refund would be, without making it")
                .about("Exactly one of `amount` and `lines`. The `hash` is the `quote` of the refund.")
                .if_match()
                .body::<QuoteRequest>(json!({ "lines": [{ "lineId": "1", "quantity": 1 }] }))
                .exactly_one_of(&[("amount", &[]), ("lines", &[])])
                .answer(
                    Answer::json::<Quoted>(StatusCode::OK, "Cents a line, and a hash.")
                        .link("refundOrder", "id", "$request.path.id"),
                )
                .problems(&[problem_types::NOT_REFUNDABLE]),
        )
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
    if idempotency::key(&headers)?.is_none() {
        return Err(Problem::Invalid(vec![Fault::header("Idempotency-Key", "the header is missing")]));
    }
    let wanted = body::read::<RefundRequest>(&headers, &body)?.wanted(id, &api.engine.key)?;
    let (amount, pieces) = match wanted.of.clone() {
        RefundOf::Amount(amount) => (Some(amount), None),
        RefundOf::Lines(pieces) => (None, Some(pieces)),
    };
    let asked = Asked { amount, pieces, reason: wanted.reason.clone() };
    let path = format!("/api/orders/{id}/refunds");
    let keyed = idempotency::keyed(&headers, &caller, (idempotency::REFUNDS, path.as_str()), &body, asked)?;
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
    let done = api.orders.add_saga(id, keyed.as_ref(), plan).await?;
    added(&api, &caller, id, done, problem_types::NOT_REFUNDABLE).await
}

/// What a refund would be, and the hash by which exactly that is applied.
#[derive(Serialize, ToSchema)]
struct Quoted {
    hash: String,
    amount: i64,
    #[schema(value_type = Currency)]
    currency: String,
    /// What is left of what was captured, before this refund.
    remaining: i64,
    lines: Vec<QuotedLine>,
}

/// What a refund would pay for pieces of a line.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct QuotedLine {
    line_id: String,
    product_id: String,
    quantity: i64,
    amount: i64,
}

impl From<BackLine> for QuotedLine {
    fn from(BackLine { line_id, product_id, quantity, amount }: BackLine) -> Self {
        Self { line_id, product_id, quantity, amount }
    }
}

async fn quote(
    State(api): State<Arc<Api>>,
    caller: Caller,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<Quoted>, Problem> {
    let (id, condition) = (body::id("id", &id)?, IfMatch::read(&headers)?);
    let request: QuoteRequest = body::read(&headers, &body)?;
    let view = view_of(&api.orders, &caller, id).await?;
    state_for(condition.as_ref(), &view, &caller)?;
    let quote = request.quoted(id, OrderState::of(&view))?;
    let ledger = view.ledger();
    let refused = |refusal| changes::problem(Refused::Ledger(refusal), problem_types::NOT_REFUNDABLE);
    let planned = ledger.plan_refund(&quote.of()).map_err(refused)?;
    Ok(Json(Quoted {
        hash: quote.hash(&api.engine.key),
        amount: planned.amount,
        currency: planned.currency,
        remaining: ledger.remaining(),
        lines: planned.lines.into_iter().map(QuotedLine::from).collect(),
    }))
}
