//! Instructions by callgrind: the program runs itself, once with and once without the work, and the difference counts.

use std::{env, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{Counts, work};

const TIMES: u32 = 200;

/// Instructions of each piece of work, for one order.
pub fn count() -> Result<Counts> {
    let mut counts = Counts::new();
    for name in work::NAMES {
        let spent = executed(name, TIMES)?.saturating_sub(executed(name, 0)?);
        counts.insert(format!("instructions: {name}"), spent / u64::from(TIMES));
    }
    Ok(counts)
}

fn executed(name: &str, times: u32) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe()?)
        .args(["work", name, &times.to_string()])
        .output()
        .context("valgrind is missing (Debian's package of that name)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind: {said}");
    let collected = said.lines().find_map(|line| line.split("Collected : ").nth(1));
    collected.and_then(|n| n.trim().parse().ok()).with_context(|| format!("valgrind counted nothing: {said}"))
}
