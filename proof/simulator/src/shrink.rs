//! Reduces a failing seed: fewer kinds of faults, fewer orders.

use std::collections::BTreeSet;

use crate::{
    faults::Fault,
    run::{Options, Report, run},
};

/// Returns the smallest variant of a failing seed that violates one of the same invariants, with its report.
pub fn shrink(seed: u64) -> (Options, Report) {
    let mut options = Options::default();
    let names = |report: &Report| -> BTreeSet<String> {
        report.violations.iter().map(|v| v.split(':').next().unwrap_or_default().to_owned()).collect()
    };
    let wanted = names(&run(seed, &options));
    let fails = |options: &Options| !names(&run(seed, options)).is_disjoint(&wanted);
    let mut orders: Vec<usize> = (0..40).collect();
    loop {
        let before = (options.without.len(), orders.len());
        // Orders are removed first by halves, then one at a time.
        let mut size = orders.len().div_ceil(2);
        while size > 0 {
            let mut at = 0;
            while at < orders.len() {
                let mut fewer = orders.clone();
                fewer.drain(at..(at + size).min(orders.len()));
                let candidate = Options { only: Some(fewer.clone()), ..options.clone() };
                if !fewer.is_empty() && fails(&candidate) {
                    (options, orders) = (candidate, fewer);
                } else {
                    at += size;
                }
            }
            size /= 2;
        }
        for fault in Fault::ALL.iter().filter(|f| !options.without.contains(f)).copied().collect::<Vec<_>>() {
            let mut candidate = options.clone();
            candidate.without.push(fault);
            if fails(&candidate) {
                options = candidate;
            }
        }
        if before == (options.without.len(), orders.len()) {
            break;
        }
    }
    options.trace = true;
    let report = run(seed, &options);
    (options, report)
}

/// Describes a reduced seed for people: its options, its violations, and its trace.
pub fn describe(seed: u64) -> String {
    let (options, report) = shrink(seed);
    let kept = |f: &&Fault| !options.without.contains(f) && report.coverage.faults.contains_key(f);
    let faults: Vec<&str> = Fault::ALL.iter().filter(kept).map(|f| f.word()).collect();
    let orders = options.only.unwrap_or_default();
    let mut text = format!("seed {seed}, orders {orders:?}, with {}\n", faults.join(", "));
    text += &report.trace;
    report.violations.iter().for_each(|v| text += &format!("VIOLATION {v}\n"));
    text
}
