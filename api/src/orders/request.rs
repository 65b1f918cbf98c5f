//! Requests for orders. Everything is validated here, at the edge.

use amends_protocol::Json;
use amends_workflows::order_fulfilment::{Line, OrderInput, Personal};
use garde::Validate;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::{
    personal::{Address, Contact, ContactRequest, language},
    pricing::UnpricedOrder,
};
use crate::{
    auth::{Caller, Right, access},
    http::openapi::schema::{Currency, Locale, ProductId, Text},
    problem::{Fault, Problem},
};

/// The highest price of one unit, in minor units: with it, the total of 100 lines of a million pieces can be counted.
pub const UNIT_PRICE_MOST: i64 = 90_000_000_000;

/// `POST /api/orders`, as it is sent. What the caller may leave out or state is decided by [`OrderRequest::placed_by`].
#[derive(Debug, Clone, Serialize, Deserialize, Validate, ToSchema)]
#[schema(description = "An order to be placed.")]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OrderRequest {
    /// The customer. A customer may leave it out; a storefront must state it.
    #[garde(inner(custom(text)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Text>)]
    pub(super) customer_id: Option<String>,
    /// The currency of all prices.
    #[garde(custom(currency_code))]
    #[schema(value_type = Currency)]
    pub(super) currency: String,
    /// The lines of the order.
    #[garde(length(min = 1, max = 100), dive)]
    #[schema(min_items = 1, max_items = 100)]
    pub(super) lines: Vec<LineRequest>,
    /// The payment.
    #[garde(dive)]
    pub(super) payment: Payment,
    /// The shipping address.
    #[garde(dive)]
    pub(super) shipping_address: Address,
    /// How to reach the customer.
    #[garde(dive)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ContactRequest>)]
    pub(super) contact: Option<Contact>,
    /// The language of messages to the customer. Without templates in it, they are in English.
    #[garde(inner(custom(language)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Locale>)]
    pub(super) locale: Option<String>,
}

/// A line of an order, as it is sent.
#[derive(Debug, Clone, Serialize, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LineRequest {
    /// The product.
    #[garde(custom(identifier))]
    #[schema(value_type = ProductId)]
    pub(super) product_id: String,
    /// Number of units.
    #[garde(range(min = 1, max = 1_000_000))]
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub(super) quantity: i64,
    /// Price of one unit, in minor units of the order's currency. A customer may not state it.
    #[garde(inner(range(min = 0, max = UNIT_PRICE_MOST)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 90_000_000_000_i64)]
    pub(super) unit_price: Option<i64>,
}

impl OrderRequest {
    /// Decides for whom the order is, and which prices are stated.
    ///
    /// # Errors
    /// 403 for a customer or a price that the caller may not state; 400 for a customer that they must.
    pub fn placed_by(mut self, caller: &Caller) -> Result<UnpricedOrder, Problem> {
        if caller.may(Right::StateCustomer) {
            if self.customer_id.is_none() {
                return Err(Problem::Invalid(vec![Fault::at("/customerId", "the field is missing")]));
            }
        } else {
            let stated = self.lines.iter().enumerate().filter(|(_, line)| line.unit_price.is_some());
            let fault =
                |(n, _)| Fault::at(format!("/lines/{n}/unitPrice"), "prices are not stated by customers");
            let mut faults: Vec<_> = stated.map(fault).collect();
            if self.customer_id.as_deref().is_some_and(|stated| stated != caller.subject()) {
                faults.push(Fault::at("/customerId", "must be the token's subject, or left out"));
            }
            if !faults.is_empty() {
                return Err(access::forbidden_at(faults));
            }
            self.customer_id = Some(caller.subject().to_owned());
        }
        let fingerprint = Sha256::digest(serde_json::to_vec(&self).unwrap_or_default()).into();
        Ok(UnpricedOrder::new(self, fingerprint))
    }
}

/// Why an order, or a saga, is to be cancelled.
#[derive(Debug, Clone, Serialize, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CancelRequest {
    /// In the caller's words. It is kept in the timeline, and shown to operators.
    #[garde(custom(text))]
    #[schema(value_type = Text)]
    pub reason: String,
}

/// An order that is to be placed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewOrder {
    /// The customer.
    pub customer_id: String,
    /// ISO 4217, upper case.
    pub currency: String,
    /// The lines.
    pub lines: Vec<NewLine>,
    /// The payment.
    pub payment: Payment,
    /// The shipping address.
    pub shipping_address: Address,
    /// How to reach the customer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact: Option<Contact>,
    /// The language of messages to the customer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
    /// The SHA-256 of the request's content as it was sent.
    #[serde(skip)]
    pub fingerprint: [u8; 32],
}

/// A line of an order that is to be placed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = OrderLine)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewLine {
    /// The product.
    #[schema(value_type = ProductId)]
    pub product_id: String,
    /// Number of units.
    pub quantity: i64,
    /// Price of one unit, in minor units of the order's currency.
    pub unit_price: i64,
}

