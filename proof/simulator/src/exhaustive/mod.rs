//! Every interleaving, in the small: a breadth-first search over all states that can be reached.
//!
//! * [`saga`]: a saga of two steps, two engines (either may be the zombie), a worker by the protocol's table.
//! * [`row`]: the row of a worker that calls outside, two instances, a gateway whose calls land late.

pub mod row;
pub mod saga;

use std::{
    collections::{HashSet, VecDeque},
    fmt::{self, Debug, Write},
    hash::{DefaultHasher, Hasher},
};

use uuid::Uuid;

/// A saga that was born when these searches begin: on 1 January 2026.
fn saga_id() -> Uuid {
    Uuid::from_u128(1_767_225_600_000 << 80 | 0x7 << 76 | 1)
}

/// Something with states.
pub trait Space {
    /// A state. Two are the same if they look the same.
    type State: Clone + Debug;
    /// Where it begins.
    fn initial(&self) -> Self::State;
    /// What may happen next: what it is called, and what it leads to.
    fn next(&self, state: &Self::State) -> Vec<(String, Self::State)>;
    /// What tells states apart.
    fn tell(&self, state: &Self::State, into: &mut dyn Write) {
        let _ = write!(into, "{state:?}");
    }
    /// What is wrong with a state; `at_rest`: nothing more can happen.
    fn broken(&self, state: &Self::State, at_rest: bool) -> Option<String>;
}

/// What a search found.
#[derive(Debug, Clone)]
pub struct Found {
    /// Distinct states.
    pub states: usize,
    /// Steps between them.
    pub steps: usize,
    /// States in which nothing more can happen.
    pub at_rest: usize,
    /// The first that is wrong: why, and how it came about.
    pub broken: Option<(String, Vec<String>)>,
}

/// A search by its name.
pub type Explore = (&'static str, fn() -> Found);

/// The searches of a campaign.
pub fn all() -> Vec<Explore> {
    vec![
        ("saga: a duplicate, a timeout, a cancellation", || search(&saga::TwoSteps::new(saga::SMALL), MOST)),
        ("saga: a loss, a timeout, a cancellation", || search(&saga::TwoSteps::new(saga::LOSS), MOST)),
        ("saga: a crash, a timeout, a cancellation", || search(&saga::TwoSteps::new(saga::CRASH), MOST)),
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

/// No search visits more.
pub const MOST: usize = 3_000_000;

/// Feeds what is written into two hashers: states are told apart by 128 bits.
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
    space.tell(state, &mut print);
    (u128::from(print.0.finish()) << 64) | u128::from(print.1.finish())
}

/// Visits every state once; stops at the first that is wrong, or after so many.
pub fn search<S: Space>(space: &S, most: usize) -> Found {
    let mut found = Found { states: 0, steps: 0, at_rest: 0, broken: None };
    let first = space.initial();
    let mut seen = HashSet::from([print(space, &first)]);
    // How each was reached, for people: (parent, step).
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
    /// A line for people, and the way to what is wrong.
    pub fn report(&self, name: &str) -> String {
        let Found { states, steps, at_rest, broken } = self;
        let mut text = format!("{name}: {states} states, {steps} steps, {at_rest} at rest");
        if let Some((why, way)) = broken {
            let _ = write!(text, "\nBROKEN: {why}\n  {}", way.join("\n  "));
        }
        text
    }
}
