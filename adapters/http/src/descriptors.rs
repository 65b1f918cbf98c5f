//! Limits on the connections and files that a process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that HTTP connections leave for databases, brokers and files.
const DESCRIPTORS_RESERVED: u64 = 256;

/// Raises the soft limit of descriptors to the hard limit. Returns the limit in force.
pub fn raise_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // It may be refused if the hard limit is above what the kernel allows; then the soft limit stays.
        let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        if let Err(error) = raised {
            tracing::debug!(%error, "the limit of descriptors could not be raised");
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Returns how many connections one listener may have open: `wanted`, or what the limit of descriptors leaves. A
/// process has at most two listeners.
pub fn connections(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let left = limit.saturating_sub(DESCRIPTORS_RESERVED) / 2;
    wanted.min(usize::try_from(left).unwrap_or(usize::MAX)).max(1)
}
