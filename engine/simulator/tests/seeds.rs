//! Seeds: some for every day, and those that once failed.

use amends_sim::run::{Options, run};

/// What a run with this seed breaks.
fn broken(seed: u64) -> Vec<String> {
    run(seed, &Options::default()).violations
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
