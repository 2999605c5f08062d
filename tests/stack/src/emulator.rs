//! Installs and runs the emulator of AWS, on loopback.
//!
//! moto is the only emulator that terminates an instance of a group and replaces it. It is installed from
//! PyPI once, into a virtual environment in the cache, with a pinned hash for each file. The system's Python
//! packages are not changed.

use std::{
    fs::{self, File},
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader, Lines},
    process::{Child, ChildStderr, Command},
};

use super::child::{self, Launcher};

const REQUIREMENTS: &str = include_str!("requirements.txt");
/// A file that marks a virtual environment as complete.
const READY: &str = "ready";
/// How long the start can take. A slow machine takes five seconds.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Why the emulator could not be started.
#[derive(Debug, thiserror::Error)]
pub enum EmulatorError {
    /// The cache directory could not be written.
    #[error("failed to write {}: {source}", path.display())]
    Cache {
        /// The path in the cache.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The Python interpreter could not be run.
    #[error(
        "failed to run {}: {source}; Python 3.10 or later is required, set its path with --python",
        python.display()
    )]
    Python {
        /// The path of the interpreter.
        python: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The virtual environment could not be created.
    #[error("failed to {what} with {}: {why}", python.display())]
    Setup {
        /// The step that failed.
        what: &'static str,
        /// The path of the interpreter.
        python: PathBuf,
        /// The last lines of its stderr.
        why: String,
    },
    /// The emulator did not start.
    #[error("failed to start moto: {0}")]
    Start(String),
}

/// An emulator process.
#[derive(Debug)]
pub struct Emulator {
    child: Child,
    /// The address on which it listens.
    pub address: SocketAddr,
}

impl Emulator {
    /// Starts the emulator with the Python interpreter of its virtual environment.
    pub async fn start(launcher: &Launcher, python: &Path) -> Result<Self, EmulatorError> {
        let mut child = launcher
            .command(python)
            .args(["-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"])
            // There are hundreds of default AMIs, and the stack uses none of them.
            .env("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
            .env("AWS_ACCESS_KEY_ID", "local")
            .env("AWS_SECRET_ACCESS_KEY", "local")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| EmulatorError::Python { python: python.to_owned(), source })?;
        let Some(stderr) = child.stderr.take() else {
            return Err(EmulatorError::Start("its stderr is not available".to_owned()));
        };
        let mut lines = BufReader::new(stderr).lines();
        let address = tokio::time::timeout(START_TIMEOUT, read_address(&mut lines)).await;
        let why = match address {
            Ok(Ok(address)) => {
                tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                return Ok(Self { child, address });
            }
            Ok(Err(output)) => output,
            Err(_) => format!("it did not listen within {}s", START_TIMEOUT.as_secs()),
        };
        child::kill(&mut child).await;
        Err(EmulatorError::Start(why))
    }

    /// Waits until the process ends by itself, which is an error, and returns its exit status.
    pub async fn ended(&mut self) -> String {
        self.child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string())
    }

    /// Stops the emulator.
    pub async fn stop(mut self) {
        child::stop(&mut self.child).await;
    }
}

/// Reads the address from the line ` * Running on http://127.0.0.1:41234`. If stderr ends before it, the
/// error is the last lines of the output.
async fn read_address(lines: &mut Lines<BufReader<ChildStderr>>) -> Result<SocketAddr, String> {
    let mut output = Vec::new();
    while let Ok(Some(line)) = lines.next_line().await {
        let address =
            line.split_once("Running on http://").and_then(|(_, address)| address.trim().parse().ok());
        if let Some(address) = address {
            return Ok(address);
        }
        output.push(line);
    }
    Err(last_lines(&output))
}

/// Returns the Python interpreter of the virtual environment in this cache. Creates the environment if it
/// does not exist.
pub async fn prepare(launcher: &Launcher, cache: &Path, python: &Path) -> Result<PathBuf, EmulatorError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| EmulatorError::Cache { path, source }
    };
    fs::create_dir_all(cache).map_err(failed(cache))?;
    let name =
        Sha256::digest(REQUIREMENTS).iter().take(6).map(|byte| format!("{byte:02x}")).collect::<String>();
    let home = cache.join(format!("moto-{name}"));
    let ready = home.join(READY);
    let lock_path = home.with_extension("lock");
    // If two processes start at the same time, one creates the environment and the other waits.
    let lock = File::create(&lock_path).map_err(failed(&lock_path))?;
    let lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await;
    let _lock = lock.map_err(io::Error::other).flatten().map_err(failed(&lock_path))?;
    let interpreter = home.join("bin/python");
    if ready.is_file() {
        return Ok(interpreter);
    }
    anstream::eprintln!("nodemend: installing the AWS emulator in {} (first use only)", home.display());
    if home.exists() {
        fs::remove_dir_all(&home).map_err(failed(&home))?;
    }
    let mut create = launcher.command(python);
    pass_pip_environment(create.args(["-m", "venv"]).arg(&home));
    run(create, python, "create a virtual environment").await?;
    let requirements = home.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS).map_err(failed(&requirements))?;
    let mut install = launcher.command(&interpreter);
    install.args(["-m", "pip", "install", "--require-hashes", "--no-deps", "--disable-pip-version-check"]);
    pass_pip_environment(install.args(["--progress-bar", "off", "-r"]).arg(&requirements));
    run(install, &interpreter, "install moto").await?;
    fs::write(&ready, "").map_err(failed(&ready))?;
    Ok(interpreter)
}

/// Passes the variables that pip needs to reach PyPI, or a mirror of it, such as the proxy settings.
fn pass_pip_environment(command: &mut Command) {
    let needed = |name: &str| {
        let upper = name.to_ascii_uppercase();
        upper.starts_with("PIP_")
            || upper.ends_with("_PROXY")
            || upper.starts_with("SSL_CERT")
            || matches!(upper.as_str(), "HOME" | "PATH" | "LANG" | "TMPDIR" | "REQUESTS_CA_BUNDLE")
    };
    command.envs(std::env::vars_os().filter(|(name, _)| needed(&name.to_string_lossy())));
}

/// Runs a command to its end, and prints which packages it installs.
async fn run(mut command: Command, python: &Path, what: &'static str) -> Result<(), EmulatorError> {
    let spawned = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|source| EmulatorError::Python { python: python.to_owned(), source })?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let ((), output) = tokio::join!(print_packages(stdout), read_lines(stderr));
    let status =
        child.wait().await.map_err(|source| EmulatorError::Python { python: python.to_owned(), source })?;
    if status.success() {
        return Ok(());
    }
    let why = if output.is_empty() { status.to_string() } else { last_lines(&output) };
    Err(EmulatorError::Setup { what, python: python.to_owned(), why })
}

async fn print_packages(stream: Option<impl AsyncRead + Unpin>) {
    let Some(stream) = stream else { return };
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(package) = line.strip_prefix("Collecting ") {
            anstream::eprintln!("nodemend:   {}", package.split(" (").next().unwrap_or(package));
        }
    }
}

async fn read_lines(stream: Option<impl AsyncRead + Unpin>) -> Vec<String> {
    let mut output = Vec::new();
    if let Some(stream) = stream {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            output.push(line);
        }
    }
    output
}

/// The last three lines that are not empty, as one line.
fn last_lines(output: &[String]) -> String {
    let lines: Vec<&str> = output.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join("; ")
}
