//! The only file of this crate in which `unsafe` is allowed: calls to C that no safe wrapper covers.
//!
//! Each function is safe to call; the reason stands next to its `unsafe` block.

#![allow(unsafe_code)]

use std::{io, os::unix::process::CommandExt, process::Command};

use rdkafka::producer::{BaseProducer, Producer};

/// Signals that end servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Orderly: Postgres ends its sessions and writes a checkpoint.
    Interrupt,
    /// At once: Postgres recovers at its next start.
    Quit,
    /// By force.
    Kill,
}

impl Signal {
    fn number(self) -> libc::c_int {
        match self {
            Self::Interrupt => libc::SIGINT,
            Self::Quit => libc::SIGQUIT,
            Self::Kill => libc::SIGKILL,
        }
    }
}

/// Returns the user of this process.
pub(crate) fn user() -> u32 {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
}

/// Returns whether this process may become another user.
pub(crate) fn is_root() -> bool {
    user() == 0
}

/// Sends a signal; a process that is gone is no error.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let Ok(pid) = libc::pid_t::try_from(pid) else { return };
    if pid > 0 {
        // SAFETY: kill touches no memory of ours; `pid` is one process, never a group or everybody.
        unsafe { libc::kill(pid, signal.number()) };
    }
}

/// Makes the kernel send `signal` to the command's process when the *thread* that spawns it ends, even by kill -9.
/// Linux only; elsewhere the command outlives a parent that is killed.
pub(crate) fn die_with_spawner(command: &mut Command, signal: Signal) {
    #[cfg(target_os = "linux")]
    {
        let parent = std::process::id();
        let tie = move || {
            // SAFETY: prctl and getppid are async-signal-safe, as a closure between fork and exec must be.
            let (tied, ppid) =
                unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, signal.number()), libc::getppid()) };
            match tied {
                -1 => Err(io::Error::last_os_error()),
                // The parent died before the tie was made.
                _ if u32::try_from(ppid) != Ok(parent) => Err(io::Error::from_raw_os_error(libc::ESRCH)),
                _ => Ok(()),
            }
        };
        // SAFETY: the closure allocates nothing and takes no lock.
        unsafe { command.pre_exec(tie) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (command, signal);
}

/// Puts the command's process into its own network namespace, with loopback alone, so that no other process can reach
/// its ports. If the kernel does not allow that, it stays in ours.
pub(crate) fn give_own_network(command: &mut Command) {
    #[cfg(target_os = "linux")]
    {
        let leave = || {
            // SAFETY: these are system calls that are async-signal-safe, as a closure between fork and exec must be;
            // `request` is a valid `ifreq` for as long as the call that reads it.
            unsafe {
                let alone = libc::unshare(libc::CLONE_NEWNET) == 0
                    || libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) == 0;
                if !alone {
                    return Ok(());
                }
                let mut request: libc::ifreq = std::mem::zeroed();
                for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
                    *to = from as libc::c_char;
                }
                request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
                let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
                let up = socket >= 0 && libc::ioctl(socket, libc::SIOCSIFFLAGS as _, &request) == 0;
                let error = io::Error::last_os_error();
                libc::close(socket);
                if up { Ok(()) } else { Err(error) }
            }
        };
        // SAFETY: the closure allocates nothing and takes no lock.
        unsafe { command.pre_exec(leave) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = command;
}

/// Makes group members receive their partitions at once instead of after three seconds.
pub(crate) fn rebalance_at_once(mock: &BaseProducer) {
    // SAFETY: `cluster` is valid for as long as `mock`, and the call takes the cluster's own lock.
    unsafe { rdkafka_sys::rd_kafka_mock_group_initial_rebalance_delay_ms(cluster(mock), 0) }
}

/// Makes the mock cluster's only broker advertise 127.0.0.1 and this port. The address at which it listens does not
/// change.
pub(crate) fn advertise(mock: &BaseProducer, port: u16) {
    // SAFETY: as above; the host is copied before the call returns.
    unsafe {
        rdkafka_sys::rd_kafka_mock_broker_set_host_port(cluster(mock), 1, c"127.0.0.1".as_ptr(), port.into());
    }
}

/// Returns the mock cluster inside a client that was created with `test.mock.num.brokers`.
fn cluster(mock: &BaseProducer) -> *mut rdkafka_sys::rd_kafka_mock_cluster_t {
    // SAFETY: the client is alive, for we borrow it.
    let cluster = unsafe { rdkafka_sys::rd_kafka_handle_mock_cluster(mock.client().native_ptr()) };
    assert!(!cluster.is_null(), "the client was made with a mock cluster");
    cluster
}
