//! Plans a return or a refund by an order's ledger, or says why there can be none.

use amends_protocol::id;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{EntryKind, Ledger, line_id, pieces};
use crate::{
    order_fulfilment::{FULFILLED, PARTIALLY_RETURNED, RETURN_REQUESTED, RETURNED},
    order_refund::RefundInput,
    order_return::{BackLine, ReturnInput},
};

/// A number of pieces of a line, as a caller names them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pieces {
    /// The line of the order.
    pub line_id: String,
    /// Number of pieces.
    pub quantity: i64,
}

/// What is to be refunded without a return.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefundOf {
    /// An amount, in minor units.
    Amount(i64),
    /// The price of these pieces.
    Lines(Vec<Pieces>),
}

/// Why nothing is added to a ledger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The order is in a status in which nothing can come back.
    #[error("the order is {0}")]
    Status(String),
    /// The time for returns is over.
    #[error("the order could be returned until {0}")]
    TooLate(DateTime<Utc>),
    /// The order has no such line, or it is named twice. The index is that of the request's line.
    #[error("there is no such line, or it is named twice")]
    NoSuchLine(usize),
    /// There are not as many pieces left. The index is that of the request's line.
    #[error("only {remaining} pieces are left")]
    TooMany {
        /// Index of the request's line.
        line: usize,
        /// How many there are.
        remaining: i64,
    },
    /// Everything has come back, or is about to.
    #[error("nothing is left")]
    NothingLeft,
    /// More than is left of what was captured.
    #[error("only {remaining} is left of what was captured")]
    MoreThanCaptured {
        /// What is left, in minor units.
        remaining: i64,
    },
}

impl Ledger {
    /// Returns how many pieces of a line may come back: those that neither came back nor are part of something that is
    /// under way.
    fn returnable(&self, line: usize) -> i64 {
        let taken =
            self.counted().filter(|entry| entry.kind == EntryKind::Return || entry.standing.is_under_way());
        self.lines[line].quantity - pieces(taken, &line_id(line))
    }

    /// Returns how many pieces of a line may be paid back without coming back.
    fn refundable(&self, line: usize) -> i64 {
        self.lines[line].quantity - pieces(self.counted(), &line_id(line))
    }

    /// Returns what of a line's price is neither paid back nor about to be.
    fn unpaid(&self, line: usize) -> i64 {
        let id = line_id(line);
        let paid = self.counted().flat_map(|entry| &entry.lines).filter(|back| back.line_id == id);
        let price = self.lines[line].unit_price.saturating_mul(self.lines[line].quantity);
        (price - paid.map(|back| back.amount).sum::<i64>()).max(0)
    }

    /// Finds the lines that a caller names.
    fn named(&self, wanted: &[Pieces]) -> Result<Vec<(usize, i64)>, Refusal> {
        let find = |(n, pieces): (usize, &Pieces)| {
            let line = (0..self.lines.len()).find(|line| line_id(*line) == pieces.line_id);
            let is_twice = wanted[..n].iter().any(|before| before.line_id == pieces.line_id);
            line.filter(|_| !is_twice).map(|line| (line, pieces.quantity)).ok_or(Refusal::NoSuchLine(n))
        };
        wanted.iter().enumerate().map(find).collect()
    }

