//! `amends`: one binary, one subcommand a role. What the roles are is in this package's library.

use std::process::ExitCode;

use amends_api::{
    cli::{Cli, Role},
    roles, services,
    settings::Settings,
    telemetry,
};
use clap::Parser;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let settings = match Settings::read(&services::names(), cli.config.as_deref(), &cli.flags.pairs()) {
        Ok(settings) => settings,
        Err(error) => return fail(2, &error.to_string()),
    };
    if let Role::Config = cli.role {
        println!("{}", settings.commented());
        return ExitCode::SUCCESS;
    }
    if let Err(error) = telemetry::logs(&settings) {
        return fail(2, &error);
    }
    amends_http::descriptors::raise_limit();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &format!("no threads to run on: {error}")),
    };
    match runtime.block_on(roles::run(cli.role, settings)) {
        Ok(code) => code,
        Err(error) => fail(1, &format!("{error:#}")),
    }
}

/// One line on stderr.
fn fail(code: u8, why: &str) -> ExitCode {
    eprintln!("amends: {}", why.lines().map(str::trim).collect::<Vec<_>>().join(" "));
    ExitCode::from(code)
}
