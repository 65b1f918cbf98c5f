//! CPU time and memory of processes, from `/proc`.

use std::{collections::HashMap, fs};

/// Processes that are counted together.
#[derive(Debug, Clone)]
pub enum Group {
    /// The processes with these ids.
    Processes(Vec<u32>),
    /// This process, its descendants, and those of its children that have ended.
    Tree(u32),
}

/// The CPU times of `/proc/<pid>/stat`, in clock ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: u32,
    own: u64,
    reaped: u64,
}

impl Group {
    /// Milliseconds of CPU so far, in user space and in the kernel.
    pub fn cpu_ms(&self) -> f64 {
        let ticks: u64 = match self {
            Group::Processes(pids) => pids.iter().filter_map(|pid| stat(*pid)).map(|stat| stat.own).sum(),
            Group::Tree(root) => {
                let (all, family) = (all(), self.members());
                let own = family.iter().filter_map(|pid| all.get(pid)).map(|stat| stat.own).sum::<u64>();
                own + all.get(root).map_or(0, |stat| stat.reaped)
            }
        };
        ticks as f64 * 1_000.0 / rustix::param::clock_ticks_per_second() as f64
    }

    /// Resident megabytes; what several share is shared out among them.
    pub fn memory_mb(&self) -> f64 {
        self.members().into_iter().filter_map(pss_kb).sum::<u64>() as f64 / 1_024.0
    }

    fn members(&self) -> Vec<u32> {
        match self {
            Group::Processes(pids) => pids.clone(),
            Group::Tree(root) => {
                let all = all();
                let mut family = vec![*root];
                let mut looked_at = 0;
                while let Some(parent) = family.get(looked_at).copied() {
                    family.extend(all.iter().filter(|(_, stat)| stat.parent == parent).map(|(pid, _)| *pid));
                    looked_at += 1;
                }
                family
            }
        }
    }
}

fn all() -> HashMap<u32, Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, stat(pid)?))).collect()
}

fn stat(pid: u32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in the middle may hold anything, a closing bracket too.
fn parse(line: &str) -> Option<Stat> {
    let after_name = line.rsplit_once(')')?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let number = |n: usize| fields.get(n)?.parse::<u64>().ok();
    Some(Stat {
        parent: u32::try_from(number(1)?).ok()?,
        own: number(11)? + number(12)?,
        reaped: number(13)? + number(14)?,
    })
}

fn pss_kb(pid: u32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_have_any_name() {
        let line = "71 (a) b (c) S 12 71 71 0 -1 4194560 5 6 0 0 100 20 3000 400 20 0 1 0 9 0 0";
        assert_eq!(parse(line), Some(Stat { parent: 12, own: 120, reaped: 3_400 }));
    }

    #[test]
    fn this_process_works_and_has_memory() {
        let group = Group::Tree(std::process::id());
        let begun = group.cpu_ms();
        while group.cpu_ms() < begun + 20.0 {}
        assert!(group.memory_mb() > 0.5);
    }
}
