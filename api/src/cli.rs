//! The command line: one subcommand per role, and those that ask a running api.

pub mod saga;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum, builder::PossibleValuesParser};
use reqwest::Url;

use crate::{auth, services, settings::Error};

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
    /// The address to listen on.
    #[arg(long, global = true, value_name = "ADDR:PORT")]
    listen: Option<String>,
    /// Let everyone in without a token: the api on a loopback address, the other roles on any.
    #[arg(long, global = true)]
    no_auth: bool,
    /// Kafka's bootstrap servers.
    #[arg(long, global = true, value_name = "HOST:PORT,…")]
    kafka_brokers: Option<String>,
    /// An order still PENDING after this long cancels itself.
    #[arg(long, global = true, value_name = "TIME")]
    pending_timeout: Option<String>,
    /// Log filter: `info`, `amends_engine=debug,info`.
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    /// Any other setting: `--set stuck_after=1m`.
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Flags {
    /// Returns the flags as `key=value` pairs, for [`crate::settings::Settings::read`].
    ///
    /// # Errors
    /// A `--set` without `=`. Its text is not repeated: it may be a password.
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

/// The role of this process.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// Everything on this machine: a private Postgres, a Kafka broker, all roles.
    Dev(Dev),
    /// Prints a token for `dev`, whether or not it runs.
    Token(Token),
    /// Accepts orders over HTTP; serves the operators' API.
    Api,
    /// Drives sagas.
    Engine,
    /// Executes a participant's steps.
    Worker {
        /// The worker.
        #[arg(value_parser = PossibleValuesParser::new(services::workers().map(|service| service.name)))]
        name: String,
    },
    /// Creates databases, roles, tables and keys, or brings them up to date.
    Migrate {
        /// Makes the next keys of commands and replies the current ones, and draws new next keys. Restart every role
        /// before you rotate again.
        #[arg(long)]
        rotate_keys: bool,
    },
    /// Begins the next epoch after the engine's database was restored to an earlier state: run it once the database has
    /// recovered, before the roles are started. Says what is at risk. (A second run begins another epoch, which is
    /// harmless.)
    Restore {
        /// Looks only, and changes nothing.
        #[arg(long)]
        dry_run: bool,
        /// As a table for people, or as JSON for programs.
        #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
        output: OutputFormat,
    },
    /// Lists the topics of a deployment, and what each role may do with them at a Kafka with access control.
    Topics(Topics),
    /// Looks at databases, topics and lag, and says what is wrong and what to do; changes nothing. The status is 1 if
    /// anything is wrong.
    Doctor {
        /// As a table for people, or as JSON for programs.
        #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
        output: OutputFormat,
    },
    /// Sagas of a running api: lists, shows and explains them, plans actions and applies plans. The token is read from
    /// AMENDS_TOKEN.
    #[command(after_help = saga::EXIT_STATUS)]
    Saga(saga::Saga),
    /// Runs the sample orders against a running api whose gateway and carrier are the sandboxes, and prints their timelines.
    /// The status is 0 only if each ended as it should. It adds two products. The token, of the roles storefront and admin,
    /// is read from AMENDS_TOKEN.
    Samples {
        /// The address of the api.
        #[arg(long, value_name = "URL", env = "AMENDS_API_URL", default_value = "http://127.0.0.1:8080")]
        api: Url,
    },
    /// Prints the settings in force, commented, secrets hidden.
    Config,
    /// Messages to customers.
    Notify {
        #[command(subcommand)]
        what: Notify,
    },
    /// Asks a running role whether it is ready; status 0 if it is.
    Health(Health),
    /// The broker that `dev` runs as a separate process.
    #[command(name = EMBEDDED_BROKER, hide = true)]
    EmbeddedBroker {
        /// An `amends_embedded::BrokerPlan` as text.
        plan: String,
    },
}

