//! The ledger of an order: its returns and refunds, and how many pieces and how much money they may still be for. It
//! decides without I/O.
//!
//! An order's ledger has an entry for each return and each refund. The transaction that adds one first locks the order's row, and
//! then reads the ledger: so two that are added at once see each other. What is under way counts like what is done;
//! what was rejected does not count.

mod plan;

use amends_engine::core::SagaOutcome;
use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

pub use plan::{Pieces, RefundOf, Refusal};

use crate::{
    order_fulfilment::Line,
    order_return::{self, BackLine},
};

/// How long after it was fulfilled an order may be returned.
pub const RETURN_WINDOW: TimeDelta = TimeDelta::days(30);

/// An order, and what came back of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Ledger {
    /// The saga that fulfilled the order.
    pub fulfilment: Uuid,
    /// The order's status.
    pub status: String,
    /// ISO 4217.
    pub currency: String,
    /// The lines of the order.
    pub lines: Vec<Line>,
    /// When it was fulfilled; `None` also once that is past its retention.
    pub fulfilled_at: Option<DateTime<Utc>>,
    /// Its returns and refunds, in the order of their births.
    pub entries: Vec<LedgerEntry>,
}

/// A return or a refund.
#[derive(Debug, Clone, PartialEq)]
pub struct LedgerEntry {
    /// Its saga.
    pub saga_id: Uuid,
    /// Return or refund.
    pub kind: EntryKind,
    /// What is paid back, in minor units.
    pub amount: i64,
    /// The pieces that come back, or are paid for; empty if it is an amount.
    pub lines: Vec<BackLine>,
    /// How far it is.
    pub standing: Standing,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// Pieces come back and are paid back.
    Return,
    /// Money is paid back, and nothing comes back.
    Refund,
}

/// How far a return or refund is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// A return that waits for its decision.
    Requested,
    /// The money is being paid back.
    Refunding,
    /// The money is paid back; the pieces are not in stock yet.
    Restocking,
    /// Done.
    Completed,
    /// A return that was rejected or cancelled.
    Rejected,
}

impl Standing {
    /// Returns the standing of a saga by its row.
    pub fn of(step: &str, outcome: Option<SagaOutcome>) -> Self {
        match (outcome, step) {
            (Some(SagaOutcome::Completed), _) => Self::Completed,
            (Some(SagaOutcome::Undone), _) => Self::Rejected,
            (None, order_return::DECISION) => Self::Requested,
            (None, order_return::RESTOCK) => Self::Restocking,
            (None, _) => Self::Refunding,
        }
    }

    /// Returns whether the money is paid back.
    pub fn is_refunded(self) -> bool {
        matches!(self, Self::Restocking | Self::Completed)
    }

    fn is_under_way(self) -> bool {
        matches!(self, Self::Requested | Self::Refunding | Self::Restocking)
    }
}

/// Returns the id of a line, by its index.
pub fn line_id(index: usize) -> String {
    (index + 1).to_string()
}

impl Ledger {
    /// Returns whether it was fulfilled. Nothing else can come back: so it was, too, if it has entries and the timeline that
    /// says when is past its retention.
    pub fn is_fulfilled(&self) -> bool {
        self.fulfilled_at.is_some() || !self.entries.is_empty()
    }

    /// Returns what was captured, in minor units.
    pub fn captured(&self) -> i64 {
        if !self.is_fulfilled() {
            return 0;
        }
        self.lines.iter().map(|line| line.unit_price.saturating_mul(line.quantity)).sum()
    }

    /// Returns what is paid back, in minor units.
    pub fn refunded(&self) -> i64 {
        self.entries.iter().filter(|e| e.standing.is_refunded()).map(|e| e.amount).sum()
    }

    /// Returns what is captured and neither paid back nor about to be.
    pub fn remaining(&self) -> i64 {
        (self.captured() - self.counted().map(|entry| entry.amount).sum::<i64>()).max(0)
    }

    /// Returns when the time for returns ends.
    pub fn returnable_until(&self) -> Option<DateTime<Utc>> {
        self.fulfilled_at.map(|at| at + RETURN_WINDOW)
    }

    /// Returns the entry of a saga.
    pub fn entry(&self, saga: Uuid) -> Option<&LedgerEntry> {
        self.entries.iter().find(|entry| entry.saga_id == saga)
    }

    /// Returns how many pieces of a line are back.
    pub fn returned(&self, line: usize) -> i64 {
        let back = self.entries.iter().filter(|entry| entry.standing == Standing::Completed);
        pieces(back.filter(|entry| entry.kind == EntryKind::Return), &line_id(line))
    }

    /// The entries that count: all that were not rejected.
    fn counted(&self) -> impl Iterator<Item = &LedgerEntry> {
        self.entries.iter().filter(|entry| entry.standing != Standing::Rejected)
    }
}

/// Returns the number of pieces of a line in these entries.
fn pieces<'a>(entries: impl Iterator<Item = &'a LedgerEntry>, line: &str) -> i64 {
    let lines = entries.flat_map(|entry| &entry.lines).filter(|back| back.line_id == line);
    lines.map(|back| back.quantity).sum()
}
