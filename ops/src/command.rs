//! The command line: one file per subcommand.
//!
//! Results go to standard output as JSON, indented for people and on one line with
//! `--json`; logs and errors go to standard error. The exit code is 0, 1 when something
//! was refused or found bad, and 2 when the command line itself is wrong.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use crate::config::Config;

mod account;
mod audit_verify;
mod bootstrap;
mod config_check;
mod control_plane;
mod data_plane;
mod migrate;
mod region;
mod replay;
mod up;

/// Issues API keys, and proxies requests that carry them.
#[derive(Debug, Parser)]
#[command(name = "throttleproxy", version)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every subcommand takes, before its name or after it.
#[derive(Debug, Args)]
struct Common {
    /// The configuration file.
    #[arg(long, global = true, value_name = "FILE", env = "THROTTLEPROXY_CONFIG")]
    config: Option<PathBuf>,
    /// Where files stand that no key places elsewhere.
    #[arg(long, global = true, value_name = "DIR", default_value = DATA_DIR)]
    data_dir: PathBuf,
    /// Print for programs: each result is one line of JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything in one process, on SQLite and a region inside the process.
    Up(up::Args),
    /// Run a control plane.
    ControlPlane,
    /// Run a proxy.
    DataPlane,
    /// Bring the schema of the database up to date.
    Migrate,
    /// Make the first owner, a workspace and a control token.
    Bootstrap(bootstrap::Args),
    /// Suspend the accounts of people, or end that.
    #[command(subcommand)]
    Account(AccountCommand),
    /// Fold the log and print the state as it was.
    Replay(replay::Args),
    /// Look for changes that nobody should have made.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Look into a region.
    #[command(subcommand)]
    Region(RegionCommand),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Debug, Subcommand)]
enum AccountCommand {
    /// Let somebody in no more: no log-in, no session, no token.
    Suspend(account::Args),
    /// Let them in again.
    Reinstate(account::Args),
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Verify the chain of the log, and the columns that repeat its bytes.
    Verify,
}

#[derive(Debug, Subcommand)]
enum RegionCommand {
    /// How far each region is behind the log.
    Status(region::StatusArgs),
    /// What each region holds of a key, as stored.
    Entry(region::EntryArgs),
    /// The public key that a region is signed with, for `data.verify_keys` of its proxies.
    Key(region::KeyArgs),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the effective configuration, secrets redacted, or what is wrong with it.
    Check,
}

/// Whether what was asked for is good. An error is bad too, but has a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Exit code 0.
    Good,
    /// Exit code 1; the result has said why.
    Bad,
}

const DATA_DIR: &str = "data";

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(Outcome::Good) => ExitCode::SUCCESS,
        Ok(Outcome::Bad) => ExitCode::FAILURE,
        Err(err) => {
            // Nobody is left to tell when standard error is closed too.
            writeln!(io::stderr(), "throttleproxy: {err:#}").ok();
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(dispatch(cli))
}

async fn dispatch(Cli { common, command }: Cli) -> anyhow::Result<Outcome> {
    match command {
        Command::Up(args) => up::run(&common, args).await,
        Command::ControlPlane => control_plane::run(&common).await,
        Command::DataPlane => data_plane::run(&common).await,
        Command::Migrate => migrate::run(&common).await,
        Command::Bootstrap(args) => bootstrap::run(&common, args).await,
        Command::Account(AccountCommand::Suspend(args)) => {
            account::suspend(&common, &args, true).await
        }
        Command::Account(AccountCommand::Reinstate(args)) => {
            account::suspend(&common, &args, false).await
        }
        Command::Replay(args) => replay::run(&common, args).await,
        Command::Audit(AuditCommand::Verify) => audit_verify::run(&common).await,
        Command::Region(RegionCommand::Status(args)) => region::status(&common, args).await,
        Command::Region(RegionCommand::Entry(args)) => region::entry(&common, args).await,
        Command::Region(RegionCommand::Key(args)) => region::key(&common, args),
        Command::Config(ConfigCommand::Check) => config_check::run(&common),
    }
}

// === impl Common ===

impl Common {
    /// The effective configuration.
    fn load(&self) -> anyhow::Result<Config> {
        let environment = std::env::vars_os();
        Ok(Config::load(
            self.config.as_deref(),
            &self.data_dir,
            environment,
        )?)
    }

    /// The effective configuration of a command that logs by it.
    fn start(&self) -> anyhow::Result<Config> {
        let config = self.load()?;
        crate::telemetry::start(&config.log);
        Ok(config)
    }

    /// Prints a result.
    fn print<T: Serialize>(&self, result: &T) -> anyhow::Result<()> {
        let text = if self.json {
            serde_json::to_string(result)?
        } else {
            serde_json::to_string_pretty(result)?
        };
        Ok(say(&format!("{text}\n"))?)
    }
}

/// Writes to standard output. Whoever closed it, as `| head` does, has read enough.
fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(err) if err.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        said => said,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parsed(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_all_commands_take_stands_before_or_after_the_name() {
        for line in [
            "throttleproxy --config a.toml --data-dir d --json region status eu",
            "throttleproxy region --config a.toml status eu --data-dir d --json",
            "throttleproxy region status eu --config a.toml --data-dir d --json",
        ] {
            let common = parsed(line).unwrap().common;
            assert_eq!(common.config, Some(PathBuf::from("a.toml")), "{line}");
            assert_eq!(common.data_dir, PathBuf::from("d"), "{line}");
            assert!(common.json, "{line}");
        }
    }

    #[test]
    fn a_wrong_command_line_is_a_wrong_usage() {
        for line in [
            "throttleproxy",
            "throttleproxy down",
            "throttleproxy bootstrap",
            "throttleproxy region entry nonsense",
            "throttleproxy replay --at yesterday",
        ] {
            assert_eq!(parsed(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