/// What `amends notify` does.
#[derive(Debug, Subcommand)]
pub enum Notify {
    /// Prints a message as it would be sent about an order of an example.
    Preview {
        /// The type of the event that it is about.
        #[arg(long, value_name = "EVENT", value_parser = PossibleValuesParser::new(amends_notification::TOPICS))]
        template: String,
        /// How it is sent.
        #[arg(long, value_parser = PossibleValuesParser::new(amends_notification::Channel::ALL.map(|channel| channel.as_str())))]
        channel: String,
        /// Its language.
        #[arg(long, default_value = "en", value_parser = PossibleValuesParser::new(amends_notification::LOCALES))]
        locale: String,
        /// Prints an e-mail's HTML instead of its text.
        #[arg(long)]
        html: bool,
    },
}

/// Options of `amends topics`.
#[derive(Debug, Args)]
pub struct Topics {
    /// Prints, as options of Apache Kafka's kafka-acls.sh, what keeps each role to its own topics and groups.
    #[arg(long)]
    pub acls: bool,
    /// Creates what is missing. This needs a user of Kafka who may do so.
    #[arg(long)]
    pub apply: bool,
    /// The principal of a role, in whose place stands `{role}`: api, engine, inventory, …
    #[arg(long, value_name = "PRINCIPAL", default_value = "User:amends_{role}", value_parser = principal)]
    pub principal: String,
}

fn principal(text: &str) -> Result<String, &'static str> {
    amends_http::text::check(text)?;
    if !text.contains("{role}") || !text.contains(':') || text.contains('\'') {
        return Err("must be TYPE:NAME, with {role} in it, and without '");
    }
    Ok(text.to_owned())
}

/// The form of what a command prints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Options of `amends health`.
#[derive(Debug, Args)]
pub struct Health {
    /// The role's address. By default the one of this machine that `listen` names.
    #[arg(value_name = "URL")]
    pub url: Option<Url>,
    /// Asks only whether it is alive: its database and its broker may be away.
    #[arg(long)]
    pub live: bool,
}

/// Options of `amends token`.
#[derive(Debug, Args)]
pub struct Token {
    /// What the caller may do; several add up.
    #[arg(long, value_name = "ROLE", required = true)]
    pub role: Vec<auth::Role>,
    /// Who the caller is: a customer's id, a shop, an operator's name.
    #[arg(long, value_name = "NAME", value_parser = subject)]
    pub subject: String,
    /// How long it is valid.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = token_life)]
    pub ttl: Duration,
    /// The data directory of `dev`, which holds its key; made if it is missing.
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub data: PathBuf,
    /// Also writes the public half of the key to this file, for `jwt_key_file` of an api elsewhere.
    #[arg(long, value_name = "FILE")]
    pub public_key: Option<PathBuf>,
}

/// Longer than any run of `dev`, and short enough that no date overflows.
const TOKEN_LIFE_LONGEST: Duration = Duration::from_secs(3650 * 24 * 3600);

fn subject(text: &str) -> Result<String, &'static str> {
    amends_http::text::check(text).map(|()| text.to_owned())
}

fn token_life(text: &str) -> Result<Duration, String> {
    match humantime_serde::re::humantime::parse_duration(text) {
        Ok(life) if (Duration::from_secs(1)..=TOKEN_LIFE_LONGEST).contains(&life) => Ok(life),
        Ok(_) => Err("must be from 1s to 3650days".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Options of `amends dev`.
#[derive(Debug, Args)]
pub struct Dev {
    /// Where data is kept between runs.
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub data: PathBuf,
    /// Serves only requests with a token (see `amends token`); it may then listen on other than loopback addresses.
    #[arg(long)]
    pub auth: bool,
    /// Deletes what an earlier run left in the data directory first.
    #[arg(long)]
    pub fresh: bool,
    /// Leaves a worker out, and prints what yours needs in its place.
    #[arg(long, value_name = "WORKER", value_parser = PossibleValuesParser::new(services::workers().map(|service| service.name)))]
    pub without: Vec<String>,
    /// Runs the sample orders through every outcome.
    #[arg(long)]
    pub samples: bool,
    /// Ends after the samples; status 0 only if each ended as expected.
    #[arg(long)]
    pub once: bool,
}
