//! What may happen to a saga, and how the calls of its workers end.

use proptest::prelude::*;

/// What happens next.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Action {
    Arrive {
        which: u16,
        again: bool,
    },
    LoseCommand(u16),
    Answer {
        which: u16,
        again: bool,
    },
    LoseReply(u16),
    Finish(u16),
    Betray(u16),
    Pass(u32),
    Wake,
    /// Everything on its way arrives, and the saga's time comes.
    Round,
    Cancel,
    Retry,
    Resend,
    Resolve {
        done: bool,
    },
    /// The signal arrives, whether or not the saga has reached the step that waits for it.
    Signal {
        yes: bool,
    },
    /// An operator settles the state that they saw when something was last parked.
    FromAnOldPage {
        retry: bool,
        done: bool,
    },
}

/// Anything that may happen, the usual more often.
pub(crate) fn action() -> impl Strategy<Value = Action> {
    let which = any::<u16>;
    prop_oneof![
        30 => (which(), prop::bool::weighted(0.2)).prop_map(|(which, again)| Action::Arrive { which, again }),
        3 => which().prop_map(Action::LoseCommand),
        30 => (which(), prop::bool::weighted(0.2)).prop_map(|(which, again)| Action::Answer { which, again }),
        3 => which().prop_map(Action::LoseReply),
        10 => which().prop_map(Action::Finish),
        2 => which().prop_map(Action::Betray),
        15 => prop_oneof![0..2_000_u32, 0..20_000_u32, 0..200_000_u32].prop_map(Action::Pass),
        10 => Just(Action::Wake),
        20 => Just(Action::Round),
        1 => Just(Action::Cancel),
        3 => Just(Action::Retry),
        3 => Just(Action::Resend),
        2 => any::<(bool, bool)>().prop_map(|(retry, done)| Action::FromAnOldPage { retry, done }),
        4 => any::<bool>().prop_map(|done| Action::Resolve { done }),
        3 => prop::bool::weighted(0.8).prop_map(|yes| Action::Signal { yes }),
    ]
}

/// Calls that end in any way, or mostly without an answer.
pub(crate) fn fates() -> impl Strategy<Value = Vec<u8>> {
    let silent = prop_oneof![20 => Just(91_u8), 1 => any::<u8>()];
    prop_oneof![
        2 => prop::collection::vec(any::<u8>(), 1..40),
        1 => prop::collection::vec(silent, 5..40),
    ]
}
