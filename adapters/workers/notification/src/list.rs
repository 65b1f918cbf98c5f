//! Notifications as people read them: one, or page by page, the newest order first, and of an order the newest message.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize, Serializer};
use sqlx::FromRow;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::store::NotificationStore;

/// The statuses that a notification can have.
pub const STATUSES: [&str; 4] = ["QUEUED", "SENT", "FAILED", "SKIPPED"];
/// Number of notifications that a page reads at most when it looks for those with a status: a rare one needs several
/// pages, some of them empty.
const STATUS_SCAN: i64 = 1_000;

/// A notification as shown to clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, FromRow, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Notification {
    /// The same as in the message's `Message-ID`.
    pub id: Uuid,
    /// The order that it is about.
    pub order_id: Uuid,
    /// The type of the event that it is about: `order.fulfilled`.
    #[sqlx(rename = "event_type")]
    pub r#type: String,
    /// `email` or `sms`.
    pub channel: String,
    /// `QUEUED`: it is to be sent; `SENT`: the server has taken it; `FAILED`: it was refused, or could not be sent for a
    /// day; `SKIPPED`: it is not to be sent.
    pub status: String,
    /// Number of attempts to send it.
    pub attempts: i32,
    /// Why it was not sent, or not yet, in a word for programs: `no_contact`, `erased`, `not_configured`, `smtp_550`.
    #[schema(required)]
    pub reason: Option<String>,
    /// Where it went, masked.
    #[schema(required)]
    pub address: Option<String>,
    /// When it was recorded.
    #[serde(serialize_with = "as_instant")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: DateTime<Utc>,
    /// When the server took it.
    #[serde(serialize_with = "as_optional_instant")]
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub sent_at: Option<DateTime<Utc>>,
    /// For operators, in `dev`: what would be sent.
    #[sqlx(json(nullable))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub preview: Option<MessageText>,
}

/// The text of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MessageText {
    /// The subject of an e-mail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub subject: Option<String>,
    /// The plain text.
    pub text: String,
    /// The same as HTML, of an e-mail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub html: Option<String>,
}

fn as_instant<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&at.to_rfc3339_opts(SecondsFormat::Millis, true))
}

fn as_optional_instant<S: Serializer>(at: &Option<DateTime<Utc>>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => as_instant(at, serializer),
        None => serializer.serialize_none(),
    }
}

/// What a list's request asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Only of these orders; `None`: of all.
    pub orders: Option<Vec<Uuid>>,
    /// Only with one of these statuses; empty: with any.
    pub statuses: Vec<String>,
    /// Only behind this one: its order and its id.
    pub after: Option<(Uuid, Uuid)>,
    /// Maximum number of notifications.
    pub limit: i64,
}

/// A page. One with a `next` may have fewer notifications than its limit, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    pub items: Vec<Notification>,
    pub next: Option<(Uuid, Uuid)>,
}

impl NotificationStore {
    /// Reads one; `None`: there is none.
    pub(crate) async fn read(&self, id: Uuid) -> Result<Option<Notification>, sqlx::Error> {
        sqlx::query_as(
            "SELECT id, order_id, event_type, channel, status, attempts, reason, address, created_at, sent_at,
                    preview::json AS preview
             FROM notifications WHERE id = $1",
        )
        .bind(id)
        .fetch_optional(&self.pool)
        .await
    }

    /// Reads a page, without previews.
    pub(crate) async fn list(&self, filter: &Filter) -> Result<Page, sqlx::Error> {
        let scan = if filter.statuses.is_empty() { filter.limit } else { STATUS_SCAN };
        let (order, id) = filter.after.unwrap_or((Uuid::max(), Uuid::max()));
        let seen: Vec<Notification> = sqlx::query_as(
            "SELECT id, order_id, event_type, channel, status, attempts, reason, address, created_at, sent_at,
                    NULL::json AS preview
             FROM notifications
             WHERE ($1::uuid[] IS NULL OR order_id = ANY($1)) AND (order_id, id) < ($2, $3)
             ORDER BY order_id DESC, id DESC LIMIT $4",
        )
        .bind(filter.orders.as_deref())
        .bind(order)
        .bind(id)
        // One row more than is looked at is read: it shows whether there are more.
        .bind(scan + 1)
        .fetch_all(&self.pool)
        .await?;
        Ok(page(seen, scan, filter))
    }
}

/// Returns the page of the notifications that were read: those that are wanted, as many as fit, and where the next begins.
fn page(mut seen: Vec<Notification>, scan: i64, filter: &Filter) -> Page {
    let count = |number: i64| usize::try_from(number).unwrap_or_default();
    let is_end = seen.len() <= count(scan);
    seen.truncate(count(scan));
    let place = |last: &Notification| (last.order_id, last.id);
    let scanned = seen.last().map(place);
    let is_wanted = |n: &Notification| filter.statuses.is_empty() || filter.statuses.contains(&n.status);
    let mut items: Vec<Notification> = seen.into_iter().filter(is_wanted).collect();
    let is_full = items.len() > count(filter.limit);
    items.truncate(count(filter.limit));
    let next = match (is_full, is_end) {
        (true, _) => items.last().map(place),
        (false, true) => None,
        (false, false) => scanned,
    };
    Page { items, next }
}
