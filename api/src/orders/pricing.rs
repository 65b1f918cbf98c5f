//! The prices of an order: those that a storefront states, and for all other lines those of the products. Once the order
//! is placed they are its own, whatever becomes of the products.

use std::collections::{BTreeSet, HashMap};

use amends_http::{ProblemDetails, problem_types};
use amends_orders::products::{Price, ProductStore};

use super::request::{NewLine, NewOrder, OrderRequest, TOTAL_TOO_LARGE, total};
use crate::problem::{Fault, Problem};

/// An order that is to be placed, whose customer is decided. Lines without a price take that of their product.
#[derive(Debug, Clone)]
pub struct UnpricedOrder {
    request: OrderRequest,
    fingerprint: [u8; 32],
}

impl UnpricedOrder {
    pub(super) fn new(request: OrderRequest, fingerprint: [u8; 32]) -> Self {
        Self { request, fingerprint }
    }

    /// Returns the SHA-256 of the request's content as it was sent: independent of its formatting, and of the prices of
    /// the products today.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// Returns the customer.
    pub fn customer(&self) -> &str {
        self.request.customer_id.as_deref().unwrap_or_default()
    }

    /// Reads the prices that are not stated, all in one statement, and gives them to their lines. An order that states
    /// all of its prices reads nothing.
    ///
    /// # Errors
    /// The store's; and as [`UnpricedOrder::priced`].
    pub async fn price(self, products: &ProductStore) -> Result<NewOrder, Problem> {
        let unpriced: Vec<&str> = self.without_price().into_iter().collect();
        let prices = if unpriced.is_empty() { HashMap::new() } else { products.prices(&unpriced).await? };
        self.priced(&prices)
    }

    /// Returns the products whose price is not stated, each once.
    fn without_price(&self) -> BTreeSet<&str> {
        let unstated = self.request.lines.iter().filter(|line| line.unit_price.is_none());
        unstated.map(|line| line.product_id.as_str()).collect()
    }

    /// Gives each line without a price that of its product.
    ///
    /// # Errors
    /// 422 for a product that has no price in the order's currency; 400 if the total is larger than can be counted.
    pub fn priced(self, prices: &HashMap<String, Price>) -> Result<NewOrder, Problem> {
        let Self { request, fingerprint } = self;
        let (mut lines, mut faults) = (Vec::with_capacity(request.lines.len()), Vec::new());
        for (n, line) in request.lines.into_iter().enumerate() {
            let of_product = prices.get(&line.product_id).filter(|price| price.currency == request.currency);
            match line.unit_price.or(of_product.map(|price| price.unit_price)) {
                Some(unit_price) => {
                    lines.push(NewLine { product_id: line.product_id, quantity: line.quantity, unit_price });
                }
                None => faults.push(Fault::at(
                    format!("/lines/{n}/productId"),
                    "must be a product with a price in the order's currency",
                )),
            }
        }
        if !faults.is_empty() {
            return Err(no_price(faults));
        }
        if total(lines.iter().map(|line| (line.quantity, line.unit_price))).is_none() {
            return Err(Problem::Invalid(vec![Fault::at("/lines", TOTAL_TOO_LARGE)]));
        }
        Ok(NewOrder {
            customer_id: request.customer_id.unwrap_or_default(),
            currency: request.currency,
            lines,
            payment: request.payment,
            shipping_address: request.shipping_address,
            contact: request.contact,
            locale: request.locale,
            fingerprint,
        })
    }
}

fn no_price(faults: Vec<Fault>) -> Problem {
    let detail = "Products of the order have no price in its currency; see `errors`. Nothing was changed.";
    ProblemDetails::new(problem_types::NO_PRICE, detail).at(faults).into()
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use serde_json::{Value, json};

    use super::*;
    use crate::auth::{Caller, Role};

    /// Returns a customer's order of these lines in euros.
    fn order(lines: Value, role: Role) -> UnpricedOrder {
        let request: OrderRequest = serde_json::from_value(json!({
            "customerId": "c-1", "currency": "EUR", "lines": lines, "payment": { "method": "card_approved" },
            "shippingAddress": { "name": "T", "line1": "1", "city": "V", "postalCode": "1", "country": "AT" },
        }))
        .unwrap();
        request.placed_by(&Caller::new("c-1", [role].into_iter().collect())).unwrap()
    }

    fn prices() -> HashMap<String, Price> {
        let price = |id: &str, unit_price, currency: &str| {
            (id.to_owned(), Price { unit_price, currency: currency.to_owned() })
        };
        [price("mug", 1250, "EUR"), price("hat", 3000, "USD"), price("house", i64::MAX, "EUR")].into()
    }

    #[test]
    fn each_line_without_a_price_takes_that_of_its_product_and_a_stated_one_stays() {
        let lines = json!([
            { "productId": "mug", "quantity": 2 },
            { "productId": "mug", "quantity": 1, "unitPrice": 1 },
            { "productId": "hat", "quantity": 1, "unitPrice": 7 },
        ]);
        let unpriced = order(lines, Role::Storefront);
        assert_eq!(unpriced.without_price(), ["mug"].into());
        let order = unpriced.priced(&prices()).unwrap();
        let agreed: Vec<i64> = order.lines.iter().map(|line| line.unit_price).collect();
        assert_eq!((agreed, order.total()), (vec![1250, 1, 7], 2508));
    }

    #[test]
    fn a_product_without_a_price_in_the_orders_currency_is_named_by_its_line() {
        let lines = json!([
            { "productId": "mug", "quantity": 1 },
            { "productId": "cup", "quantity": 1 },
            { "productId": "hat", "quantity": 1 },
        ]);
        let refused = ProblemDetails::from(order(lines, Role::Customer).priced(&prices()).unwrap_err());
        assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
        let shown = format!("{refused:?}");
        assert!(shown.contains("/lines/1/productId") && shown.contains("/lines/2/productId"), "{shown}");
        assert!(!shown.contains("/lines/0"), "{shown}");
    }

    #[test]
    fn a_total_of_products_that_cannot_be_counted_is_refused() {
        let lines = json!([{ "productId": "house", "quantity": 2 }]);
        let refused = ProblemDetails::from(order(lines, Role::Customer).priced(&prices()).unwrap_err());
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
        assert!(format!("{refused:?}").contains("/lines"), "{refused:?}");
    }

    #[test]
    fn a_request_has_one_fingerprint_whatever_its_products_cost() {
        let lines = json!([{ "productId": "mug", "quantity": 2 }]);
        let [today, tomorrow] = [1250, 1300].map(|unit_price| {
            let price = Price { unit_price, currency: "EUR".to_owned() };
            order(lines.clone(), Role::Customer).priced(&[("mug".to_owned(), price)].into()).unwrap()
        });
        assert_ne!(today.total(), tomorrow.total());
        assert_eq!(today.fingerprint, tomorrow.fingerprint);
        let stated = json!([{ "productId": "mug", "quantity": 2, "unitPrice": 1250 }]);
        assert_ne!(order(stated, Role::Storefront).fingerprint(), today.fingerprint);
    }
}