    /// Plans a return of these pieces, or of all that are left. It is paid back as far as something is left of what was
    /// captured.
    ///
    /// # Errors
    /// [`Refusal`]: nothing changes.
    pub fn plan_return(&self, wanted: Option<&[Pieces]>, now: DateTime<Utc>) -> Result<ReturnInput, Refusal> {
        if !matches!(self.status.as_str(), FULFILLED | PARTIALLY_RETURNED) {
            return Err(Refusal::Status(self.status.clone()));
        }
        match self.returnable_until() {
            Some(until) if now < until => {}
            Some(until) => return Err(Refusal::TooLate(until)),
            None => return Err(Refusal::Status(self.status.clone())),
        }
        let all = || (0..self.lines.len()).map(|line| (line, self.returnable(line))).filter(|(_, n)| *n > 0);
        let lines = wanted.map_or_else(|| Ok(all().collect()), |wanted| self.named(wanted))?;
        for (n, (line, quantity)) in lines.iter().enumerate() {
            let remaining = self.returnable(*line);
            if *quantity > remaining {
                return Err(Refusal::TooMany { line: n, remaining });
            }
        }
        let mut left = self.remaining();
        let back = lines.iter().filter(|(_, quantity)| *quantity > 0).map(|(line, quantity)| {
            let price = self.lines[*line].unit_price.saturating_mul(*quantity);
            let amount = price.min(self.unpaid(*line)).min(left);
            left -= amount;
            self.back(*line, *quantity, amount)
        });
        let lines: Vec<BackLine> = back.collect();
        if lines.is_empty() {
            return Err(Refusal::NothingLeft);
        }
        let stays = |line: usize| {
            let id = line_id(line);
            let coming: i64 = lines.iter().filter(|back| back.line_id == id).map(|back| back.quantity).sum();
            self.returned(line) + coming < self.lines[line].quantity
        };
        Ok(ReturnInput {
            currency: self.currency.clone(),
            amount: lines.iter().map(|back| back.amount).sum(),
            charge: id::execute(self.fulfilment, "pay", 0, 1),
            reservation: id::execute(self.fulfilment, "reserve", 0, 1),
            follows_another: self.status == PARTIALLY_RETURNED,
            leaves_some: (0..self.lines.len()).any(stays),
            lines,
        })
    }

    /// Plans a refund without a return.
    ///
    /// # Errors
    /// [`Refusal`]: nothing changes.
    pub fn plan_refund(&self, of: &RefundOf) -> Result<RefundInput, Refusal> {
        let statuses = [FULFILLED, RETURN_REQUESTED, PARTIALLY_RETURNED, RETURNED];
        if !self.is_fulfilled() || !statuses.contains(&self.status.as_str()) {
            return Err(Refusal::Status(self.status.clone()));
        }
        let (amount, lines) = match of {
            RefundOf::Amount(amount) => (*amount, Vec::new()),
            RefundOf::Lines(wanted) => {
                let lines = self.named(wanted)?;
                for (n, (line, quantity)) in lines.iter().enumerate() {
                    let remaining = self.refundable(*line);
                    if *quantity > remaining {
                        return Err(Refusal::TooMany { line: n, remaining });
                    }
                }
                let back = lines.iter().map(|(line, quantity)| {
                    let price = self.lines[*line].unit_price.saturating_mul(*quantity);
                    self.back(*line, *quantity, price.min(self.unpaid(*line)))
                });
                let lines: Vec<BackLine> = back.collect();
                (lines.iter().map(|line| line.amount).sum(), lines)
            }
        };
        let remaining = self.remaining();
        if amount > remaining {
            return Err(Refusal::MoreThanCaptured { remaining });
        }
        if amount <= 0 {
            return Err(Refusal::NothingLeft);
        }
        let charge = id::execute(self.fulfilment, "pay", 0, 1);
        Ok(RefundInput { currency: self.currency.clone(), amount, charge, lines })
    }

    fn back(&self, line: usize, quantity: i64, amount: i64) -> BackLine {
        BackLine { line_id: line_id(line), product_id: self.lines[line].product_id.clone(), quantity, amount }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use uuid::Uuid;

    use super::*;
    use crate::{
        order_fulfilment::Line,
        order_ledger::{LedgerEntry, Standing},
    };

    fn day(n: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_767_225_600 + n * 86_400, 0).unwrap()
    }

