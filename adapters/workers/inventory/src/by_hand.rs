//! Changes of stock by hand: set, adjusted or added, by an operator, each a move in the ledger.

use amends_pool::{Connection, Pool};

use crate::stock::append_by_hand;

/// The largest quantity on hand.
pub(crate) const ON_HAND_MOST: i64 = 1_000_000_000_000;

/// What a change does to the quantity on hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It becomes this.
    Set(i64),
    /// It is changed by this; the product must exist.
    Adjust(i64),
    /// It is increased by this.
    Add(i64),
}

/// A change by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ByHand {
    /// The product.
    pub product_id: String,
    /// The change.
    pub change: Change,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// Who made it.
    pub by: Option<String>,
}

/// The result of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Changed {
    /// It is made.
    Done {
        /// Now on hand.
        on_hand: i64,
        /// The reserved part.
        reserved: i64,
        /// Whether inventory had never had the product.
        is_new: bool,
    },
    /// There is no such product.
    UnknownProduct,
    /// Less would be on hand than is reserved.
    BelowReserved {
        /// The reserved quantity.
        reserved: i64,
        /// On hand, as before.
        on_hand: i64,
    },
    /// More would be on hand than can be counted.
    TooMuch {
        /// On hand, as before.
        on_hand: i64,
    },
}

/// Makes a change within a transaction. Unless it is done, the caller rolls back.
pub(crate) async fn make(db: &mut Connection, by_hand: &ByHand) -> Result<Changed, sqlx::Error> {
    let ByHand { product_id, change, reason, by } = by_hand;
    let mut is_new = false;
    if !matches!(change, Change::Adjust(_)) {
        let begun =
            sqlx::query("INSERT INTO stock (product_id, on_hand) VALUES ($1, 0) ON CONFLICT DO NOTHING")
                .bind(product_id)
                .execute(&mut *db)
                .await?;
        is_new = begun.rows_affected() == 1;
    }
    let before: Option<(i64, i64)> =
        sqlx::query_as("SELECT on_hand, reserved FROM stock WHERE product_id = $1 FOR UPDATE")
            .bind(product_id)
            .fetch_optional(&mut *db)
            .await?;
    let Some((before, reserved)) = before else { return Ok(Changed::UnknownProduct) };
    let on_hand = match *change {
        Change::Set(on_hand) => on_hand,
        Change::Adjust(by) | Change::Add(by) => before.saturating_add(by),
    };
    if on_hand < reserved {
        return Ok(Changed::BelowReserved { reserved, on_hand: before });
    }
    if on_hand > ON_HAND_MOST {
        return Ok(Changed::TooMuch { on_hand: before });
    }
    let difference = on_hand - before;
    if difference != 0 {
        sqlx::query("UPDATE stock SET on_hand = $2, adjusted = adjusted + $3 WHERE product_id = $1")
            .bind(product_id)
            .bind(on_hand)
            .bind(difference)
            .execute(&mut *db)
            .await?;
        append_by_hand(db, product_id, difference, reason.as_deref(), by.as_deref()).await?;
    }
    Ok(Changed::Done { on_hand, reserved, is_new })
}

/// Returns whether inventory has ever had a product.
pub(crate) async fn is_known(pool: &Pool, product_id: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM stock WHERE product_id = $1)")
        .bind(product_id)
        .fetch_one(pool)
        .await
}
