//! Where each process spends its time, by `perf`: it samples all of them for as long as a window is.

use std::{
    collections::BTreeMap,
    fs,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::stage::Stage;

/// Samples a second and core.
const RATE: &str = "499";
/// The name under which perf counts an idle core.
const IDLE: [&str; 3] = ["pv_native_safe_halt", "native_safe_halt", "default_idle"];
/// Number of functions shown for each process.
const SHOWN: usize = 12;

/// One function of one process (or of all that are alike).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spent {
    /// `engine`, `workers`, `api`, `postgres`, `kafka`, `load`.
    pub process: &'static str,
    /// Where it is from, and its name; `all of it` for the whole process.
    pub function: String,
    /// Share of the time of all processes.
    pub percent: f64,
}

/// A profile that is being taken.
pub struct Profile {
    perf: Child,
    data: tempfile::NamedTempFile,
    roles: BTreeMap<u32, &'static str>,
}

impl Profile {
    /// Starts perf.
    pub fn begin(stage: &Stage) -> Result<Self> {
        let data = tempfile::NamedTempFile::new()?;
        let perf = Command::new("perf")
            .args(["record", "-q", "-a", "-F", RATE, "-o"])
            .arg(data.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("perf is missing (Debian's package linux-perf)")?;
        let roles = stage.roles.iter().map(|(group, role)| (role.pid(), *group));
        let kafka = stage.deployment.kafka.pid().map(|pid| (pid, "kafka"));
        let roles = roles.chain(kafka).chain([(std::process::id(), "load")]).collect();
        Ok(Self { perf, data, roles })
    }

    /// Stops perf; returns each process's share and its most expensive functions.
    pub fn end(mut self) -> Result<Vec<Spent>> {
        let interrupted =
            Command::new("sh").args(["-c", &format!("kill -INT {}", self.perf.id())]).status()?;
        ensure!(interrupted.success(), "perf has ended by itself");
        self.perf.wait()?;
        // perf reports a thread's id where it says process id.
        let threads = |(pid, role): (&u32, &&'static str)| {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            let role = *role;
            tasks
                .filter_map(move |task| Some((task.file_name().to_str()?.parse().ok()?, role)))
                .collect::<Vec<_>>()
        };
        let roles: BTreeMap<u32, &'static str> = self.roles.iter().flat_map(threads).collect();
        let report = Command::new("perf")
            .args([
                "report",
                "--stdio",
                "-q",
                "--sort",
                "pid,dso,symbol",
                "-F",
                "overhead,pid,dso,symbol",
                "-t",
                "|",
                "-i",
            ])
            .arg(self.data.path())
            .stdin(Stdio::null())
            .output()?;
        ensure!(report.status.success(), "perf report: {}", String::from_utf8_lossy(&report.stderr));
        Ok(summed(&String::from_utf8_lossy(&report.stdout), &roles))
    }
}

/// Adds up lines like `  1.25%|  5799:postgres|postgres|[.] hash_search`.
fn summed(report: &str, roles: &BTreeMap<u32, &'static str>) -> Vec<Spent> {
    let mut by_process = BTreeMap::<&'static str, BTreeMap<String, f64>>::new();
    for line in report.lines() {
        let mut fields = line.split('|').map(str::trim);
        let (Some(percent), Some(pid), Some(dso), Some(symbol)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let Ok(percent) = percent.trim_end_matches('%').parse::<f64>() else { continue };
        let (pid, command) = pid.split_once(':').unwrap_or((pid, ""));
        let role = pid.trim().parse().ok().and_then(|pid: u32| roles.get(&pid).copied());
        let process = role.unwrap_or(if command.starts_with("postgres") { "postgres" } else { "others" });
        let name = symbol.get(4..).unwrap_or(symbol);
        if IDLE.contains(&name) {
            continue;
        }
        let function = match dso {
            "[kernel.kallsyms]" => format!("kernel: {name}"),
            "amends" | "amends-bench" | "postgres" => name.to_owned(),
            // Compiled code of the JVM has no names that perf knows.
            dso if dso.contains(".map") || dso.contains("jit") || name.starts_with("0x") => {
                "compiled Java".to_owned()
            }
            dso => format!("{dso}: {name}"),
        };
        *by_process.entry(process).or_default().entry(function).or_default() += percent;
    }
    let mut spent = Vec::new();
    for (process, functions) in by_process {
        let all = functions.values().sum();
        spent.push(Spent { process, function: "all of it".to_owned(), percent: all });
        let mut functions: Vec<_> = functions.into_iter().collect();
        functions.sort_by(|a, b| b.1.total_cmp(&a.1));
        spent.extend(functions.into_iter().take(SHOWN).map(|(function, percent)| Spent {
            process,
            function,
            percent,
        }));
    }
    spent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_are_one_process_and_functions_are_added_up() {
        let report = "  2.50%|   11:postgres|postgres|[.] hash_search\n\
                      \x20 1.50%|   12:postgres|postgres|[.] hash_search\n\
                      \x20 3.00%|    7:tokio-rt-worker|[kernel.kallsyms]|[k] tcp_ack\n";
        let spent = summed(report, &BTreeMap::from([(7, "engine")]));
        let of = |process, function: &str, percent| Spent { process, function: function.into(), percent };
        assert_eq!(
            spent,
            [
                of("engine", "all of it", 3.0),
                of("engine", "kernel: tcp_ack", 3.0),
                of("postgres", "all of it", 4.0),
                of("postgres", "hash_search", 4.0)
            ]
        );
    }
}
