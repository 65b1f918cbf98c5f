//! Who is where and what is cut: the addresses of all processes, the pairs that speak with each other, and the cuts of a
//! run. Pure.

use std::{collections::BTreeSet, fmt, iter, net::Ipv4Addr, sync::LazyLock, time::Duration};

use amends_api::services;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

use crate::deployment::{PARTICIPANTS, ROLES};

/// The database server's place.
pub const POSTGRES: &str = "postgres";
/// The broker's place.
pub const KAFKA: &str = "kafka";

/// Processes of each role that run from the beginning.
pub const FIRST_MEMBERS: usize = 2;
/// Roles whose processes share out one topic, and of which a third joins and leaves.
pub static JOINED: LazyLock<Vec<&'static str>> =
    LazyLock::new(|| [&["engine"][..], PARTICIPANTS.as_slice()].concat());

/// A network namespace and the address that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `engine-1`.
    pub name: String,
    /// Its only address, beside 127.0.0.1.
    pub address: Ipv4Addr,
}

/// Returns an address of 198.18.77.0/24: RFC 2544 sets 198.18.0.0/15 aside for tests of networks.
fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 77, last)
}

/// Returns the address of this machine in the network of the places.
pub fn our_address() -> Ipv4Addr {
    address(1)
}

/// Returns the place of each process: both servers, two processes of each role, and a third of those that grow.
pub fn places() -> Vec<Place> {
    let servers = [POSTGRES, KAFKA].map(str::to_owned);
    let members = ROLES.iter().flat_map(|role| {
        let name = role[role.len() - 1];
        let count = FIRST_MEMBERS + usize::from(JOINED.contains(&name));
        (1..=count).map(move |number| member(name, number))
    });
    let place = |(name, last)| Place { name, address: address(last) };
    servers.into_iter().chain(members).zip(2..).map(place).collect()
}

/// Returns the name of a role's process: `engine-1`.
pub fn member(role: &str, number: usize) -> String {
    format!("{role}-{number}")
}

/// A kind of pair that speaks with each other; the client opens the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// The client's role.
    pub client: &'static str,
    /// The server: a place, or the role of the first process that serves.
    pub server: &'static str,
}

/// All of them. (A worker's database is on the one Postgres.)
pub static LINKS: LazyLock<Vec<Link>> = LazyLock::new(|| {
    let workers = services::workers().map(|service| service.name);
    let links = ["engine", "api"].into_iter().chain(workers).flat_map(|client| {
        let servers = [POSTGRES, KAFKA].into_iter().chain((client == "api").then_some("inventory"));
        iter::repeat(client).zip(servers)
    });
    links.map(|(client, server)| Link { client, server }).collect()
});

impl Link {
    /// Returns the place of the server.
    pub fn server_place(self) -> String {
        if [POSTGRES, KAFKA].contains(&self.server) { self.server.into() } else { member(self.server, 1) }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}–{}", self.client, self.server)
    }
}

/// What is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Every packet.
    Both,
    /// What the client sends.
    ToServer,
    /// What the server sends.
    ToClient,
}

/// All directions.
pub const DIRECTIONS: [Direction; 3] = [Direction::Both, Direction::ToServer, Direction::ToClient];

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direction::Both => "both ways",
            Direction::ToServer => "to the server",
            Direction::ToClient => "to the client",
        })
    }
}

/// A cut between two places, for some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The kind of pair.
    pub link: Link,
    /// What is lost.
    pub direction: Direction,
    /// Which of the client's processes, from 1.
    pub number: usize,
    /// For how long.
    pub length: Duration,
}

impl Cut {
    /// Returns the place of the client.
    pub fn client_place(&self) -> String {
        member(self.link.client, self.number)
    }
}

/// Returns the cuts of a run in order: each pair whose name contains `only`, in each direction, once briefly (up to a
/// tenth of the longest), once past a session, once for a third of the longest to all of it.
pub fn cuts(seed: u64, longest: Duration, only: &str) -> Vec<Cut> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut cuts = Vec::new();
    for link in LINKS.iter().copied().filter(|link| link.to_string().contains(only)) {
        let mut shares = [0.04..0.1, 0.14..0.25, 0.34..1.0_f64];
        shares.shuffle(&mut random);
        for (direction, share) in DIRECTIONS.into_iter().zip(shares) {
            let number = random.random_range(1..=FIRST_MEMBERS);
            let length = longest.mul_f64(random.random_range(share));
            cuts.push(Cut { link, direction, number, length });
        }
    }
    cuts.shuffle(&mut random);
    cuts
}

/// Returns the pairs and directions whose name contains `only` and that were not cut.
pub fn never_cut<'a>(done: impl Iterator<Item = &'a Cut>, only: &str) -> Vec<(Link, Direction)> {
    let done: BTreeSet<_> = done.map(|cut| (cut.link, cut.direction)).collect();
    let links = LINKS.iter().copied().filter(|link| link.to_string().contains(only));
    let all = links.flat_map(|link| DIRECTIONS.map(|direction| (link, direction)));
    all.filter(|pair| !done.contains(pair)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn every_process_has_a_place_and_an_address_of_its_own() {
        let places = places();
        let names: BTreeSet<_> = places.iter().map(|place| place.name.as_str()).collect();
        let addresses: BTreeSet<_> = places.iter().map(|place| place.address).collect();
        assert_eq!((names.len(), addresses.len()), (places.len(), places.len()));
        assert!(!addresses.contains(&our_address()));
        assert!(addresses.iter().all(|address| address.octets()[..3] == [198, 18, 77]));
        for expected in ["postgres", "kafka", "api-2", "engine-3", "payment-3", "notification-2"] {
            assert!(names.contains(expected), "{expected} of {names:?}");
        }
        // A name is an interface of the switch, and Linux allows fifteen bytes.
        assert!(names.iter().all(|name| name.len() <= 15), "{names:?}");
    }

    #[test]
    fn both_ends_of_every_cut_are_places() {
        let places: Vec<_> = places().into_iter().map(|place| place.name).collect();
        for cut in cuts(3, MINUTE, "") {
            let ends = [cut.client_place(), cut.link.server_place()];
            assert!(ends.iter().all(|end| places.contains(end)) && ends[0] != ends[1], "{cut:?}");
        }
    }

    #[test]
    fn a_run_cuts_every_pair_in_every_direction_briefly_and_for_long() {
        for seed in 0..100 {
            let cuts = cuts(seed, MINUTE, "");
            assert_eq!(cuts.len(), LINKS.len() * DIRECTIONS.len());
            assert!(never_cut(cuts.iter(), "").is_empty());
            assert!(cuts.iter().all(|cut| cut.length > Duration::from_secs(2) && cut.length <= MINUTE));
            for link in LINKS.iter().copied() {
                let of = || cuts.iter().filter(|cut| cut.link == link).map(|cut| cut.length);
                assert!(of().min().unwrap() < MINUTE / 10 && of().max().unwrap() > MINUTE / 3, "{link}");
            }
        }
        assert_eq!(cuts(7, MINUTE, ""), cuts(7, MINUTE, ""));
        assert_ne!(cuts(7, MINUTE, ""), cuts(8, MINUTE, ""));
    }

    #[test]
    fn what_was_not_cut_is_named() {
        let mut some = cuts(1, MINUTE, "engine");
        assert_eq!(some.len(), 6);
        let missing = some.pop().unwrap();
        assert_eq!(never_cut(some.iter(), "engine"), [(missing.link, missing.direction)]);
        assert_eq!(never_cut(some.iter(), "").len(), 39 - 5);
    }
}
