//! Bytes that the broker has written to its log, of all topics, its own too.

use std::{fs, path::Path};

/// All segments under this directory.
pub fn log_bytes(directory: &Path) -> u64 {
    let partitions = fs::read_dir(directory).into_iter().flatten().flatten();
    let segments =
        partitions.flat_map(|partition| fs::read_dir(partition.path()).into_iter().flatten().flatten());
    let is_log = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|ext| ext == "log");
    segments.filter(is_log).filter_map(|segment| Some(segment.metadata().ok()?.len())).sum()
}
