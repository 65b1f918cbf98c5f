//! A build of `amends` that is one version ahead, for tests of two versions side by side.

use std::process::ExitCode;

fn main() -> ExitCode {
    amends_api::program::main()
}
