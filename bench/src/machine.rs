//! The machine that the figures were measured on.

use std::{fs, path::Path, process::Command};

use serde::Serialize;

/// The machine, and what runs on it.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_gb: f64,
    pub system: String,
    pub kernel: String,
    pub file_system: String,
    pub postgres: String,
    pub kafka: String,
    pub java: String,
    pub commit: String,
}

impl Machine {
    /// Describes this machine; `data` is the servers' data directory.
    pub fn here(data: &Path) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let kb = field(&meminfo, "MemTotal").split(' ').next().and_then(|kb| kb.parse::<f64>().ok());
        let system = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpu: field(&cpuinfo, "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gb: (kb.unwrap_or_default() / 1_048_576.0 * 10.0).round() / 10.0,
            system: system.unwrap_or_default().trim_matches('"').to_owned(),
            kernel: kernel.trim().to_owned(),
            file_system: said("stat", &["-f", "-c", "%T", &data.to_string_lossy()]),
            postgres: String::new(),
            kafka: "Apache Kafka 4.1.0, one broker".to_owned(),
            java: said("java", &["-version"]),
            commit: said("git", &["describe", "--always", "--dirty", "--abbrev=10"]),
        }
    }
}

fn field(text: &str, name: &str) -> String {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'));
    value.unwrap_or_default().trim().to_owned()
}

/// The first line of a program's output.
fn said(program: &str, args: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(args).output() else { return String::new() };
    let first =
        |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().next().unwrap_or_default().trim().to_owned();
    let stdout = first(&output.stdout);
    if stdout.is_empty() { first(&output.stderr) } else { stdout }
}
