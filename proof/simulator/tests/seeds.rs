//! Seeds: some for daily runs, and those that once failed.

use amends_sim::{
    faults::Fault,
    run::{Options, run},
};

/// Returns the violations of a run with this seed.
fn broken(seed: u64) -> Vec<String> {
    run(seed, &Options::default()).violations
}

/// Returns the violations of a run with this seed as it was before the engine's database could go back: what the seed once
/// found happens in it.
fn broken_without_losses(seed: u64) -> Vec<String> {
    let without = vec![Fault::Restore, Fault::Failover];
    run(seed, &Options { without, ..Options::default() }).violations
}

#[test]
fn a_few_dozen_seeds_break_nothing() {
    for seed in 1..=48 {
        assert_eq!(broken(seed), Vec::<String>::new(), "seed {seed}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_byte_for_byte() {
    let options = Options { trace: true, ..Options::default() };
    for seed in [3, 269, 1313] {
        let (one, two) = (run(seed, &options), run(seed, &options));
        assert!(one.trace.lines().count() > 100);
        assert!(one.trace == two.trace, "seed {seed}");
        assert_eq!(one.coverage.pairs, two.coverage.pairs);
    }
    assert_ne!(run(1, &options).trace, run(2, &options).trace);
}

// ---- seeds that once failed, each by the bug that it found ------------------------------------------------------

#[test]
fn a_charge_after_its_command_was_resolved_as_not_done_is_undone() {
    for seed in [269, 589, 1313] {
        assert_eq!(broken_without_losses(seed), Vec::<String>::new(), "seed {seed}");
    }
}

#[test]
fn what_became_due_while_a_saga_was_poisoned_is_not_late_after_the_operators_retry() {
    for seed in [55, 101, 196] {
        assert_eq!(broken_without_losses(seed), Vec::<String>::new(), "seed {seed}");
    }
}

#[test]
fn a_charge_after_its_compensation_was_resolved_by_hand_is_undone() {
    assert_eq!(broken_without_losses(247), Vec::<String>::new());
    assert_eq!(broken_without_losses(3542), Vec::<String>::new());
}

#[test]
fn sound_replies_are_not_put_aside_with_one_that_cannot_be_stored() {
    for seed in [317, 418, 435, 452, 535] {
        assert_eq!(broken_without_losses(seed), Vec::<String>::new(), "seed {seed}");
    }
}

#[test]
fn a_refund_that_was_written_down_and_not_told_is_told() {
    assert_eq!(broken_without_losses(2188), Vec::<String>::new());
}

#[test]
fn workers_that_wait_for_each_others_locks_go_on() {
    assert_eq!(broken_without_losses(5326), Vec::<String>::new());
    assert_eq!(broken_without_losses(7512), Vec::<String>::new());
}

#[test]
fn a_restore_to_a_moment_before_another_one_begins_no_epoch_again() {
    for seed in [83, 464] {
        assert_eq!(broken(seed), Vec::<String>::new(), "seed {seed}");
    }
}

#[test]
fn an_epoch_whose_beginning_nobody_remembers_but_workers_is_followed_by_the_next_one() {
    assert_eq!(broken(4929), Vec::<String>::new());
}

#[test]
fn replies_that_were_not_read_before_a_restore_are_read_after_it() {
    for seed in [248, 484] {
        assert_eq!(broken(seed), Vec::<String>::new(), "seed {seed}");
    }
}

#[test]
fn who_is_asked_to_pay_a_forgotten_refund_once_more_pays_nothing() {
    for seed in [306, 307, 345] {
        assert_eq!(broken(seed), Vec::<String>::new(), "seed {seed}");
    }
}
