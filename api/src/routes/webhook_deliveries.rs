//! `/api/webhooks/{id}/deliveries`: what was sent to a webhook, and sending it again.

use std::{sync::Arc, time::Duration};

use amends_http::{Fault, body, query, query::Parameter};
use amends_orders::webhook_deliveries::{DELIVERIES_AT_ONCE, Delivery, DeliveryStatus, NewDelivery};
use amends_protocol::id::born_at;
use axum::{
    Json,
    body::Bytes,
    extract::{OriginalUri, Path, State},
    http::{HeaderMap, Method, StatusCode},
    middleware::from_fn,
    response::{IntoResponse, Response},
};
use chrono::Utc;
use serde_json::{Value, json};
use tokio::time::Instant;
use utoipa::PartialSchema;
use uuid::Uuid;

use super::webhooks::{found, found_as_seen, webhook_id};
use crate::{
    auth::{
        Caller, Right,
        access::{Access, Routes},
    },
    http::{
        etag::IfMatch,
        openapi::{Answer, Operation, schema},
        page::{CURSOR, LARGEST_PAGE, LIMIT, PAGE_USUAL, PageRequest},
    },
    orders::view::instant,
    problem::Problem,
    state::Api,
    webhooks::{
        fan_out::delivery_id,
        request::WebhookResendRequest,
        types::TEST_EVENT,
        view::{DeliveryView, ResentView},
    },
};

const LIST: &str = "/api/webhooks/{id}/deliveries";
const STATUS: &str = "status";
const PARAMETERS: [Parameter; 3] = [Parameter::Any(STATUS), Parameter::Once(LIMIT), Parameter::Once(CURSOR)];
/// How long a request may send deliveries again; the rest is left to the next request.
const RESEND_MOST: Duration = Duration::from_secs(3);

pub fn routes() -> Routes<Arc<Api>> {
    let (reads, manages) = (Access::Needs(Right::ReadWebhooks), Access::Needs(Right::ManageWebhooks));
    Routes::default()
        .on(
            Method::POST,
            "/api/webhooks/{id}/deliveries/{deliveryId}/resend",
            manages,
            resend,
            Operation::new("resendWebhookDelivery", "Send a delivery again")
                .about("Whatever has become of it. It has the same `webhook-id`. `If-Match` is for the webhook's tag.")
                .if_match()
                .answer(Answer::json::<DeliveryView>(StatusCode::ACCEPTED, "The delivery as it is now.")),
        )
        .on(
            Method::POST,
            "/api/webhooks/{id}/resend",
            manages,
            resend_since,
            Operation::new("resendWebhookDeliveries", "Send the deliveries of a time again")
                .about(
                    "Every delivery of an event from this time on, whatever has become of it: those that were taken are \
                     known by their `webhook-id`. If there are too many for one request, `next` is the `since` of the \
                     next one. `If-Match` is for the webhook's tag.",
                )
                .if_match()
                .body::<WebhookResendRequest>(json!({ "since": "2026-01-01T00:00:00Z" }))
                .answer(Answer::json::<ResentView>(StatusCode::ACCEPTED, "How many are sent again.")),
        )
        .on(
            Method::POST,
            "/api/webhooks/{id}/test",
            manages,
            test,
            Operation::new("testWebhook", "Send a test event to a webhook")
                .about(
                    "An event of type `webhook.test`, whatever the webhook's types are. Nothing is sent while it is \
                     disabled. `If-Match` is for the webhook's tag.",
                )
                .if_match()
                .answer(Answer::json::<DeliveryView>(StatusCode::ACCEPTED, "The delivery of the event.")),
        )
        .each(|routes| routes.route_layer(from_fn(query::none)))
        .on(
            Method::GET,
            LIST,
            reads,
            list,
            Operation::new("listWebhookDeliveries", "List the deliveries of a webhook, page by page")
                .about("The newest first. They are kept for 30 days.")
                .query(
                    STATUS,
                    "Only deliveries with one of these statuses.",
                    schema::several(schema::DeliveryStatus::schema()),
                    json!(["PENDING"]),
                )
                .query(LIMIT, "Largest number of deliveries.", schema::limit(PAGE_USUAL, LARGEST_PAGE), 50)
                .query(CURSOR, "`next` of the page before.", schema::string(), Value::Null)
                .answer(Answer::page::<DeliveryView>()),
        )
}