/// The payment of an order.
#[derive(Debug, Clone, Serialize, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Payment {
    /// A method that the gateway knows; any other is declined.
    #[garde(custom(text))]
    #[schema(value_type = Text)]
    pub method: String,
}

/// Validates a product's id.
pub fn identifier(text: &str, (): &()) -> garde::Result {
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

/// Validates a currency.
pub fn currency_code(code: &str, (): &()) -> garde::Result {
    let upper = code.len() == 3 && code.bytes().all(|b| b.is_ascii_uppercase());
    match iso_currency::Currency::from_code(code) {
        Some(_) if upper => Ok(()),
        _ => Err(garde::Error::new("must be an ISO 4217 code in upper case")),
    }
}

pub(super) const TOTAL_TOO_LARGE: &str = "the total is larger than can be counted";

/// Adds up quantities and prices.
pub(super) fn total(mut lines: impl Iterator<Item = (i64, i64)>) -> Option<i64> {
    lines.try_fold(0_i64, |sum, (quantity, price)| sum.checked_add(price.checked_mul(quantity)?))
}

impl NewOrder {
    /// Returns the total in minor units. Validation guarantees that it fits.
    pub fn total(&self) -> i64 {
        total(self.lines.iter().map(|line| (line.quantity, line.unit_price))).unwrap_or(i64::MAX)
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
        let contact = self.contact.as_ref().and_then(|contact| Json::of(contact).ok());
        Json::of(&Personal { shipping_address, contact, locale: self.locale.clone() }).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use amends_http::{ProblemDetails, body};
    use axum::{body::Bytes, http::HeaderMap};
    use proptest::{collection::vec, prelude::*, sample::Index};

    use serde_json::{Value, json};

    use super::*;
    use crate::auth::Role;

    const ORDER: &str = r#"{"customerId":"c-1","currency":"EUR","lines":[{"productId":"mug","quantity":2,"unitPrice":1250}],
        "payment":{"method":"card_approved"},"shippingAddress":{"name":"T","line1":"1","city":"V","postalCode":"1","country":"AT"}}"#;

    fn order(bytes: Vec<u8>) -> Result<NewOrder, Problem> {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "application/json".parse().unwrap());
        let unpriced = body::read::<OrderRequest>(&headers, &Bytes::from(bytes))?.placed_by(&Caller::dev())?;
        unpriced.priced(&HashMap::new())
    }

    fn placed_by(role: Role, change: impl Fn(&mut Value)) -> (u16, String) {
        let mut body: Value = serde_json::from_str(ORDER).unwrap();
        change(&mut body);
        let request: OrderRequest = serde_json::from_value(body).unwrap();
        match request.placed_by(&Caller::new("c-1", [role].into_iter().collect())) {
            Ok(order) => (201, order.customer().to_owned()),
            Err(problem) => {
                let pointer = match &problem {
                    Problem::Invalid(faults) => format!("{faults:?}"),
                    other => format!("{other:?}"),
                };
                (ProblemDetails::from(problem).status().as_u16(), pointer)
            }
        }
    }

    fn without_prices(body: &mut Value) {
        body["lines"][0].as_object_mut().unwrap().remove("unitPrice");
    }

    #[test]
    fn a_customer_states_neither_another_customer_nor_a_price() {
        let (status, why) = placed_by(Role::Customer, |_| {});
        assert!(status == 403 && why.contains("/lines/0/unitPrice") && !why.contains("customerId"), "{why}");
        let (status, why) = placed_by(Role::Customer, |body| {
            without_prices(body);
            body["customerId"] = json!("c-2");
        });
        assert!(status == 403 && why.contains("/customerId"), "{why}");
        for own in [Some("c-1"), None] {
            let placed = placed_by(Role::Customer, |body| {
                without_prices(body);
                body["customerId"] = json!(own);
            });
            assert_eq!(placed, (201, "c-1".into()));
        }
    }

    #[test]
    fn a_storefront_states_any_customer_and_must_and_prices_as_it_likes() {
        assert_eq!(
            placed_by(Role::Storefront, |body| body["customerId"] = json!("c-2")),
            (201, "c-2".into())
        );
        let (status, why) = placed_by(Role::Storefront, |body| body["customerId"] = json!(null));
        assert!(status == 400 && why.contains("/customerId"), "{why}");
        assert_eq!(placed_by(Role::Storefront, without_prices), (201, "c-1".into()));
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
    fn the_largest_order_has_a_total() {
        assert!(total(vec![(1_000_000, UNIT_PRICE_MOST); 100].into_iter()).is_some());
    }

    #[test]
    fn the_order_that_is_changed_is_sound() {
        assert!(order(ORDER.as_bytes().to_vec()).is_ok());
    }
}
