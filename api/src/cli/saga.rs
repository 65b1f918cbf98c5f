//! The arguments of `amends saga`.

use clap::{Args, Subcommand, ValueEnum};
use reqwest::Url;
use uuid::Uuid;

use super::OutputFormat;

/// What the exit status says, for the help of each command that asks an api.
pub const EXIT_STATUS: &str = "Exit status: 0 done; 1 the api cannot be reached, or fails; 2 the arguments or the request are \
    wrong; 3 there is no such saga or plan; 4 refused: not possible now, or the saga has moved; 5 the token may not do this.";

/// Where the api is, and how its answers are printed.
#[derive(Debug, Args)]
pub struct Remote {
    /// The address of the api.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "AMENDS_API_URL",
        default_value = "http://127.0.0.1:8080"
    )]
    pub api: Url,
    /// As a table for people, or as JSON for programs.
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: OutputFormat,
}

/// Options of `amends saga`.
#[derive(Debug, Args)]
pub struct Saga {
    #[command(flatten)]
    pub remote: Remote,
    #[command(subcommand)]
    pub what: What,
}

/// What `amends saga` does.
#[derive(Debug, Subcommand)]
pub enum What {
    /// Lists sagas, the newest first.
    #[command(after_help = EXIT_STATUS)]
    List(List),
    /// Shows a saga: what it waits for, what it holds, what can be done.
    #[command(after_help = EXIT_STATUS)]
    Show {
        /// The saga's id.
        id: Uuid,
    },
    /// Says why a saga does not progress.
    #[command(after_help = EXIT_STATUS)]
    Explain {
        /// The saga's id.
        id: Uuid,
    },
    /// Says what an action would do, and changes nothing; `amends saga apply` does it.
    #[command(after_help = EXIT_STATUS)]
    Plan(Plan),
    /// Does what was planned, unless the saga has moved since.
    #[command(after_help = EXIT_STATUS)]
    Apply {
        /// The plan's hash, as `amends saga plan` prints it.
        plan: String,
    },
    /// Prints each change of a saga until it has ended.
    #[command(after_help = EXIT_STATUS)]
    Watch {
        /// The saga's id.
        id: Uuid,
    },
    /// Prints the timeline of a saga as JSON Lines, without personal data.
    #[command(after_help = EXIT_STATUS)]
    Export {
        /// The saga's id.
        id: Uuid,
    },
}

/// Options of `amends saga list`. Several values of one option are an OR, several options an AND.
#[derive(Debug, Default, Args)]
pub struct List {
    /// running, compensating, parked, completed or undone.
    #[arg(long, value_name = "STATE")]
    pub state: Vec<String>,
    /// The step at which it is.
    #[arg(long, value_name = "STEP")]
    pub step: Vec<String>,
    /// Its label: the status of the order.
    #[arg(long, value_name = "LABEL")]
    pub label: Vec<String>,
    /// Its workflow: a name, or name@version.
    #[arg(long, value_name = "WORKFLOW")]
    pub workflow: Vec<String>,
    /// The participant at whose step it is.
    #[arg(long, value_name = "NAME")]
    pub participant: Vec<String>,
    /// Its order.
    #[arg(long, value_name = "ID")]
    pub order: Vec<Uuid>,
    /// The customer of its order.
    #[arg(long, value_name = "ID")]
    pub customer: Vec<String>,
    /// Only sagas that are at their step for longer than expected.
    #[arg(long)]
    pub stuck: bool,
    /// At its step for at least this long: 90s, 5m, 2h.
    #[arg(long, value_name = "TIME")]
    pub older_than: Option<String>,
    /// Largest number of sagas: 1-500.
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub limit: u32,
    /// The last saga of the page before.
    #[arg(long, value_name = "ID")]
    pub after: Option<Uuid>,
}

/// Options of `amends saga plan`.
#[derive(Debug, Args)]
pub struct Plan {
    /// What to do.
    #[arg(value_enum)]
    pub action: Action,
    /// The saga's id.
    pub id: Uuid,
    /// Why; it is recorded.
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// The waiting command, as `amends saga show` prints it: for retry and resolve.
    #[arg(long, value_name = "ID")]
    pub command_id: Option<Uuid>,
    /// The revision that you saw. Without it, the plan is of the present one.
    #[arg(long, value_name = "NUMBER")]
    pub revision: Option<u32>,
    /// How the command has ended: for resolve.
    #[arg(long, value_enum, value_name = "OUTCOME")]
    pub outcome: Option<Outcome>,
    /// What the other side calls it: for resolve.
    #[arg(long, value_name = "TEXT")]
    pub reference: Option<String>,
    /// The name of the signal: for signal.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// The payload of the signal: for signal.
    #[arg(long, value_name = "JSON")]
    pub payload: Option<String>,
}

/// The actions that can be planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Action {
    Retry,
    Resend,
    Cancel,
    Resolve,
    Signal,
}

/// How a command has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Outcome {
    Done,
    #[value(name = "not-done")]
    NotDone,
}

impl Action {
    /// Returns its name in a request.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Resend => "resend",
            Self::Cancel => "cancel",
            Self::Resolve => "resolve",
            Self::Signal => "signal",
        }
    }
}

impl Outcome {
    /// Returns its name in a request.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::NotDone => "notDone",
        }
    }
}