async fn list(
    State(api): State<Arc<Api>>,
    caller: Caller,
    OriginalUri(uri): OriginalUri,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = webhook_id(&id)?;
    let query = query::read(&uri, &PARAMETERS)?;
    let path = format!("/api/webhooks/{id}/deliveries");
    let page = PageRequest::<Uuid>::read(&caller, &api.engine.key, &path, query)?;
    let statuses = statuses(page.of_list())?;
    found(&api, id).await?;
    let found = api.webhooks.deliveries.list(id, &statuses, page.after, page.limit).await?;
    let items: Vec<DeliveryView> = found.items.iter().map(DeliveryView::from).collect();
    Ok(page.answer(&api.engine.key, items, found.next.as_ref()))
}

/// Reads the statuses of a list; without any, all of them.
fn statuses(query: &[(&'static str, String)]) -> Result<Vec<DeliveryStatus>, Problem> {
    let status = |(name, value): &(&'static str, String)| {
        let known = DeliveryStatus::ALL.into_iter().find(|status| status.as_str() == value);
        known.ok_or_else(|| {
            let names = DeliveryStatus::ALL.map(DeliveryStatus::as_str).join(", ");
            Problem::Invalid(vec![Fault::parameter(name, format!("must be one of {names}"))])
        })
    };
    let mut statuses: Vec<DeliveryStatus> = query.iter().map(status).collect::<Result<_, _>>()?;
    statuses.sort_by_key(|status| status.as_str());
    statuses.dedup();
    Ok(if statuses.is_empty() { DeliveryStatus::ALL.into() } else { statuses })
}

async fn resend(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Path((id, delivery)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let (id, delivery) = (webhook_id(&id)?, body::id("deliveryId", &delivery)?);
    found_as_seen(&api, id, IfMatch::read(&headers)?.as_ref()).await?;
    let sent = api.webhooks.deliveries.resend(id, delivery).await?;
    let sent = sent.ok_or_else(|| Problem::NotFound("There is no such delivery.".to_owned()))?;
    Ok(accepted(&sent))
}

async fn resend_since(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Problem> {
    let (id, condition) = (webhook_id(&id)?, IfMatch::read(&headers)?);
    let request: WebhookResendRequest = body::read(&headers, &body)?;
    found_as_seen(&api, id, condition.as_ref()).await?;
    let millis = u64::try_from(request.since().timestamp_millis()).unwrap_or_default();
    let mut from = Uuid::from_u128(u128::from(millis) << 80);
    let (mut deliveries, began) = (0, Instant::now());
    let limit = i64::try_from(DELIVERIES_AT_ONCE).unwrap_or(i64::MAX);
    let next = loop {
        let sent = api.webhooks.deliveries.resend_from(id, from, limit).await?;
        deliveries += sent.len();
        let Some(last) = sent.last().filter(|_| sent.len() == DELIVERIES_AT_ONCE) else { break None };
        from = Uuid::from_u128(last.as_u128() + 1);
        if began.elapsed() >= RESEND_MOST {
            break Some(instant(born_at(from)));
        }
    };
    Ok((StatusCode::ACCEPTED, Json(ResentView { deliveries, next })).into_response())
}

async fn test(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = webhook_id(&id)?;
    found_as_seen(&api, id, IfMatch::read(&headers)?.as_ref()).await?;
    let (at, event_id) = (Utc::now(), Uuid::now_v7());
    let event = json!({
        "specversion": "1.0", "id": event_id, "source": "/amends/webhooks", "type": TEST_EVENT, "subject": id,
        "time": instant(at), "datacontenttype": "application/json", "sequence": "0",
        "data": { "webhookId": id },
    });
    let delivery = NewDelivery {
        id: delivery_id(at, 0),
        webhook_id: id,
        order_id: None,
        sequence: 0,
        event_type: TEST_EVENT.to_owned(),
        event_id: event_id.to_string(),
        event: event.to_string(),
    };
    api.webhooks.deliveries.plan(std::slice::from_ref(&delivery)).await?;
    let planned = api.webhooks.deliveries.get(id, delivery.id).await?;
    let planned = planned.ok_or_else(|| Problem::NotFound("There is no such webhook.".to_owned()))?;
    Ok(accepted(&planned))
}

fn accepted(delivery: &Delivery) -> Response {
    (StatusCode::ACCEPTED, Json(DeliveryView::from(delivery))).into_response()
}
