//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

/// Measures Amends on this machine: sagas a second, latency, CPU, commits, WAL and memory.
#[derive(Debug, Parser)]
#[command(name = "amends-bench", version, max_term_width = 100, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(flatten)]
    pub bench: Bench,
    #[command(subcommand)]
    pub role: Option<Role>,
}

/// What is measured, and how.
#[derive(Debug, Clone, Args)]
pub struct Bench {
    /// In under six minutes: engine, workers and orders at 512 in flight, orders at 1, and the yardsticks.
    #[arg(long)]
    pub quick: bool,
    /// The modes to measure.
    #[arg(long, value_delimiter = ',', value_enum)]
    pub modes: Vec<Mode>,
    /// How many sagas are under way at once, in a closed loop.
    #[arg(long, value_delimiter = ',')]
    pub in_flight: Vec<usize>,
    /// The mixes to measure.
    #[arg(long, value_delimiter = ',', value_enum)]
    pub mix: Vec<Mix>,
    /// Arrivals a second, in an open loop; `50%` is of the most that the same mode and mix did here.
    #[arg(long, value_delimiter = ',')]
    pub rate: Vec<String>,
    /// Length of the window that is measured.
    #[arg(long, default_value_t = 20)]
    pub seconds: u64,
    /// How long each row runs before it is measured.
    #[arg(long, default_value_t = 5)]
    pub warm_up: u64,
    /// How often each row is measured; the median by sagas a second is shown.
    #[arg(long, default_value_t = 1)]
    pub times: usize,
    /// Lines of an order.
    #[arg(long, default_value_t = 1)]
    pub lines: usize,
    /// Engines side by side.
    #[arg(long, default_value_t = 1)]
    pub engines: usize,
    /// Sagas that are parked before it begins (as the next two, for one row only).
    #[arg(long, default_value_t = 0)]
    pub parked: u64,
    /// Sagas that wait for a timer before it begins; the timers fall within the next hour.
    #[arg(long, default_value_t = 0)]
    pub armed: u64,
    /// Sagas that have ended, with their entries, before it begins.
    #[arg(long, default_value_t = 0)]
    pub ended: u64,
    /// Partitions of the topics of commands and replies, instead of twelve.
    #[arg(long)]
    pub partitions: Option<u16>,
    /// Holds an idle transaction open in the engine's database all the time, whose snapshot keeps Postgres from
    /// cleaning up.
    #[arg(long)]
    pub pin: bool,
    /// Instead of rows: kills one of two engines at full load, and stops one, and shows when its sagas move again.
    #[arg(long)]
    pub takeover: bool,
    /// Shows where each process spends its time, by `perf`.
    #[arg(long)]
    pub profile: bool,
    /// A setting of every role.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<(String, String)>,
    /// A setting of Postgres.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub postgres: Vec<(String, String)>,
    /// A setting of the broker.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub kafka: Vec<(String, String)>,
    /// The api wants a token with each request, as in mode `shop`.
    #[arg(long)]
    pub tokens: bool,
    /// Options of Kafka's Java machine.
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true)]
    pub jvm: Option<String>,
    /// Shows which statements cost the most (they cost a little more for being watched).
    #[arg(long)]
    pub statements: bool,
    /// Only the yardsticks.
    #[arg(long)]
    pub yardsticks: bool,
    /// Leaves the yardsticks out.
    #[arg(long)]
    pub no_yardsticks: bool,
    /// The program that is measured; by default the one beside this.
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
    /// What the roles log.
    #[arg(long, default_value = "warn")]
    pub log: String,
}

/// What is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A workflow of three steps, workers that do nothing, sagas started in batches.
    Engine,
    /// Order fulfilment with its workers, orders placed in batches.
    Workers,
    /// The same over HTTP, domain events published.
    Orders,
    /// The same, with the notification worker and another reader of the events.
    Everything,
    /// As `orders`, from a storefront with a token that reads after each order it has placed: the order, the customer's
    /// orders, its timeline, the order again.
    Shop,
}

impl Mode {
    /// Whether orders are placed over HTTP.
    pub fn over_http(self) -> bool {
        matches!(self, Mode::Orders | Mode::Everything | Mode::Shop)
    }
}

/// What becomes of the orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mix {
    /// All are fulfilled.
    Fulfilled,
    /// One in ten is declined, refused by the carrier or cancelled, in turn.
    Undone10,
    /// Of one in a hundred the payment's answer is lost, and has to be looked up.
    Timeouts1,
}

#[derive(Debug, Subcommand)]
pub enum Role {
    /// A process of the benchmark's own.
    #[command(hide = true)]
    Role {
        #[command(subcommand)]
        which: OwnRole,
    },
}

#[derive(Debug, Subcommand)]
pub enum OwnRole {
    /// An engine that publishes nothing and reports ended sagas to the load.
    Engine {
        /// Address of the load's socket.
        report_to: SocketAddr,
        /// The three-step workflow instead of order fulfilment.
        #[arg(long)]
        three_steps: bool,
    },
    /// Workers that answer every command with success.
    Noop,
    /// Reads every domain event.
    Reader,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
