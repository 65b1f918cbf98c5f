//! Webhooks and deliveries as shown to operators.

use amends_orders::{webhook_deliveries::Delivery, webhooks::Webhook};
use amends_protocol::id::born_at;
use amends_webhooks::SigningSecret;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    http::openapi::schema::{DeliveryStatus, EventType, Instant, WebhookFormat, WebhookSecret, WebhookUrl},
    orders::view::instant,
};

/// A webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Webhook)]
#[serde(rename_all = "camelCase")]
pub struct WebhookView {
    id: Uuid,
    #[schema(value_type = WebhookUrl)]
    url: String,
    #[schema(value_type = Vec<EventType>)]
    types: Vec<String>,
    #[schema(value_type = WebhookFormat)]
    format: String,
    enabled: bool,
    /// Why it was disabled, unless an operator disabled it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    disabled_reason: Option<String>,
    /// Until when the secret before the present one signs too.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime, nullable = false)]
    previous_secret_until: Option<String>,
    #[schema(value_type = Instant)]
    created_at: String,
    #[schema(value_type = Instant)]
    updated_at: String,
}

impl From<&Webhook> for WebhookView {
    fn from(webhook: &Webhook) -> Self {
        Self {
            id: webhook.id,
            url: webhook.url.clone(),
            types: webhook.types.clone(),
            format: webhook.format.clone(),
            enabled: webhook.is_enabled,
            disabled_reason: webhook.disabled_reason.clone(),
            previous_secret_until: webhook.previous_until.map(instant),
            created_at: instant(webhook.created_at),
            updated_at: instant(webhook.updated_at),
        }
    }
}

/// A webhook with its secret, which is shown this once.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebhookWithSecret {
    #[serde(flatten)]
    webhook: WebhookView,
    /// Verifies signatures. It is shown this once.
    #[schema(value_type = WebhookSecret)]
    secret: String,
}

impl WebhookWithSecret {
    /// Shows a webhook with its secret.
    pub fn new(webhook: &Webhook, secret: &SigningSecret) -> Self {
        Self { webhook: webhook.into(), secret: secret.show().to_owned() }
    }
}

/// An event for a webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = WebhookDelivery)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryView {
    id: Uuid,
    /// The header `webhook-id` of every attempt.
    webhook_id: String,
    r#type: String,
    event_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    order_id: Option<Uuid>,
    /// The event's number among those of its order.
    sequence: String,
    #[schema(value_type = DeliveryStatus)]
    status: String,
    attempts: i32,
    /// When the event happened.
    #[schema(value_type = Instant)]
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime, nullable = false)]
    last_attempt_at: Option<String>,
    /// When it is sent next.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime, nullable = false)]
    next_attempt_at: Option<String>,
    /// What the receiver answered to the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    answer: Option<AnswerView>,
    /// Why the last attempt had no answer, or why nothing was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<String>,
}

/// What a receiver answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = WebhookAnswer)]
struct AnswerView {
    status: i16,
    /// The beginning of the body.
    body: String,
}

impl From<&Delivery> for DeliveryView {
    fn from(delivery: &Delivery) -> Self {
        let answer = |status| AnswerView { status, body: delivery.answer.clone().unwrap_or_default() };
        Self {
            id: delivery.id,
            webhook_id: message_id(delivery.id),
            r#type: delivery.event_type.clone(),
            event_id: delivery.event_id.clone(),
            order_id: delivery.order_id,
            sequence: delivery.sequence.to_string(),
            status: delivery.status.clone(),
            attempts: delivery.attempts,
            created_at: instant(born_at(delivery.id)),
            last_attempt_at: delivery.tried_at.map(instant),
            next_attempt_at: delivery.due_at.map(instant),
            answer: delivery.answer_status.map(answer),
            reason: delivery.failure.clone(),
        }
    }
}

/// Returns the id of a delivery's message, by which its receiver knows it: the same at each attempt. It contains no full
/// stop, because that separates it from the time in what is signed.
pub fn message_id(delivery: Uuid) -> String {
    format!("msg_{}", delivery.simple())
}

/// How many deliveries are sent again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = WebhookResent)]
#[serde(rename_all = "camelCase")]
pub struct ResentView {
    /// The number of deliveries that are sent again.
    pub deliveries: usize,
    /// If there are more: the `since` of the next request.
    #[schema(required, format = DateTime)]
    pub next: Option<String>,
}
