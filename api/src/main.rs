//! `amends`: one binary, one subcommand a role. What the roles are is in this package's library.

use std::process::ExitCode;

fn main() -> ExitCode {
    amends_api::program::main()
}
