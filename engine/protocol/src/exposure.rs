//! Exposure: what a saga holds in the outside world, such as captured money, reserved stock and bought labels.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A signed amount: `{"kind":"money_captured","unit":"EUR","amount":2500}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Exposure {
    /// What is held: `money_captured`, `stock_reserved`, `label_bought`.
    pub kind: String,
    /// The unit of the amount: an ISO 4217 code (minor units), a product id, `label`.
    pub unit: String,
    /// The amount; a negative amount gives back.
    pub amount: i64,
}

impl Exposure {
    /// Creates an exposure from kind, unit and amount.
    pub fn new(kind: impl Into<String>, unit: impl Into<String>, amount: i64) -> Self {
        Self { kind: kind.into(), unit: unit.into(), amount }
    }
}

/// Adds deltas to what is held; removes entries whose sum is zero.
pub fn add_exposure(held: &mut Vec<Exposure>, deltas: &[Exposure]) {
    for delta in deltas {
        match held.iter_mut().find(|h| h.kind == delta.kind && h.unit == delta.unit) {
            Some(h) => h.amount = h.amount.saturating_add(delta.amount),
            None => held.push(delta.clone()),
        }
    }
    held.retain(|h| h.amount != 0);
}

/// Returns the deltas that give everything back.
pub fn negated(held: &[Exposure]) -> Vec<Exposure> {
    held.iter().map(|h| Exposure { amount: h.amount.saturating_neg(), ..h.clone() }).collect()
}

/// Returns the positive amounts by which `held` exceeds `allowed`.
pub fn exceeding(held: &[Exposure], allowed: &[Exposure]) -> Vec<Exposure> {
    let more = held.iter().filter_map(|h| {
        let of_it = allowed.iter().filter(|a| a.kind == h.kind && a.unit == h.unit);
        let most = of_it.fold(0_i64, |sum, a| sum.saturating_add(a.amount));
        (h.amount > most.max(0))
            .then(|| Exposure { amount: h.amount.saturating_sub(most.max(0)), ..h.clone() })
    });
    more.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_no_longer_held() {
        let mut held = vec![Exposure::new("money_captured", "EUR", 2500)];
        add_exposure(&mut held, &[Exposure::new("money_captured", "USD", 1)]);
        let back = negated(&held);
        add_exposure(&mut held, &back);
        assert!(held.is_empty());
    }

    #[test]
    fn what_is_more_than_allowed_is_told_and_what_is_given_back_never_is() {
        let eur = |amount| Exposure::new("money_captured", "EUR", amount);
        assert_eq!(exceeding(&[eur(2500)], &[eur(2500)]), []);
        assert_eq!(exceeding(&[eur(2600)], &[eur(1500), eur(1000)]), [eur(100)]);
        assert_eq!(exceeding(&[eur(-1)], &[]), []);
        assert_eq!(exceeding(&[Exposure::new("money_captured", "USD", 1)], &[eur(2500)]).len(), 1);
    }
}
