//! Finds the user of a connection over loopback. TCP does not say, but the kernel's socket table lists each socket's
//! user.

use std::{
    fs,
    io::{self, BufRead, BufReader},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream},
};

/// The table's code for "established". In every other state the user may be missing.
const ESTABLISHED: &str = "01";

/// Returns the user whose process holds the other end; `None` if the table has no such entry (any more).
pub(crate) fn user_of(connection: &TcpStream) -> io::Result<Option<u32>> {
    let (client, server) = (connection.peer_addr()?, connection.local_addr()?);
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let table = match fs::File::open(table) {
            Ok(table) => table,
            // This machine has no IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound && table.ends_with('6') => continue,
            Err(error) => return Err(error),
        };
        for line in BufReader::new(table).lines() {
            if let Some(user) = user_in(&line?, client, server) {
                return Ok(Some(user));
            }
        }
    }
    Ok(None)
}

/// Returns the user of this line, if it is the socket at `local` that is connected to `remote`.
fn user_in(line: &str, local: SocketAddr, remote: SocketAddr) -> Option<u32> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let is_it = address(fields.get(1)?)? == local
        && address(fields.get(2)?)? == remote
        && *fields.get(3)? == ESTABLISHED;
    if is_it { fields.get(7)?.parse().ok() } else { None }
}

/// Parses an address: `0100007F:1F90` is 127.0.0.1:8080, because each four bytes are printed as a number in native byte
/// order.
fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.split_once(':')?;
    let words: Option<Vec<[u8; 4]>> = host
        .as_bytes()
        .chunks(8)
        .map(|word| Some(u32::from_str_radix(str::from_utf8(word).ok()?, 16).ok()?.to_ne_bytes()))
        .collect();
    let host = match words?.as_slice() {
        [word] => IpAddr::from(*word),
        [a, b, c, d] => {
            let bytes: [u8; 16] = [*a, *b, *c, *d].concat().try_into().ok()?;
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(host, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn a_socket_s_user_is_found_by_both_its_ends() {
        let line = "   7: 0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 4242 1";
        assert_eq!(user_in(line, at(50_000), at(8080)), Some(1000));
        assert_eq!(user_in(line, at(8080), at(50_000)), None);
        assert_eq!(user_in(line, at(50_001), at(8080)), None);
    }

    #[test]
    fn an_ipv6_socket_that_speaks_ipv4_is_found_too() {
        let line = "1: 0000000000000000FFFF00000100007F:C350 0000000000000000FFFF00000100007F:1F90 01 0:0 0:0 0 33 0 9";
        assert_eq!(user_in(line, at(50_000), at(8080)), Some(33));
    }

    #[test]
    fn one_that_is_closing_has_no_user_any_more_and_is_not_taken_for_root_s() {
        let line =
            "7: 0100007F:C350 0100007F:1F90 06 00000000:00000000 03:00000F2A 00000000     0        0 0 3";
        assert_eq!(user_in(line, at(50_000), at(8080)), None);
    }
}
