//! Every interleaving of small systems, and the detection of planted bugs.

use amends_sim::exhaustive::{
    MOST,
    row::{self, OneRow, Planted},
    saga::{self, TwoSteps},
    search,
};

#[test]
fn a_saga_of_two_steps_is_right_in_every_interleaving() {
    let found = search(&TwoSteps::new(saga::TINY), MOST);
    println!("{}", found.report("saga"));
    assert!(found.broken.is_none(), "{}", found.report("saga"));
    assert!(found.states > 1_000 && found.at_rest > 0);
}

#[test]
fn a_saga_that_waits_for_a_signal_is_right_in_every_interleaving() {
    let small = saga::Budget { crashes: 0, timeouts: 0, ..saga::SIGNALS };
    let found = search(&TwoSteps::new(small), MOST);
    println!("{}", found.report("signals"));
    assert!(found.broken.is_none(), "{}", found.report("signals"));
    assert!(found.states > 1_000 && found.at_rest > 0);
}

#[test]
fn a_row_of_a_worker_that_calls_outside_is_right_in_every_interleaving() {
    let found = search(&OneRow::new(row::SMALL), MOST);
    println!("{}", found.report("row"));
    assert!(found.broken.is_none(), "{}", found.report("row"));
    assert!(found.states > 1_000 && found.at_rest > 0);
}

#[test]
fn a_planted_bug_of_a_row_is_found() {
    for bug in [Planted::NothingIsTombstone, Planted::SilenceFails, Planted::ForgetsUnsure] {
        let found = search(&OneRow { planted: Some(bug), ..OneRow::new(row::LARGE) }, MOST);
        assert!(found.broken.is_some(), "{bug:?} is not found in {} states", found.states);
    }
}
