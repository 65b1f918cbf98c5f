//! Faults: each kind has its own random stream, so that switching one kind off leaves the others unchanged.

use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};

/// A random stream.
pub type Rng = Xoshiro256PlusPlus;

/// Returns the random stream for a seed and a purpose.
pub fn stream(seed: u64, purpose: u64) -> Rng {
    Rng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ purpose.wrapping_mul(0xd1b5_4a32_d192_ed03))
}

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// A kind of fault, or of interference by people.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Fault { $($(#[$doc])* $name,)* }
        impl Fault {
            /// All kinds.
            pub const ALL: &'static [Fault] = &[$(Fault::$name,)*];
            /// Returns the name of the kind.
            pub fn word(self) -> &'static str {
                match self { $(Fault::$name => $word,)* }
            }
        }
    };
}

faults! {
    /// A message is delayed.
    Delay = "delay",
    /// A send fails; some of its messages have been sent.
    Loss = "loss",
    /// A message arrives twice.
    Duplicate = "duplicate",
    /// A message is overtaken.
    Reorder = "reorder",
    /// A process dies at a call of a port, before or after its effect.
    CrashAtPort = "crash-at-port",
    /// A process dies at any time.
    Crash = "crash",
    /// A process pauses and continues later.
    Freeze = "freeze",
    /// A process cannot reach a server.
    Partition = "partition",
    /// A server is unavailable to all processes.
    Outage = "outage",
    /// The broker is unavailable to all processes, for minutes.
    LongOutage = "broker-long-outage",
    /// A database refuses one request.
    Refusal = "database-error",
    /// The answer to a commit of the engine's store is lost.
    StoreAnswerLost = "store-commit-answer-lost",
    /// The answer to a commit of a worker's database is lost.
    RowsAnswerLost = "rows-commit-answer-lost",
    /// The broker loses acknowledged messages.
    Amnesia = "broker-amnesia",
    /// Consumers begin again at an earlier offset.
    Replay = "replay",
    /// Partitions move between the members of a group.
    Rebalance = "rebalance",
    /// Clocks differ and run at different speeds.
    Skew = "clock-skew",
    /// A gateway is out of order and says so.
    GatewayDown = "gateway-503",
    /// A gateway's answer never arrives.
    GatewaySilent = "gateway-silent",
    /// A call reaches its gateway long after its caller has given up.
    GatewayLate = "gateway-late",
    /// A worker is older than a command.
    Unsupported = "unsupported",
    /// An unreadable message.
    Poison = "poison",
    /// A reply that the store cannot store.
    Unstorable = "unstorable",
    /// A reply that answers no command.
    Forged = "forged",
    /// A customer cancels.
    Cancel = "cancel",
    /// A customer repeats a request.
    Repeat = "repeat",
    /// An operator acts.
    Operator = "operator",
    /// A reply that repeats another command's fields.
    Echo = "wrong-echo",
    /// A worker reports an effect as undone without knowing it.
    Unnetted = "nothing-given-back",
    /// The clock of the engine's database is set back.
    ClockBack = "clock-back",
    /// A forgotten transaction holds a saga's row.
    RowHeld = "row-held",
    /// Engines and apis are replaced by newer ones, and by older ones again, one at a time.
    Upgrade = "rolling-upgrade",
    /// One home of the engine's database does not answer.
    HomeAway = "home-away",
    /// One topic of commands cannot be produced to, for minutes, while the others can.
    TopicUnusable = "topic-unusable",
}

/// Which faults a run has, and how often.
#[derive(Debug, Clone)]
pub struct Plan {
    rates: Vec<f64>,
    streams: Vec<Rng>,
    /// Number of occurrences of each fault.
    pub struck: Vec<u64>,
}

impl Plan {
    /// Creates the plan of a seed, without some kinds. Every seed has some kinds, rarely or often ("swarm testing").
    pub fn new(seed: u64, without: &[Fault]) -> Self {
        let mut rng = stream(seed, 1);
        let rates = Fault::ALL.iter().map(|fault| {
            let people = matches!(fault, Fault::Cancel | Fault::Repeat | Fault::Operator);
            let on = rng.random_bool(if people { 0.9 } else { 0.45 });
            let rate = [0.2, 1.0, 3.0][rng.random_range(0..3)];
            if on && !without.contains(fault) { rate } else { 0.0 }
        });
        let rates = rates.collect();
        let streams = (0..Fault::ALL.len() as u64).map(|n| stream(seed, 100 + n)).collect();
        Self { rates, streams, struck: vec![0; Fault::ALL.len()] }
    }

    /// Returns the relative frequency of a kind; 0 means never.
    pub fn rate(&self, fault: Fault) -> f64 {
        self.rates[fault as usize]
    }

    /// Returns the kind's random stream.
    pub fn stream(&mut self, fault: Fault) -> &mut Rng {
        &mut self.streams[fault as usize]
    }

    /// Returns whether a fault occurs now, given its usual probability.
    pub fn strikes(&mut self, fault: Fault, probability: f64) -> bool {
        let rate = self.rates[fault as usize];
        let strikes =
            rate > 0.0 && self.streams[fault as usize].random_bool((probability * rate).clamp(0.0, 1.0));
        self.struck[fault as usize] += u64::from(strikes);
        strikes
    }

    /// Draws a number from the kind's stream.
    pub fn draw(&mut self, fault: Fault, range: std::ops::Range<u64>) -> u64 {
        self.streams[fault as usize].random_range(range)
    }
}
