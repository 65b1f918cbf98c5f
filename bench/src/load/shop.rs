//! What is ordered.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use amends_api::orders::request;
use amends_protocol::Json;
use amends_workflows::order_fulfilment::{FULFILLED, PAYMENT_FAILED, SHIPMENT_FAILED};
use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde_json::json;

use crate::args::Mix;

/// How many products there are.
pub const PRODUCTS: usize = 1_000;
/// How many customers there are.
const CUSTOMERS: usize = 10_000;
/// How many different orders of a kind are prepared.
const VARIANTS: usize = 256;

/// What becomes of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Fulfilled,
    /// The card is declined.
    Declined,
    /// The carrier refuses.
    Refused,
    /// Cancelled as soon as it is placed.
    Cancelled,
    /// The answer to the payment never comes.
    LostReply,
}

impl Kind {
    /// Its label at its end, unless that is decided by the answer to a cancellation.
    pub fn label(self) -> Option<&'static str> {
        match self {
            Kind::Fulfilled | Kind::LostReply => Some(FULFILLED),
            Kind::Declined => Some(PAYMENT_FAILED),
            Kind::Refused => Some(SHIPMENT_FAILED),
            Kind::Cancelled => None,
        }
    }

    fn payment(self) -> &'static str {
        match self {
            Kind::Declined => "card_declined",
            Kind::LostReply => "card_lost_reply",
            _ => "card_approved",
        }
    }

    fn country(self) -> &'static str {
        if self == Kind::Refused { "AQ" } else { "AT" }
    }
}

/// An order, ready to be placed over HTTP or into the store.
#[derive(Debug)]
pub struct Basket {
    pub kind: Kind,
    pub customer: String,
    pub body: Bytes,
    pub request: request::NewOrder,
    pub lines: Json,
    pub data: Json,
    pub personal: Json,
}

/// The order of a mix.
pub fn kind(mix: Mix, n: usize) -> Kind {
    match mix {
        Mix::Undone10 if n % 10 == 9 => [Kind::Declined, Kind::Refused, Kind::Cancelled][n / 10 % 3],
        Mix::Timeouts1 if n % 100 == 99 => Kind::LostReply,
        _ => Kind::Fulfilled,
    }
}

/// A product's id.
pub fn product(n: usize) -> String {
    format!("product-{n:04}")
}

/// Prepared orders of a mix.
#[derive(Clone)]
pub struct Shop {
    mix: Mix,
    baskets: Arc<Vec<(Kind, Vec<Arc<Basket>>)>>,
    count: Arc<AtomicUsize>,
}

impl Shop {
    /// Orders with so many lines each.
    pub fn new(mix: Mix, lines: usize) -> Self {
        // The same orders in every run.
        let mut random = SmallRng::seed_from_u64(1987);
        let kinds = [Kind::Fulfilled, Kind::Declined, Kind::Refused, Kind::Cancelled, Kind::LostReply];
        let mut variants = |kind| (0..VARIANTS).map(|_| Arc::new(basket(kind, lines, &mut random))).collect();
        let baskets = kinds.into_iter().map(|kind| (kind, variants(kind))).collect();
        Self { mix, baskets: Arc::new(baskets), count: Arc::default() }
    }

    /// The next order.
    pub fn next(&self) -> Arc<Basket> {
        let n = self.count.fetch_add(1, Ordering::Relaxed);
        let kind = kind(self.mix, n);
        let (_, variants) = self.baskets.iter().find(|(k, _)| *k == kind).expect("every kind is prepared");
        Arc::clone(&variants[n % VARIANTS])
    }
}

fn basket(kind: Kind, lines: usize, random: &mut SmallRng) -> Basket {
    let customer = format!("c-{}", random.random_range(0..CUSTOMERS));
    let line = |_| {
        json!({ "productId": product(random.random_range(0..PRODUCTS)), "quantity": random.random_range(1..=3),
                "unitPrice": random.random_range(100..=5_000) })
    };
    let body = json!({
        "customerId": customer,
        "currency": "EUR",
        "lines": (0..lines.max(1)).map(line).collect::<Vec<_>>(),
        "payment": { "method": kind.payment() },
        "shippingAddress": { "name": "Test Customer", "line1": "1 Long Street", "city": "Vienna",
                             "postalCode": "1010", "country": kind.country() },
    });
    let body = Bytes::from(body.to_string());
    let request: request::NewOrder = serde_json::from_slice(&body).expect("it is an order");
    let (lines, data, personal) = (request.lines_json(), request.input(), request.personal());
    Basket { kind, customer, body, request, lines, data, personal }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_ten_is_undone_in_three_ways_and_one_in_a_hundred_lost() {
        let count = |mix, of: Kind| (0..3_000).filter(|n| kind(mix, *n) == of).count();
        assert_eq!(count(Mix::Fulfilled, Kind::Fulfilled), 3_000);
        let undone = [Kind::Declined, Kind::Refused, Kind::Cancelled].map(|k| count(Mix::Undone10, k));
        assert_eq!(undone, [100; 3]);
        assert_eq!(count(Mix::Timeouts1, Kind::LostReply), 30);
    }
}