    /// Two mugs at 12.50 and a pot at 10.00, fulfilled on day 0.
    fn order() -> Ledger {
        let line =
            |product: &str, quantity, unit_price| Line { product_id: product.into(), quantity, unit_price };
        Ledger {
            fulfilment: Uuid::from_u128(7),
            status: FULFILLED.into(),
            currency: "EUR".into(),
            lines: vec![line("mug", 2, 1250), line("pot", 1, 1000)],
            fulfilled_at: Some(day(0)),
            entries: Vec::new(),
        }
    }

    fn pieces(line: &str, quantity: i64) -> Pieces {
        Pieces { line_id: line.into(), quantity }
    }

    /// Adds what was planned, as far as `standing`.
    fn with_return(mut ledger: Ledger, wanted: Option<&[Pieces]>, standing: Standing) -> Ledger {
        let ReturnInput { amount, lines, leaves_some, .. } = ledger.plan_return(wanted, day(1)).unwrap();
        let (saga_id, kind) = (Uuid::from_u128(ledger.entries.len() as u128), EntryKind::Return);
        ledger.entries.push(LedgerEntry { saga_id, kind, amount, lines, standing });
        let after = if leaves_some { PARTIALLY_RETURNED } else { RETURNED };
        ledger.status = match standing {
            Standing::Completed => after.into(),
            Standing::Rejected => ledger.status,
            _ => RETURN_REQUESTED.into(),
        };
        ledger
    }

    fn with_refund(mut ledger: Ledger, of: &RefundOf, standing: Standing) -> Ledger {
        let RefundInput { amount, lines, .. } = ledger.plan_refund(of).unwrap();
        let (saga_id, kind) = (Uuid::from_u128(ledger.entries.len() as u128), EntryKind::Refund);
        ledger.entries.push(LedgerEntry { saga_id, kind, amount, lines, standing });
        ledger
    }

