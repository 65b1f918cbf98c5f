//! The ledger as people read it: a product's movements, page by page, the newest first.

use amends_pool::Pool;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};
use sqlx::FromRow;
use utoipa::ToSchema;
use uuid::Uuid;

/// A movement as shown to clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Movement {
    /// Its number in the ledger, which is also the `sequence` of its event.
    #[serde(serialize_with = "as_text")]
    #[sqlx(rename = "move_id")]
    #[schema(value_type = String)]
    pub(crate) id: i64,
    /// `adjusted`, `reserved`, `released`, `taken`, `returned`.
    kind: String,
    quantity: i64,
    /// Who adjusted it.
    #[sqlx(rename = "made_by")]
    #[schema(required)]
    by: Option<String>,
    /// Why, in the operator's words.
    #[schema(required)]
    reason: Option<String>,
    /// The command that moved it.
    #[schema(required)]
    command_id: Option<Uuid>,
    #[serde(serialize_with = "as_instant")]
    #[schema(value_type = String, format = DateTime)]
    at: DateTime<Utc>,
}

fn as_text<S: Serializer>(id: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

fn as_instant<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&at.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// Reads a product's movements before this one, the newest first.
pub(crate) async fn list(
    pool: &Pool,
    product_id: &str,
    before: i64,
    limit: i64,
) -> Result<Vec<Movement>, sqlx::Error> {
    sqlx::query_as(
        "SELECT move_id, kind, quantity, made_by, reason, command_id, at FROM moves
         WHERE product_id = $1 AND move_id < $2 ORDER BY move_id DESC LIMIT $3",
    )
    .bind(product_id)
    .bind(before)
    .bind(limit)
    .fetch_all(pool)
    .await
}
