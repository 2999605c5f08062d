//! `nodemend-agent`, the only process of the DaemonSet.

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
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

const SUCCESS: u8 = 0;
const FAILURE: u8 = 1;
const UNHEALTHY: u8 = 2;
const USAGE: u8 = 64;
/// `scan` returns within two seconds even if a probe hangs.
const SCAN: Duration = Duration::from_millis(1_800);

/// Detects node problems, reports when they clear, and buffers reports on disk
#[derive(Parser)]
#[command(name = "nodemend-agent", version, max_term_width = 110, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Option<CliCommand>,

    /// A YAML file of settings; flags override it
    #[arg(long, env = "NODEMEND_CONFIG", global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    settings: Settings,
}

#[derive(Subcommand)]
enum CliCommand {
    /// Run detection and report conditions until stopped (the default)
    Run,
    /// Read every probe once and print what is healthy, unhealthy, or not checkable and why
    Scan {
        /// A table, or one JSON object a line
        #[arg(long, value_enum, default_value = "text")]
        format: OutputFormat,
    },
    /// Inject a fault, to test the pipeline from detection to report
    Inject {
        /// The reason, as in the catalogue; without it, the available ones are listed
        reason: Option<String>,
        /// Inject it. Without this flag, only print what would be done
        #[arg(long)]
        yes: bool,
    },
    /// Runs NVIDIA's library in a child process, so that a hang or crash of the library does not affect the agent
    #[command(hide = true)]
    NvidiaLibrary { library: PathBuf },
}

#[derive(Clone, Copy, ValueEnum)]
enum OutputFormat {
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
  0  success
  1  the command failed
  2  scan: the node is unhealthy
  64 usage or configuration error";

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::from(SUCCESS),
                _ => ExitCode::from(USAGE),
            };
        }
    };
    let config = || config(cli.settings, cli.config);
    let code = match cli.command.unwrap_or(CliCommand::Run) {
        CliCommand::Run => config().map(|config| run_agent(&config)),
        CliCommand::Scan { format } => config().map(|config| run_scan(&config, format)),
        CliCommand::Inject { reason, yes } => config().map(|_| run_inject(reason.as_deref(), yes)),
        // The child process gets none of the agent's flags, so the configuration is not read.
        CliCommand::NvidiaLibrary { library } => Ok(read_nvidia(&library)),
    };
    let code = code.unwrap_or_else(|error| fail(&error, USAGE));
    ExitCode::from(code)
}

fn config(settings: Settings, file: Option<PathBuf>) -> Result<Config, ConfigError> {
    let file = file.map(|path| Settings::read(&path)).transpose()?;
    let config = settings.over(file.unwrap_or_default()).check()?;
    let known = probe::names(&config);
    match config.without.iter().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(ConfigError::Field {
            field: "without",
            why: format!("{name:?} is not one of {}", known.join(", ")),
        }),
        None => Ok(config),
    }
}

/// Prints one line of JSON: the GPUs, or why they cannot be read.
fn read_nvidia(library: &Path) -> u8 {
    // The library may hang forever. If this call fails, the parent still kills its child.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let written = serde_json::to_writer(io::stdout().lock(), &nvml::read_gpus(library));
    written.map_or(FAILURE, |()| SUCCESS)
}

/// Logs JSON lines to standard error, since standard output may be the sink. Only the agent's own records are logged:
/// the AWS SDK uses the same log.
fn log_to_stderr() {
    let own_records = Targets::new().with_target("nodemend_agent", LevelFilter::INFO);
    let json = tracing_subscriber::fmt().json().flatten_event(true).with_writer(io::stderr).finish();
    json.with(own_records).init();
}

fn run_agent(config: &Config) -> u8 {
    log_to_stderr();
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        if let Err(error) = signal_hook::flag::register(signal, Arc::clone(&stop)) {
            return fail(&RunError::Thread(error), FAILURE);
        }
    }
    match run::run(config, probe::all(config), &stop) {
        Ok(()) => SUCCESS,
        Err(error) => fail(&error, if error.is_configuration() { USAGE } else { FAILURE }),
    }
}

fn run_scan(config: &Config, format: OutputFormat) -> u8 {
    let readings = scan::scan(probe::all(config), Clocks::read().wall, SCAN);
    let mut out = anstream::stdout().lock();
    let written = match format {
        OutputFormat::Text => scan::write_table(&mut out, &readings),
        OutputFormat::Json => scan::write_json(&mut out, &readings),
    };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => fail(&error, FAILURE),
        _ if scan::is_unhealthy(&readings) => UNHEALTHY,
        _ => SUCCESS,
    }
}

fn run_inject(reason: Option<&str>, yes: bool) -> u8 {
    let mut out = anstream::stdout().lock();
    match inject::inject(&mut out, reason, yes) {
        Ok(()) => SUCCESS,
        Err(error) => fail(&error, if error.is_usage() { USAGE } else { FAILURE }),
    }
}

fn fail(error: &dyn std::error::Error, code: u8) -> u8 {
    anstream::eprintln!("nodemend-agent: {}", causes::chain(error));
    code
}
