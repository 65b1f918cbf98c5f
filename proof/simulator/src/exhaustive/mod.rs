//! Every interleaving of a small system: a breadth-first search over all reachable states.
//!
//! * [`saga`]: a saga of two steps, two engines (either may be a zombie), and a worker by the protocol's table.
//! * [`row`]: the row of a worker with external calls, two instances, and a gateway whose calls arrive late.

pub mod row;
pub mod saga;

use std::{
    collections::{HashSet, VecDeque},
    fmt::{self, Debug, Write},
    hash::{DefaultHasher, Hasher},
};

use uuid::Uuid;

/// Returns the id of a saga born at the beginning of these searches: on 1 January 2026.
fn saga_id() -> Uuid {
    Uuid::from_u128(1_767_225_600_000 << 80 | 0x7 << 76 | 1)
}

/// A system with states.
pub trait Space {
    /// A state. Two states are equal if `describe` writes the same.
    type State: Clone + Debug;
    /// Returns the initial state.
    fn initial(&self) -> Self::State;
    /// Returns the possible next steps: name and resulting state.
    fn next(&self, state: &Self::State) -> Vec<(String, Self::State)>;
    /// Writes what distinguishes states.
    fn describe(&self, state: &Self::State, into: &mut dyn Write) {
        let _ = write!(into, "{state:?}");
    }
    /// Returns what is wrong with a state; `at_rest` says that nothing more can happen.
    fn broken(&self, state: &Self::State, at_rest: bool) -> Option<String>;
}

/// The result of a search.
#[derive(Debug, Clone)]
pub struct Found {
    /// Number of distinct states.
    pub states: usize,
    /// Number of steps between them.
    pub steps: usize,
    /// Number of states in which nothing more can happen.
    pub at_rest: usize,
    /// The first wrong state: the reason, and the steps that lead to it.
    pub broken: Option<(String, Vec<String>)>,
}

/// A search and its name.
pub type Explore = (&'static str, fn() -> Found);

/// Returns the searches of a campaign.
pub fn all() -> Vec<Explore> {
    vec![
        ("saga: a duplicate, a timeout, a cancellation", || search(&saga::TwoSteps::new(saga::SMALL), MOST)),
        ("saga: a loss, a timeout, a cancellation", || search(&saga::TwoSteps::new(saga::LOSS), MOST)),
        ("saga: a crash, a timeout, a cancellation", || search(&saga::TwoSteps::new(saga::CRASH), MOST)),
        ("saga: two signals, a crash, a timeout, a cancellation", || {
            search(&saga::TwoSteps::new(saga::SIGNALS), MOST)
        }),
        ("saga: a failure, a timeout, a cancellation", || search(&saga::TwoSteps::new(saga::FAILURE), MOST)),
        ("saga: undos that give nothing back, an operator, a cancellation", || {
            search(&saga::TwoSteps::new(saga::UNNETTED), MOST)
        }),
        ("saga: an echo of another step, a timeout, a cancellation", || {
            search(&saga::TwoSteps::new(saga::ECHO), MOST)
        }),
        ("row: a late call, a lapsed lease, a compensation", || search(&row::OneRow::new(row::SMALL), MOST)),
        ("row: two of each, a probe, out of order", || search(&row::OneRow::new(row::LARGE), MOST)),
        ("row: a person says that it was not done", || search(&row::OneRow::new(row::RESOLVED), MOST)),
    ]
}

/// Maximum number of states of a search.
pub const MOST: usize = 3_000_000;

/// Feeds its input to two hashers: states are distinguished by 128 bits.
struct Print(DefaultHasher, DefaultHasher);

impl Write for Print {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        self.1.write(text.as_bytes());
        Ok(())
    }
}

fn print<S: Space>(space: &S, state: &S::State) -> u128 {
    let mut print = Print(DefaultHasher::new(), DefaultHasher::new());
    print.1.write_u8(7);
    space.describe(state, &mut print);
    (u128::from(print.0.finish()) << 64) | u128::from(print.1.finish())
}

/// Visits every state once; stops at the first wrong state, or after `most` states.
pub fn search<S: Space>(space: &S, most: usize) -> Found {
    let mut found = Found { states: 0, steps: 0, at_rest: 0, broken: None };
    let first = space.initial();
    let mut seen = HashSet::from([print(space, &first)]);
    // How each state was reached, for people: (parent, step).
    let mut origins: Vec<(usize, String)> = vec![(0, "begin".to_owned())];
    let mut queue = VecDeque::from([(0, first)]);
    while let Some((at, state)) = queue.pop_front() {
        found.states += 1;
        let next = space.next(&state);
        found.at_rest += usize::from(next.is_empty());
        if let Some(why) = space.broken(&state, next.is_empty()) {
            let (mut steps, mut at) = (Vec::new(), at);
            while at != 0 {
                steps.push(origins[at].1.clone());
                at = origins[at].0;
            }
            steps.reverse();
            steps.push(format!("{state:?}"));
            found.broken = Some((why, steps));
            return found;
        }
        if found.states >= most {
            found.broken = Some((format!("more than {most} states"), Vec::new()));
            return found;
        }
        for (step, state) in next {
            found.steps += 1;
            if seen.insert(print(space, &state)) {
                origins.push((at, step));
                queue.push_back((origins.len() - 1, state));
            }
        }
    }
    found
}

impl Found {
    /// Returns a line for people, and the steps to the wrong state.
    pub fn report(&self, name: &str) -> String {
        let Found { states, steps, at_rest, broken } = self;
        let mut text = format!("{name}: {states} states, {steps} steps, {at_rest} at rest");
        if let Some((why, way)) = broken {
            let _ = write!(text, "\nBROKEN: {why}\n  {}", way.join("\n  "));
        }
        text
    }
}
