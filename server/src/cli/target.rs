//! What a command works on: the engine in a directory, or a server.
//!
//! Not here: what is done there.

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use oncelog::{Engine, Options};

use super::fail::Fail;
use crate::client::{Answer, Client, Connect, Tls};

/// Which engine: a directory or a server.
#[derive(Debug, clap::Args)]
pub(super) struct TargetArgs {
    /// The data directory of an engine that nobody else has open
    #[arg(long, value_name = "DIR", required_unless_present = "server", help_heading = "Engine")]
    pub(super) dir: Option<PathBuf>,
    /// A server
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "dir", help_heading = "Engine")]
    pub(super) server: Option<String>,
    #[command(flatten)]
    login: Login,
}

#[derive(Debug, clap::Args)]
struct Login {
    /// The user's name on the server. Its password comes from --password-file or from the
    /// environment: ONCELOG_PASSWORD
    #[arg(long, value_name = "NAME", conflicts_with = "dir", help_heading = "Engine")]
    user: Option<String>,
    /// A file whose first line is the password
    #[arg(long, value_name = "FILE", conflicts_with = "dir", help_heading = "Engine")]
    password_file: Option<PathBuf>,
    /// Encrypt, and check the server's certificate
    #[arg(long, conflicts_with = "dir", help_heading = "Engine")]
    tls: bool,
    /// Certificates of the authorities to believe, instead of this machine's
    #[arg(long, value_name = "FILE", requires = "tls", help_heading = "Engine")]
    tls_ca: Option<PathBuf>,
    /// This client's certificate
    #[arg(
        long,
        value_name = "FILE",
        requires = "tls",
        requires = "tls_key",
        help_heading = "Engine"
    )]
    tls_cert: Option<PathBuf>,
    /// The key of this client's certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = "Engine")]
    tls_key: Option<PathBuf>,
}

/// For what only works on files.
#[derive(Debug, clap::Args)]
pub(super) struct DirArgs {
    /// The data directory of an engine
    #[arg(long, value_name = "DIR")]
    pub(super) dir: PathBuf,
}

/// What a command works on.
#[derive(Debug)]
pub(super) enum Target {
    Dir(Engine),
    Server(Client),
}

impl Target {
    /// Opens the engine, or connects. Makes no engine.
    pub(super) fn open(args: &TargetArgs) -> Result<Self, Fail> {
        if let Some(server) = &args.server {
            return Ok(Self::Server(connect(server, &args.login)?));
        }
        let dir = args.dir.as_deref().expect("clap wants one of the two");
        Ok(Self::Dir(open_dir(dir)?))
    }

    /// Closes the engine cleanly. What was acknowledged is durable anyway.
    pub(super) fn close(self) -> Result<(), Fail> {
        match self {
            Self::Dir(engine) => Ok(engine.close().wait()?),
            Self::Server(_) => Ok(()),
        }
    }
}

/// Opens the engine in a directory that has one.
pub(super) fn open_dir(dir: &Path) -> Result<Engine, Fail> {
    check_dir(dir)?;
    log_warnings();
    Ok(options(dir).create(false).open()?)
}

/// Options for a short while.
pub(super) fn options(dir: &Path) -> Options {
    Options::new(dir).pin(false)
}

/// Whether an engine was made in the directory. Opening would leave a lock file where none was.
pub(super) fn check_dir(dir: &Path) -> Result<(), Fail> {
    match fs::metadata(dir.join("engine.meta")) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Fail::Failed(format!(
            "{} holds no engine; `oncelog create LOG --dir {}` makes one with a first log",
            dir.display(),
            dir.display()
        ))),
        Err(error) => Err(Fail::io("cannot look into", dir)(error)),
    }
}

/// Warnings of the engine go to standard error.
pub(super) fn log_warnings() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let format = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .without_time();
    // One was set already.
    let _ = format.try_init();
}

fn connect(server: &str, login: &Login) -> Result<Client, Fail> {
    let password = match &login.password_file {
        Some(path) => {
            let text = fs::read_to_string(path).map_err(Fail::io("cannot read", path))?;
            Some(text.lines().next().unwrap_or_default().to_owned())
        }
        None => std::env::var("ONCELOG_PASSWORD").ok(),
    };
    if login.user.is_some() && password.is_none() {
        let why = "a user has a password: give --password-file, or set ONCELOG_PASSWORD";
        return Err(Fail::Usage(why.to_owned()));
    }
    let own = login.tls_cert.clone().zip(login.tls_key.clone());
    let tls = login.tls.then(|| Tls { ca: login.tls_ca.clone(), own });
    let (server, user) = (server.to_owned(), login.user.clone());
    Ok(Client::connect(&Connect { server, user, password, tls })?)
}

/// What a server answered is not what was asked for.
pub(super) fn odd(answer: &Answer) -> Fail {
    let text: String = format!("{answer:?}").chars().take(200).collect();
    Fail::Failed(format!("the server's answer is not understood: {text}"))
}

/// The number that a server answered with.
pub(super) fn number(answer: &Answer) -> Result<u64, Fail> {
    answer.number().ok_or_else(|| odd(answer))
}
