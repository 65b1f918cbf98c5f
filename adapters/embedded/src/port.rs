//! Chooses ports for listeners that another process opens a moment later.

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    process,
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Below the ports that Linux assigns to outgoing connections and to requests for any port (32,768 and up), so that
/// none of these is taken by chance before its listener opens.
const FREE_PORTS: Range<u16> = 16_000..32_000;

/// Returns a port of 127.0.0.1 at which no process listens. A process gets each port only once (until it has had all),
/// and processes that run side by side begin at different ports.
///
/// # Errors
/// All ports are taken, or none can be opened here.
pub fn free_port() -> io::Result<u16> {
    static NEXT: LazyLock<AtomicUsize> = LazyLock::new(|| AtomicUsize::new(process::id() as usize * 101));
    let mut taken = io::ErrorKind::AddrInUse.into();
    for _ in FREE_PORTS {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FREE_PORTS.clone().nth(turn % FREE_PORTS.len()).expect("one of them");
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) => taken = error,
        }
    }
    Err(taken)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_port_is_given_twice_nor_one_at_which_somebody_listens() {
        let first = free_port().unwrap();
        let next = if first + 1 == FREE_PORTS.end { FREE_PORTS.start } else { first + 1 };
        let listening = TcpListener::bind((Ipv4Addr::LOCALHOST, next));
        let given: HashSet<u16> = (0..500).map(|_| free_port().unwrap()).collect();
        assert_eq!(given.len(), 500);
        assert!(!given.contains(&first) && !given.contains(&next));
        assert!(given.iter().all(|port| FREE_PORTS.contains(port)));
        drop(listening);
    }
}
