//! Turns pinned Python packages into a running emulator of AWS on loopback.
//!
//! moto is the only one that terminates an instance of a group and replaces it. It comes from PyPI into an environment
//! of its own in the cache, once, every file of it by its hash. Nothing of the system's Python is changed.

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
/// A file that stands in an environment that was made to its end.
const READY: &str = "ready";
/// A slow machine takes five seconds.
const START: Duration = Duration::from_secs(60);

/// Why there is no emulator.
#[derive(Debug, thiserror::Error)]
pub enum EmulatorError {
    /// The cache can't be written.
    #[error("failed to write {}: {source}", path.display())]
    Cache {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Python can't be run.
    #[error("failed to run {}: {source}; Python 3.10 or later is needed, --python says where it is", python.display())]
    Python {
        /// Which.
        python: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its environment can't be made.
    #[error("failed to {what} with {}: {why}", python.display())]
    Setup {
        /// What failed.
        what: &'static str,
        /// By which Python.
        python: PathBuf,
        /// The last that it said.
        why: String,
    },
    /// It did not start.
    #[error("failed to start moto: {0}")]
    Start(String),
}

/// The emulator, running.
#[derive(Debug)]
pub struct Emulator {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Emulator {
    /// Starts it with the Python of an environment.
    pub async fn start(launcher: &Launcher, python: &Path) -> Result<Self, EmulatorError> {
        let mut child = launcher
            .command(python)
            .args(["-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"])
            // Hundreds of images, of which none is used.
            .env("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
            .env("AWS_ACCESS_KEY_ID", "local")
            .env("AWS_SECRET_ACCESS_KEY", "local")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| EmulatorError::Python { python: python.to_owned(), source })?;
        let Some(stderr) = child.stderr.take() else {
            return Err(EmulatorError::Start("it has no stderr".to_owned()));
        };
        let mut lines = BufReader::new(stderr).lines();
        let address = tokio::time::timeout(START, address(&mut lines)).await;
        let why = match address {
            Ok(Ok(address)) => {
                tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                return Ok(Self { child, address });
            }
            Ok(Err(said)) => said,
            Err(_) => format!("it does not listen after {}s", START.as_secs()),
        };
        child::kill(&mut child).await;
        Err(EmulatorError::Start(why))
    }

    /// Returns when it has ended by itself, which it never should.
    pub async fn ended(&mut self) -> String {
        self.child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string())
    }

    /// Ends it.
    pub async fn stop(mut self) {
        child::stop(&mut self.child).await;
    }
}

/// ` * Running on http://127.0.0.1:41234`: where it listens, else what it said instead.
async fn address(lines: &mut Lines<BufReader<ChildStderr>>) -> Result<SocketAddr, String> {
    let mut said = Vec::new();
    while let Ok(Some(line)) = lines.next_line().await {
        let address =
            line.split_once("Running on http://").and_then(|(_, address)| address.trim().parse().ok());
        if let Some(address) = address {
            return Ok(address);
        }
        said.push(line);
    }
    Err(last(&said))
}

/// The Python of the environment in this cache, which is made where it is not there yet.
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
    // Of two that start at once, one makes it and the other waits.
    let lock = File::create(&lock_path).map_err(failed(&lock_path))?;
    let lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await;
    let _lock = lock.map_err(io::Error::other).flatten().map_err(failed(&lock_path))?;
    let own = home.join("bin/python");
    if ready.is_file() {
        return Ok(own);
    }
    anstream::eprintln!("nodemend: setting up the AWS emulator in {}, once", home.display());
    if home.exists() {
        fs::remove_dir_all(&home).map_err(failed(&home))?;
    }
    let mut make = launcher.command(python);
    with_proxies(make.args(["-m", "venv"]).arg(&home));
    run(make, python, "make a virtual environment").await?;
    let requirements = home.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS).map_err(failed(&requirements))?;
    let mut install = launcher.command(&own);
    install.args(["-m", "pip", "install", "--require-hashes", "--no-deps", "--disable-pip-version-check"]);
    with_proxies(install.args(["--progress-bar", "off", "-r"]).arg(&requirements));
    run(install, &own, "install moto").await?;
    fs::write(&ready, "").map_err(failed(&ready))?;
    Ok(own)
}

/// What pip needs of the environment to reach its index, or a mirror of it.
fn with_proxies(command: &mut Command) {
    let needed = |name: &str| {
        let upper = name.to_ascii_uppercase();
        upper.starts_with("PIP_")
            || upper.ends_with("_PROXY")
            || upper.starts_with("SSL_CERT")
            || matches!(upper.as_str(), "HOME" | "PATH" | "LANG" | "TMPDIR" | "REQUESTS_CA_BUNDLE")
    };
    command.envs(std::env::vars_os().filter(|(name, _)| needed(&name.to_string_lossy())));
}

/// Runs to the end, and shows which packages are installed.
async fn run(mut command: Command, python: &Path, what: &'static str) -> Result<(), EmulatorError> {
    let spawned = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|source| EmulatorError::Python { python: python.to_owned(), source })?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let ((), said) = tokio::join!(progress(stdout), all(stderr));
    let status =
        child.wait().await.map_err(|source| EmulatorError::Python { python: python.to_owned(), source })?;
    if status.success() {
        return Ok(());
    }
    let why = if said.is_empty() { status.to_string() } else { last(&said) };
    Err(EmulatorError::Setup { what, python: python.to_owned(), why })
}

async fn progress(stream: Option<impl AsyncRead + Unpin>) {
    let Some(stream) = stream else { return };
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(package) = line.strip_prefix("Collecting ") {
            anstream::eprintln!("nodemend:   {}", package.split(" (").next().unwrap_or(package));
        }
    }
}

async fn all(stream: Option<impl AsyncRead + Unpin>) -> Vec<String> {
    let mut said = Vec::new();
    if let Some(stream) = stream {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            said.push(line);
        }
    }
    said
}

/// The end of what was said, on one line.
fn last(said: &[String]) -> String {
    let said: Vec<&str> = said.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect();
    said[said.len().saturating_sub(3)..].join("; ")
}
