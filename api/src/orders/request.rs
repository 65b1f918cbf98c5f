//! Requests for orders. Everything is validated here, at the edge.

use amends_protocol::Json;
use amends_workflows::order_fulfilment::{Line, OrderInput, Personal};
use garde::Validate;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// `POST /api/orders`.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewOrder {
    /// The customer: only a storefront may act for its customers.
    #[garde(custom(identifier))]
    pub customer_id: String,
    /// ISO 4217, upper case.
    #[garde(custom(currency_code))]
    pub currency: String,
    /// The lines of the order.
    #[garde(length(min = 1, max = 100), dive, custom(total_fits))]
    pub lines: Vec<NewLine>,
    /// The payment.
    #[garde(dive)]
    pub payment: Payment,
    /// The shipping address.
    #[garde(dive)]
    pub shipping_address: Address,
}

/// A line of an order.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewLine {
    /// The product.
    #[garde(custom(identifier))]
    pub product_id: String,
    /// Number of units.
    #[garde(range(min = 1, max = 1_000_000))]
    pub quantity: i64,
    /// Price of one unit, in minor units of the order's currency.
    #[garde(range(min = 0))]
    pub unit_price: i64,
}

/// The payment of an order.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Payment {
    /// A method that the gateway knows; any other is declined.
    #[garde(custom(text))]
    pub method: String,
}

/// The shipping address of an order. Personal: stored in one table, and sent in the `ship` command.
#[derive(Clone, Serialize, Deserialize, Validate)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Address {
    #[garde(custom(text))]
    pub name: String,
    #[garde(custom(text))]
    pub line1: String,
    #[garde(inner(custom(text)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line2: Option<String>,
    #[garde(custom(text))]
    pub city: String,
    #[garde(inner(custom(text)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    #[garde(custom(text))]
    pub postal_code: String,
    /// ISO 3166-1 alpha-2.
    #[garde(custom(country_code))]
    pub country: String,
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Address(hidden)")
    }
}

fn identifier(text: &str, (): &()) -> garde::Result {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match text.chars().count() {
        1..=64 if text.chars().all(fits) => Ok(()),
        _ => Err(garde::Error::new("must be 1-64 of A-Z a-z 0-9 . _ -")),
    }
}

/// Validates text that people write.
pub fn text(text: &str, (): &()) -> garde::Result {
    amends_http::text::check(text).map_err(garde::Error::new)
}

fn currency_code(code: &str, (): &()) -> garde::Result {
    let upper = code.len() == 3 && code.bytes().all(|b| b.is_ascii_uppercase());
    match iso_currency::Currency::from_code(code) {
        Some(_) if upper => Ok(()),
        _ => Err(garde::Error::new("must be an ISO 4217 code in upper case")),
    }
}

fn country_code(code: &str, (): &()) -> garde::Result {
    let upper = code.len() == 2 && code.bytes().all(|b| b.is_ascii_uppercase());
    match rust_iso3166::from_alpha2(code) {
        Some(_) if upper => Ok(()),
        _ => Err(garde::Error::new("must be an ISO 3166-1 alpha-2 code in upper case")),
    }
}

fn total(lines: &[NewLine]) -> Option<i64> {
    lines.iter().try_fold(0_i64, |sum, line| sum.checked_add(line.unit_price.checked_mul(line.quantity)?))
}

#[allow(clippy::ptr_arg, reason = "garde passes the field as it is")]
fn total_fits(lines: &Vec<NewLine>, (): &()) -> garde::Result {
    // A negative price is a fault of its line; the sum counts only for valid lines.
    match total(lines) {
        Some(_) => Ok(()),
        None => Err(garde::Error::new("the total is larger than can be counted")),
    }
}

impl NewOrder {
    /// Returns the total in minor units. Validation guarantees that it fits.
    pub fn total(&self) -> i64 {
        total(&self.lines).unwrap_or(i64::MAX)
    }

    /// Returns the SHA-256 of the request's content, independent of its formatting.
    pub fn fingerprint(&self) -> [u8; 32] {
        let canonical = serde_json::to_vec(self).unwrap_or_default();
        Sha256::digest(canonical).into()
    }

    /// Returns the order's lines as shown to clients.
    pub fn lines_json(&self) -> Json {
        Json::of(&self.lines).unwrap_or_default()
    }

    /// Returns the saga's input, without personal fields.
    pub fn input(&self) -> Json {
        let line = |l: &NewLine| Line {
            product_id: l.product_id.clone(),
            quantity: l.quantity,
            unit_price: l.unit_price,
        };
        Json::of(&OrderInput {
            customer_id: self.customer_id.clone(),
            currency: self.currency.clone(),
            total: self.total(),
            lines: self.lines.iter().map(line).collect(),
            payment_method: self.payment.method.clone(),
        })
        .unwrap_or_default()
    }

    /// Returns the personal fields.
    pub fn personal(&self) -> Json {
        let shipping_address = Json::of(&self.shipping_address).unwrap_or_default();
        Json::of(&Personal { shipping_address }).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use amends_http::{ProblemDetails, body};
    use axum::{body::Bytes, http::HeaderMap};
    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;

    const ORDER: &str = r#"{"customerId":"c-1","currency":"EUR","lines":[{"productId":"mug","quantity":2,"unitPrice":1250}],
        "payment":{"method":"card_approved"},"shippingAddress":{"name":"T","line1":"1","city":"V","postalCode":"1","country":"AT"}}"#;

    fn order(bytes: Vec<u8>) -> Result<NewOrder, ProblemDetails> {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "application/json".parse().unwrap());
        body::read(&headers, &Bytes::from(bytes))
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_order_or_a_problem(bytes in vec(any::<u8>(), 0..400)) {
            let _ = order(bytes);
        }

        #[test]
        fn an_order_with_a_few_bytes_changed_is_an_order_or_a_problem(
            changes in vec((any::<Index>(), any::<u8>()), 1..8),
            cut in any::<Index>(),
        ) {
            let mut bytes = ORDER.as_bytes().to_vec();
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            if let Ok(order) = order(bytes.clone()) {
                assert!(order.total() >= 0, "it was checked");
            }
            bytes.truncate(cut.index(bytes.len()));
            let _ = order(bytes);
        }
    }

    #[test]
    fn the_order_that_is_changed_is_sound() {
        assert!(order(ORDER.as_bytes().to_vec()).is_ok());
    }
}
