//! `nodemend-agent`: the DaemonSet's one process.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use clap::{Parser, Subcommand, ValueEnum, error::ErrorKind};
use nodemend_agent::{
    causes,
    config::{Config, ConfigError, Settings},
    inject, probe,
    run::{self, RunError},
    scan,
    source::{Clocks, nvml},
};

const WELL: u8 = 0;
const PROBLEMS: u8 = 1;
const UNHEALTHY: u8 = 2;
const USAGE: u8 = 64;
/// `scan` answers within two seconds, whatever hangs.
const SCAN: Duration = Duration::from_millis(1_800);

/// Sees what is wrong on an EKS node, says when it is right again, and loses nothing
#[derive(Parser)]
#[command(name = "nodemend-agent", version, max_term_width = 110, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    /// A YAML file of settings; flags win over it
    #[arg(long, env = "NODEMEND_CONFIG", global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    settings: Settings,
}

#[derive(Subcommand)]
enum Command {
    /// Watch, track and report until told to end (the default)
    Run,
    /// Read every probe once, and say what is well, wrong, or not checkable and why
    Scan {
        /// A table for people, or one JSON object a line for programs
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Make what a detector should see, to try the way from fault to report
    Inject {
        /// The reason, as in the catalogue; without one, those that can be made are listed
        reason: Option<String>,
        /// Do it. Without this it is only said what would be done
        #[arg(long)]
        yes: bool,
    },
    /// What the agent starts itself as, to keep NVIDIA's library out of its own process
    #[command(hide = true)]
    NvidiaLibrary { library: PathBuf },
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

const EXAMPLES: &str = "\
Examples:
  nodemend-agent scan
  nodemend-agent run --cluster prod --sink stdout --state-dir /tmp/nodemend
  nodemend-agent run --config /etc/nodemend/agent.yaml
  nodemend-agent inject MetadataServiceBlocked --yes

Exit codes:
  0  well
  1  it could not be done
  2  scan: something that makes the node unhealthy is wrong
  64 wrong usage or configuration";

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::from(WELL),
                _ => ExitCode::from(USAGE),
            };
        }
    };
    let config = || config(cli.settings, cli.config);
    let code = match cli.command.unwrap_or(Command::Run) {
        Command::Run => config().map(|config| watch(&config)),
        Command::Scan { format } => config().map(|config| look(&config, format)),
        Command::Inject { reason, yes } => config().map(|_| make(reason.as_deref(), yes)),
        // The agent's settings came by flags that its child does not have.
        Command::NvidiaLibrary { library } => Ok(ask_nvidia(&library)),
    };
    let code = code.unwrap_or_else(|error| complain(&error, USAGE));
    ExitCode::from(code)
}

fn config(settings: Settings, file: Option<PathBuf>) -> Result<Config, ConfigError> {
    let file = file.map(|path| Settings::read(&path)).transpose()?;
    let config = settings.over(file.unwrap_or_default()).check()?;
    let known = probe::names(&config);
    match config.without.iter().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(ConfigError::Field {
            field: "without",
            why: format!("{name:?} is none of {}", known.join(", ")),
        }),
        None => Ok(config),
    }
}

/// One line of JSON: the GPUs, or why there are none to tell of.
fn ask_nvidia(library: &Path) -> u8 {
    // The library may wait for ever. Where that can't be arranged, the agent ends its child itself.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let written = serde_json::to_writer(io::stdout().lock(), &nvml::ask(library));
    written.map_or(PROBLEMS, |()| WELL)
}

fn watch(config: &Config) -> u8 {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        if let Err(error) = signal_hook::flag::register(signal, Arc::clone(&stop)) {
            return complain(&RunError::Thread(error), PROBLEMS);
        }
    }
    match run::run(config, probe::all(config), &stop) {
        Ok(()) => WELL,
        Err(error) => complain(&error, if error.is_configuration() { USAGE } else { PROBLEMS }),
    }
}

fn look(config: &Config, format: Format) -> u8 {
    let readings = scan::scan(probe::all(config), Clocks::read().wall, SCAN);
    let mut out = anstream::stdout().lock();
    let written = match format {
        Format::Text => scan::write_table(&mut out, &readings),
        Format::Json => scan::write_json(&mut out, &readings),
    };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => complain(&error, PROBLEMS),
        _ if scan::is_unhealthy(&readings) => UNHEALTHY,
        _ => WELL,
    }
}

fn make(reason: Option<&str>, yes: bool) -> u8 {
    let mut out = anstream::stdout().lock();
    match inject::inject(&mut out, reason, yes) {
        Ok(()) => WELL,
        Err(error) => complain(&error, if error.is_usage() { USAGE } else { PROBLEMS }),
    }
}

fn complain(error: &dyn std::error::Error, code: u8) -> u8 {
    anstream::eprintln!("nodemend-agent: {}", causes::chain(error));
    code
}
