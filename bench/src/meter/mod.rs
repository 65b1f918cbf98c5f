//! What is counted before and after a window.
//!
//! | module | counts |
//! | --- | --- |
//! | [`cpu`] | CPU time and memory of processes, from `/proc` |
//! | [`postgres`] | WAL, commits, statements |
//! | [`kafka`] | bytes of the broker's log |
//! | [`latency`] | percentiles |

pub mod cpu;
pub mod kafka;
pub mod latency;
pub mod postgres;

use std::{collections::BTreeMap, time::Instant};

use anyhow::Result;

use self::cpu::Group;
use crate::stage::Stage;

/// Everything that only grows, at one instant.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub at: Instant,
    /// Milliseconds by group of processes.
    pub cpu_ms: BTreeMap<&'static str, f64>,
    pub postgres: postgres::Counters,
    pub kafka_bytes: u64,
}

/// The processes that are counted.
pub struct Meter {
    pub groups: Vec<(&'static str, Group)>,
    pub postgres: postgres::Meter,
    kafka_log: std::path::PathBuf,
}

impl Meter {
    /// A meter of a stage's roles, its servers and this process.
    pub async fn of(stage: &Stage) -> Result<Self> {
        let mut groups: BTreeMap<&'static str, Vec<u32>> = BTreeMap::new();
        for (group, role) in &stage.roles {
            groups.entry(group).or_default().push(role.pid());
        }
        let mut groups: Vec<(&'static str, Group)> =
            groups.into_iter().map(|(name, pids)| (name, Group::Processes(pids))).collect();
        let deployment = &stage.deployment;
        groups.push(("postgres", Group::Tree(postgres::postmaster(deployment)?)));
        groups.push(("kafka", Group::Processes(deployment.kafka.pid().into_iter().collect())));
        groups.push(("load", Group::Processes(vec![std::process::id()])));
        let postgres = postgres::Meter::of(deployment).await?;
        Ok(Self { groups, postgres, kafka_log: deployment.directory().join("kafka/log") })
    }

    /// Reads all counters.
    pub async fn read(&self) -> Result<Snapshot> {
        let postgres = self.postgres.read().await?;
        let kafka_bytes = kafka::log_bytes(&self.kafka_log);
        let cpu_ms = self.groups.iter().map(|(name, group)| (*name, group.cpu_ms())).collect();
        Ok(Snapshot { at: Instant::now(), cpu_ms, postgres, kafka_bytes })
    }

    /// Resident megabytes by group.
    pub fn memory_mb(&self) -> BTreeMap<&'static str, f64> {
        self.groups.iter().map(|(name, group)| (*name, group.memory_mb())).collect()
    }
}