    #[test]
    fn all_that_is_left_comes_back_and_is_paid_back() {
        let back = order().plan_return(None, day(1)).unwrap();
        assert_eq!((back.amount, back.leaves_some, back.follows_another), (3500, false, false));
        assert_eq!(back.lines.iter().map(|line| line.quantity).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(back.charge, id::execute(Uuid::from_u128(7), "pay", 0, 1));
        let half = with_return(order(), Some(&[pieces("1", 1)]), Standing::Completed);
        assert_eq!((half.status.as_str(), half.returned(0), half.refunded()), (PARTIALLY_RETURNED, 1, 1250));
        let rest = half.plan_return(None, day(2)).unwrap();
        assert_eq!((rest.amount, rest.leaves_some, rest.follows_another), (2250, false, true));
    }

    #[test]
    fn no_piece_comes_back_twice() {
        let one = [pieces("1", 2)];
        for standing in [Standing::Requested, Standing::Refunding, Standing::Restocking] {
            let under_way = with_return(order(), Some(&one), standing);
            assert_eq!(under_way.plan_return(None, day(1)), Err(Refusal::Status(RETURN_REQUESTED.into())));
        }
        let back = with_return(order(), Some(&one), Standing::Completed);
        assert_eq!(back.plan_return(Some(&one), day(1)), Err(Refusal::TooMany { line: 0, remaining: 0 }));
        let rejected = with_return(order(), Some(&one), Standing::Rejected);
        assert!(rejected.plan_return(Some(&one), day(1)).is_ok());
        // A refund of these pieces is under way.
        let lines = RefundOf::Lines(vec![pieces("1", 1)]);
        let paid = with_refund(order(), &lines, Standing::Refunding);
        assert_eq!(paid.plan_return(Some(&one), day(1)), Err(Refusal::TooMany { line: 0, remaining: 1 }));
    }

    #[test]
    fn never_is_more_paid_back_than_was_captured() {
        let mut ledger = with_refund(order(), &RefundOf::Amount(3000), Standing::Refunding);
        assert_eq!(ledger.remaining(), 500);
        let too_much = ledger.plan_refund(&RefundOf::Amount(501));
        assert_eq!(too_much, Err(Refusal::MoreThanCaptured { remaining: 500 }));
        // Goodwill counts: a return is paid back as far as something is left.
        assert_eq!(ledger.plan_return(None, day(1)).unwrap().amount, 500);
        ledger = with_return(ledger, None, Standing::Completed);
        assert_eq!((ledger.remaining(), ledger.captured()), (0, 3500));
        assert_eq!(ledger.plan_refund(&RefundOf::Amount(1)), Err(Refusal::MoreThanCaptured { remaining: 0 }));
        assert_eq!(ledger.refunded(), 500, "the goodwill is not paid back yet");
    }

    #[test]
    fn a_piece_that_was_paid_back_is_not_paid_back_again_when_it_returns() {
        let lines = RefundOf::Lines(vec![pieces("2", 1)]);
        let paid = with_refund(order(), &lines, Standing::Completed);
        assert_eq!(paid.plan_refund(&lines), Err(Refusal::TooMany { line: 0, remaining: 0 }));
        let back = paid.plan_return(Some(&[pieces("2", 1)]), day(1)).unwrap();
        assert_eq!((back.amount, back.lines[0].quantity), (0, 1));
    }

    #[test]
    fn only_a_fulfilled_order_can_be_returned_and_only_for_thirty_days() {
        assert!(order().plan_return(None, day(30) - TimeDelta::milliseconds(1)).is_ok());
        assert_eq!(order().plan_return(None, day(30)), Err(Refusal::TooLate(day(30))));
        for status in ["PENDING", "PAID", "CANCELLED", RETURNED] {
            let order = Ledger { status: status.into(), ..order() };
            assert_eq!(order.plan_return(None, day(1)), Err(Refusal::Status(status.into())));
        }
        let paid = Ledger { status: "PAID".into(), fulfilled_at: None, ..order() };
        assert_eq!(paid.plan_refund(&RefundOf::Amount(1)), Err(Refusal::Status("PAID".into())));
        assert_eq!((paid.captured(), paid.remaining()), (0, 0));
    }

    #[test]
    fn what_came_back_shows_that_an_order_was_fulfilled_once_its_timeline_is_past_its_retention() {
        let mut old = with_return(order(), Some(&[pieces("1", 1)]), Standing::Completed);
        old.fulfilled_at = None;
        assert_eq!((old.captured(), old.refunded(), old.remaining()), (3500, 1250, 2250));
        assert_eq!(old.plan_refund(&RefundOf::Amount(2250)).unwrap().amount, 2250);
        assert_eq!(
            old.plan_refund(&RefundOf::Amount(2251)),
            Err(Refusal::MoreThanCaptured { remaining: 2250 })
        );
        assert_eq!(old.plan_return(None, day(400)), Err(Refusal::Status(PARTIALLY_RETURNED.into())));
    }

    #[test]
    fn a_line_that_the_order_does_not_have_or_that_is_named_twice_is_refused() {
        for (wanted, at) in [
            (vec![pieces("3", 1)], 0),
            (vec![pieces("1", 1), pieces("0", 1)], 1),
            (vec![pieces("1", 1), pieces("1", 1)], 1),
            (vec![pieces("01", 1)], 0),
        ] {
            assert_eq!(order().plan_return(Some(&wanted), day(1)), Err(Refusal::NoSuchLine(at)));
            assert_eq!(order().plan_refund(&RefundOf::Lines(wanted)), Err(Refusal::NoSuchLine(at)));
        }
    }

    #[test]
    fn what_costs_nothing_comes_back_and_is_not_refunded() {
        let mut free = order();
        free.lines[0].unit_price = 0;
        assert_eq!(free.plan_return(Some(&[pieces("1", 2)]), day(1)).unwrap().amount, 0);
        let refund = free.plan_refund(&RefundOf::Lines(vec![pieces("1", 1)]));
        assert_eq!(refund, Err(Refusal::NothingLeft));
    }
}
