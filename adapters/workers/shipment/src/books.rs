//! The built-in carrier's books: tables `carrier_bookings` and `carrier_cancellations`.

use std::collections::HashMap;

use amends_pool::Pool;
use sqlx::FromRow;
use uuid::Uuid;

use crate::carrier::{Booking, Parcel};

const REFUSED: &str = "AQ";
const SILENT: &str = "BV";

/// The answer recorded under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answered {
    Booked(Booking),
    Refused,
    /// `BV`: the carrier never answers.
    Silence,
}

#[derive(Debug, FromRow)]
struct BookingRow {
    key: Uuid,
    tracking_number: Option<String>,
    country: String,
}

impl BookingRow {
    fn answered(self) -> Answered {
        match self.tracking_number {
            Some(tracking_number) => Answered::Booked(Booking { tracking_number }),
            None if self.country == SILENT => Answered::Silence,
            None => Answered::Refused,
        }
    }
}

/// Books many parcels at once, by one statement if all are new; each key once. Returns the answers in the same order.
pub(crate) async fn book(pool: &Pool, mut parcels: Vec<Parcel>) -> Result<Vec<Answered>, sqlx::Error> {
    let asked: Vec<Uuid> = parcels.iter().map(|p| p.key).collect();
    parcels.sort_by_key(|p| p.key);
    parcels.dedup_by_key(|p| p.key);
    let tracking = |p: &Parcel| {
        let goes_there = p.country != REFUSED && p.country != SILENT;
        goes_there.then(|| format!("TRK-{}", Uuid::now_v7().simple()))
    };
    let booked: Vec<BookingRow> = sqlx::query_as(
        "INSERT INTO carrier_bookings (key, tracking_number, country)
         SELECT * FROM UNNEST($1::uuid[], $2::text[], $3::text[]) ON CONFLICT (key) DO NOTHING
         RETURNING key, tracking_number, country",
    )
    .bind(parcels.iter().map(|p| p.key).collect::<Vec<_>>())
    .bind(parcels.iter().map(tracking).collect::<Vec<_>>())
    .bind(parcels.iter().map(|p| p.country.as_str()).collect::<Vec<_>>())
    .fetch_all(pool)
    .await?;
    let mut found: HashMap<Uuid, Answered> =
        booked.into_iter().map(|row| (row.key, row.answered())).collect();
    let known: Vec<Uuid> = parcels.iter().map(|p| p.key).filter(|key| !found.contains_key(key)).collect();
    if !known.is_empty() {
        let rows: Vec<BookingRow> =
            sqlx::query_as("SELECT key, tracking_number, country FROM carrier_bookings WHERE key = ANY($1)")
                .bind(known)
                .fetch_all(pool)
                .await?;
        found.extend(rows.into_iter().map(|row| (row.key, row.answered())));
    }
    Ok(asked.iter().map(|key| found.get(key).cloned().unwrap_or(Answered::Silence)).collect())
}

/// Cancels many bookings at once, in one transaction. A booking is cancelled once; one that was never made needs no
/// cancellation.
pub(crate) async fn cancel(
    pool: &Pool,
    mut cancellations: Vec<(Uuid, Uuid)>,
) -> Result<Vec<()>, sqlx::Error> {
    let answers = vec![(); cancellations.len()];
    cancellations.sort_unstable();
    sqlx::query(
        "INSERT INTO carrier_cancellations (key, booking_key)
         SELECT c.key, b.key FROM UNNEST($1::uuid[], $2::uuid[]) AS c (key, booking)
         JOIN carrier_bookings b ON b.key = c.booking AND b.tracking_number IS NOT NULL
         ON CONFLICT DO NOTHING",
    )
    .bind(cancellations.iter().map(|(key, _)| *key).collect::<Vec<_>>())
    .bind(cancellations.iter().map(|(_, booking)| *booking).collect::<Vec<_>>())
    .execute(pool)
    .await?;
    Ok(answers)
}

/// Returns the answer recorded under a booking's key.
pub(crate) async fn look_up(pool: &Pool, key: Uuid) -> Result<Option<Answered>, sqlx::Error> {
    let row: Option<BookingRow> =
        sqlx::query_as("SELECT key, tracking_number, country FROM carrier_bookings WHERE key = $1")
            .bind(key)
            .fetch_optional(pool)
            .await?;
    Ok(row.map(BookingRow::answered))
}

/// Returns whether a booking was cancelled under this key.
pub(crate) async fn is_cancelled(pool: &Pool, key: Uuid) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM carrier_cancellations WHERE key = $1)")
        .bind(key)
        .fetch_one(pool)
        .await
}
