//! The program: reads arguments and settings, and runs a role.

use std::{
    env,
    ffi::OsString,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

use crate::{
    cli::{Cli, Role},
    messages, panics, remote, roles, samples, services,
    settings::{Settings, redacted},
    telemetry,
};
use clap::Parser;

/// Runs the program.
pub fn main() -> ExitCode {
    if let Err(error) = without_postgres_variables() {
        return fail(1, &error.to_string());
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help or version.
        Err(told) if !told.use_stderr() => told.exit(),
        Err(error) => {
            eprint!("{}", redacted(&error.to_string()));
            return ExitCode::from(2);
        }
    };
    panics::end_the_process_with_a_thread();
    if let Role::EmbeddedBroker { plan } = &cli.role {
        let served = plan.parse().and_then(|plan| {
            amends_embedded::broker_process::serve(&plan).map_err(|error| error.to_string())
        });
        return served.map_or_else(|error| fail(1, &error), |()| ExitCode::SUCCESS);
    }
    if let Role::Token(options) = &cli.role {
        let printed = roles::dev::token(options).map(|token| println!("{token}"));
        return printed.map_or_else(|error| fail(1, &format!("{error:#}")), |()| ExitCode::SUCCESS);
    }
    if let Role::Notify { what } = &cli.role {
        let printed = messages::preview(what).map(|text| println!("{text}"));
        return printed.map_or_else(|error| fail(1, &format!("{error:#}")), |()| ExitCode::SUCCESS);
    }
    if let Role::Saga(options) = &cli.role {
        let done = remote::saga(options);
        return done.map_or_else(|failure| fail(failure.status, &failure.why), |()| ExitCode::SUCCESS);
    }
    if let Role::Samples { api } = &cli.role {
        if let Err(failure) = remote::check_scheme(api) {
            return fail(failure.status, &failure.why);
        }
        return match samples::run_at(api) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => fail(1, &format!("{error:#}")),
        };
    }
    let settings =
        cli.flags.pairs().and_then(|flags| Settings::read(&services::names(), cli.config.as_deref(), &flags));
    let settings = match settings {
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
        Err(error) => return fail(1, &format!("cannot create the runtime's threads: {error}")),
    };
    let ended = runtime.block_on(roles::run(cli.role, settings));
    // A check of an unavailable broker takes seconds; its result is not needed any more.
    runtime.shutdown_background();
    telemetry::end_logs();
    match ended {
        Ok(code) => code,
        Err(error) => fail(1, &format!("{error:#}")),
    }
}

/// Restarts this program without the variables of libpq, if there are any. The client library uses them for parts that
/// a URL leaves out, and some cannot be overridden; but only settings may decide how to connect to a database.
fn without_postgres_variables() -> std::io::Result<()> {
    let names: Vec<OsString> = env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| name.as_encoded_bytes().starts_with(b"PG"))
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    let mut again = Command::new(env::current_exe()?);
    again.args(env::args_os().skip(1));
    for name in &names {
        again.env_remove(name);
    }
    // It returns only on failure.
    Err(again.exec())
}

/// Prints one line to stderr.
fn fail(code: u8, why: &str) -> ExitCode {
    let why = redacted(&why.lines().map(str::trim).collect::<Vec<_>>().join(" "));
    eprintln!("amends: {why}");
    ExitCode::from(code)
}
