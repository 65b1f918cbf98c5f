//! `amends`: one binary, one subcommand per role. The roles are in this package's library.

use std::process::ExitCode;

fn main() -> ExitCode {
    amends_api::program::main()
}
