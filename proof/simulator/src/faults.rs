//! What goes wrong: each kind of fault with a stream of random numbers of its own, so that switching one kind off
//! leaves the others as they were.

use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};

/// A stream of random numbers.
pub type Rng = Xoshiro256PlusPlus;

/// The stream that a seed and a purpose give.
pub fn stream(seed: u64, purpose: u64) -> Rng {
    Rng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ purpose.wrapping_mul(0xd1b5_4a32_d192_ed03))
}

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// A kind of fault, or of interference by people.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Fault { $($(#[$doc])* $name,)* }
        impl Fault {
            /// All of them.
            pub const ALL: &'static [Fault] = &[$(Fault::$name,)*];
            /// What it is called.
            pub fn word(self) -> &'static str {
                match self { $(Fault::$name => $word,)* }
            }
        }
    };
}

faults! {
    /// A message takes long.
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
    /// A process stands still and goes on later.
    Freeze = "freeze",
    /// A process cannot reach a server.
    Partition = "partition",
    /// A server is away for everybody.
    Outage = "outage",
    /// The broker is away for everybody, for minutes.
    LongOutage = "broker-long-outage",
    /// A database does not do what is asked, this time.
    Refusal = "database-error",
    /// The answer to a commit of the engine's store is lost.
    StoreAnswerLost = "store-commit-answer-lost",
    /// The answer to a commit of a worker's database is lost.
    RowsAnswerLost = "rows-commit-answer-lost",
    /// The broker forgets what it has acknowledged.
    Amnesia = "broker-amnesia",
    /// Consumers begin again at an earlier offset.
    Replay = "replay",
    /// Members of a group change places.
    Rebalance = "rebalance",
    /// Clocks are apart and run at different speeds.
    Skew = "clock-skew",
    /// A gateway is out of order, cleanly.
    GatewayDown = "gateway-503",
    /// A gateway's answer never comes.
    GatewaySilent = "gateway-silent",
    /// A call reaches its gateway long after its caller has given up.
    GatewayLate = "gateway-late",
    /// A worker is older than a command.
    Unsupported = "unsupported",
    /// A message that nobody can read.
    Poison = "poison",
    /// A reply that the store cannot keep.
    Unstorable = "unstorable",
    /// A reply that answers no command.
    Forged = "forged",
    /// A customer cancels.
    Cancel = "cancel",
    /// A customer asks twice.
    Repeat = "repeat",
    /// An operator acts.
    Operator = "operator",
    /// A reply that repeats what another command said.
    Echo = "wrong-echo",
    /// A worker that knows nothing of an effect says that it is undone.
    Unnetted = "nothing-given-back",
    /// The clock of the engine's database is set back.
    ClockBack = "clock-back",
    /// A forgotten transaction holds a saga's row.
    RowHeld = "row-held",
    /// Engines and apis are replaced by newer ones, and by older ones again, one at a time.
    Upgrade = "rolling-upgrade",
}

/// Which faults a run has, and how often.
#[derive(Debug, Clone)]
pub struct Plan {
    rates: Vec<f64>,
    streams: Vec<Rng>,
    /// How often each struck.
    pub struck: Vec<u64>,
}

impl Plan {
    /// The plan of a seed, without some kinds. Every seed has some kinds, seldom or often ("swarm testing").
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

    /// How often a kind strikes, compared with the usual; 0: never.
    pub fn rate(&self, fault: Fault) -> f64 {
        self.rates[fault as usize]
    }

    /// Its stream.
    pub fn stream(&mut self, fault: Fault) -> &mut Rng {
        &mut self.streams[fault as usize]
    }

    /// Whether it strikes now, at this usual probability.
    pub fn strikes(&mut self, fault: Fault, probability: f64) -> bool {
        let rate = self.rates[fault as usize];
        let strikes =
            rate > 0.0 && self.streams[fault as usize].random_bool((probability * rate).clamp(0.0, 1.0));
        self.struck[fault as usize] += u64::from(strikes);
        strikes
    }

    /// A number of its stream.
    pub fn draw(&mut self, fault: Fault, range: std::ops::Range<u64>) -> u64 {
        self.streams[fault as usize].random_range(range)
    }
}
