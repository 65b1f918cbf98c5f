//! What became of a batch of events: what to send, what changed nothing, what waits.

use std::sync::Arc;

use amends_protocol::id;
use uuid::Uuid;

use super::dispatch::Outgoing;
use crate::{
    core::{Illegal, Nothing, Requires, Saga},
    port::{Deferral, Unreadable},
};

/// Results of a batch's events, by saga.
#[derive(Debug, Default)]
pub(super) struct BatchOutcome {
    /// Commands to send after the commit.
    pub outgoing: Vec<Outgoing>,
    /// Sagas that do not exist here.
    pub missing: Vec<Uuid>,
    /// Events that changed nothing.
    pub ignored: Vec<Ignored>,
    /// Events that cannot be stored.
    pub poisoned: Vec<Poison>,
    /// Sagas that were passed over: all their events wait.
    pub passed_over: Vec<PassedOverSaga>,
    /// Actions that were refused.
    pub illegal: Vec<(Uuid, Illegal)>,
    /// The rows as they are now.
    pub rows: Vec<Arc<Saga>>,
}

impl BatchOutcome {
    /// Adds the results of other sagas.
    pub fn append(&mut self, other: Self) {
        let Self { outgoing, missing, ignored, poisoned, passed_over, illegal, rows } = other;
        self.outgoing.extend(outgoing);
        self.missing.extend(missing);
        self.ignored.extend(ignored);
        self.poisoned.extend(poisoned);
        self.passed_over.extend(passed_over);
        self.illegal.extend(illegal);
        self.rows.extend(rows);
    }

    /// Removes the results of these sagas, because their events are decided again.
    pub fn retract(&mut self, is_of: impl Fn(&Uuid) -> bool) {
        self.ignored.retain(|event| !is_of(&event.saga_id));
        self.illegal.retain(|(id, _)| !is_of(id));
    }
}

/// An event that changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ignored {
    pub saga_id: Uuid,
    /// Index in the saga's list.
    pub place: usize,
    pub why: Nothing,
}

/// An event that cannot be stored.
#[derive(Debug)]
pub(super) struct Poison {
    pub saga_id: Uuid,
    /// Index in the saga's list.
    pub place: usize,
    pub why: String,
}

/// A saga that this engine cannot judge now.
#[derive(Debug, Clone)]
pub(super) struct PassedOverSaga {
    pub saga_id: Uuid,
    pub slot: u16,
    /// What a program must know to judge it; `None` if its row could not be read.
    pub requires: Option<Requires>,
    pub why: Deferral,
}

impl PassedOverSaga {
    /// Of a saga whose row was read.
    pub fn of(saga: &Saga, why: Deferral) -> Self {
        Self { saga_id: saga.id, slot: saga.slot, requires: Some(Requires::of(saga)), why }
    }

    /// Of a saga whose row could not be read.
    pub fn unread(saga_id: Uuid) -> Self {
        Self { saga_id, slot: id::slot(saga_id), requires: None, why: Deferral::Unreachable }
    }
}

impl From<Unreadable> for PassedOverSaga {
    fn from(Unreadable { saga_id, slot, requires }: Unreadable) -> Self {
        Self { saga_id, slot, requires: Some(requires), why: Deferral::Unreadable }
    }
}
