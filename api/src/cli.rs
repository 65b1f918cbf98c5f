//! The command line: a subcommand a role.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, builder::PossibleValuesParser};

use crate::{services, settings::Error};

/// The subcommand of `dev`'s broker.
pub const EMBEDDED_BROKER: &str = "embedded-broker";

/// Durable sagas for orders: reserve, pay, ship, and make amends for whatever fails.
#[derive(Debug, Parser)]
#[command(name = "amends", version, max_term_width = 100)]
pub struct Cli {
    /// A TOML file of settings; `amends config` prints them all.
    #[arg(long, global = true, value_name = "FILE", env = "AMENDS_CONFIG")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub flags: Flags,
    #[command(subcommand)]
    pub role: Role,
}

/// Settings that can be given as flags.
#[derive(Debug, Args)]
pub struct Flags {
    /// Where to listen.
    #[arg(long, global = true, value_name = "ADDR:PORT")]
    listen: Option<String>,
    /// Let anybody in who reaches the api (there are no tokens yet).
    #[arg(long, global = true)]
    no_auth: bool,
    /// Kafka's bootstrap servers.
    #[arg(long, global = true, value_name = "HOST:PORT,…")]
    kafka_brokers: Option<String>,
    /// An order still PENDING after this long cancels itself.
    #[arg(long, global = true, value_name = "TIME")]
    pending_timeout: Option<String>,
    /// What is logged: `info`, `amends_engine=debug,info`.
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    /// Any other setting: `--set stuck_after=1m`.
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Flags {
    /// As `key=value`, for [`crate::settings::Settings::read`].
    ///
    /// # Errors
    /// A `--set` that is none. What it says instead is not repeated: it may be a password.
    pub fn pairs(&self) -> Result<Vec<(String, String)>, Error> {
        let pair = |text: &String| {
            let (key, value) = text.split_once('=')?;
            Some((key.to_owned(), value.to_owned()))
        };
        let pairs: Option<Vec<_>> = self.set.iter().map(pair).collect();
        let mut pairs = pairs.ok_or_else(|| Error::Invalid("--set must be KEY=VALUE".to_owned()))?;
        let named = [
            ("listen", &self.listen),
            ("kafka_brokers", &self.kafka_brokers),
            ("pending_timeout", &self.pending_timeout),
            ("log", &self.log),
        ];
        pairs.extend(named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?))));
        if self.no_auth {
            pairs.push(("no_auth".to_owned(), "true".to_owned()));
        }
        Ok(pairs)
    }
}

/// What this process is.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// Everything on this machine: a private Postgres, a Kafka broker, all roles.
    Dev(Dev),
    /// Takes orders over HTTP; the operators' API.
    Api,
    /// Drives sagas.
    Engine,
    /// Does a participant's steps.
    Worker {
        /// Which.
        #[arg(value_parser = PossibleValuesParser::new(services::workers().map(|service| service.name)))]
        name: String,
    },
    /// Creates databases, roles, tables and keys, or brings them up to date.
    Migrate {
        /// Makes the next keys of commands and replies the current ones, and draws others. Start every role again
        /// before you do it once more.
        #[arg(long)]
        rotate_keys: bool,
    },
    /// Prints the settings in force, commented, secrets hidden.
    Config,
    /// What `dev` runs as a process of its own.
    #[command(name = EMBEDDED_BROKER, hide = true)]
    EmbeddedBroker {
        /// What `amends_embedded::BrokerPlan` prints.
        plan: String,
    },
}

/// Options of `amends dev`.
#[derive(Debug, Args)]
pub struct Dev {
    /// Where data is kept between runs.
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub data: PathBuf,
    /// Removes first what an earlier run left in the data directory.
    #[arg(long)]
    pub fresh: bool,
    /// Leaves a worker out, and prints what yours needs in its place.
    #[arg(long, value_name = "WORKER", value_parser = PossibleValuesParser::new(services::workers().map(|service| service.name)))]
    pub without: Vec<String>,
    /// Takes the sample orders through every outcome.
    #[arg(long)]
    pub samples: bool,
    /// Ends after the samples; status 0 only if each ended as it should.
    #[arg(long)]
    pub once: bool,
}
