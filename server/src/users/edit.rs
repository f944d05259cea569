//! `oncelog user`: hashes, and adding, removing and listing the users of a file.
//!
//! The file's text is changed, not written anew: comments and order stay. What comes out is read as
//! a server would before it takes the place of the old file, whole or not at all (`private`).
//! A password is asked for, or read from standard input; it is never an argument, which others see.
//!
//! Not here: what stands in the file (`users`).

use std::io::{BufRead, IsTerminal, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use argon2::{Argon2, PasswordHasher};
use clap::{Args, Subcommand};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};

use super::{PASSWORD_SIZE_MAX, Users, UsersFile, check_user_name, parse_right};
use crate::private::{self, Change, FileError};
use crate::rights::Right;

/// Makes password hashes, and changes a file of users.
#[derive(Args, Debug)]
pub struct UserArgs {
    #[command(subcommand)]
    command: UserCommand,
}

#[derive(Debug, Subcommand)]
enum UserCommand {
    /// Asks for a password (or reads one line of standard input) and prints its hash
    Hash,
    /// Adds a user to a file, which is made if it is not there
    Add(AddArgs),
    /// Lists the users of a file and what they may do
    List {
        /// The file of users
        file: PathBuf,
    },
    /// Removes a user from a file
    Remove {
        /// The file of users
        file: PathBuf,
        /// Their name
        name: String,
    },
}

#[derive(Args, Debug)]
struct AddArgs {
    /// The file of users
    file: PathBuf,
    /// The new user's name
    name: String,
    /// What they may do, with commas: read, append, process, admin
    #[arg(long, required = true, value_delimiter = ',', value_parser = parse_right)]
    allow: Vec<Right>,
    /// Names of logs and processors that begin so; several may be given, "" is every name
    #[arg(long, required = true)]
    prefix: Vec<String>,
    /// A PEM file with the client certificate that they log in with
    #[arg(long, value_name = "PEM")]
    certificate: Option<PathBuf>,
    /// They have no password: only the certificate lets them in
    #[arg(long, requires = "certificate")]
    no_password: bool,
    /// In the place of the user of that name, if there is one
    #[arg(long)]
    replace: bool,
}

impl UserArgs {
    /// Carries the command out.
    ///
    /// # Errors
    /// What could not be done, and why; the file is as it was.
    pub fn run(self) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        match self.command {
            UserCommand::Hash => writeln!(out, "{}", hash(&read_password()?)?)?,
            UserCommand::Add(args) => {
                check_user_name(&args.name).map_err(anyhow::Error::msg)?;
                let password = if args.no_password { None } else { Some(read_password()?) };
                add(&args, password.as_deref())?;
                writeln!(out, "{} has {} now; {RELOAD}", args.file.display(), args.name)?;
            }
            UserCommand::List { file } => out.write_all(list(&file)?.as_bytes())?,
            UserCommand::Remove { file, name } => {
                remove(&file, &name)?;
                writeln!(out, "{} is without {name} now; {RELOAD}", file.display())?;
            }
        }
        Ok(())
    }
}

const RELOAD: &str = "a running server reads it on SIGHUP";

fn read_password() -> anyhow::Result<String> {
    if std::io::stdin().is_terminal() {
        let password = rpassword::prompt_password("Password: ")?;
        ensure!(password == rpassword::prompt_password("Again: ")?, "these are two passwords");
        return Ok(password);
    }
    read_line(&mut std::io::stdin().lock())
}

/// A line without its end.
fn read_line(input: &mut impl BufRead) -> anyhow::Result<String> {
    let mut line = String::new();
    input.read_line(&mut line).context("standard input has no password")?;
    let end = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(end);
    Ok(line)
}

/// The hash of a password as it stands in a file.
pub(super) fn hash(password: &str) -> anyhow::Result<String> {
    ensure!(!password.is_empty(), "the password is empty; give one");
    let length = password.len();
    ensure!(length <= PASSWORD_SIZE_MAX, "the password is longer than {PASSWORD_SIZE_MAX} bytes");
    let hash = Argon2::default().hash_password(password.as_bytes());
    Ok(hash.map_err(|error| anyhow::anyhow!("cannot hash the password: {error}"))?.to_string())
}

fn add(args: &AddArgs, password: Option<&str>) -> anyhow::Result<()> {
    let mut entry = format!("[[user]]\nname = {}\n", quoted(&args.name));
    if let Some(password) = password {
        entry += &format!("password = {}\n", quoted(&hash(password)?));
    }
    if let Some(path) = &args.certificate {
        entry += &format!("certificate = {}\n", quoted(&fingerprint(path)?));
    }
    let rights: Vec<String> = args.allow.iter().map(|right| quoted(right.name())).collect();
    let rights = rights.join(", ");
    let grant = |prefix: &String| format!("{{ prefix = {}, allow = [{rights}] }}", quoted(prefix));
    let grants: Vec<String> = args.prefix.iter().map(grant).collect();
    entry += &format!("grants = [{}]\n", grants.join(", "));
    change(&args.file, |text| {
        let mut text = text.unwrap_or(HEAD).to_owned();
        if names(&args.file, &text)?.contains(&args.name) {
            ensure!(args.replace, "{} is there already; add --replace to replace it", args.name);
            text = without(&args.file, &text, &args.name)?;
        }
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        let gap = if text.is_empty() || text.ends_with("\n\n") { "" } else { "\n" };
        Ok(format!("{text}{gap}{entry}"))
    })
}

const HEAD: &str = "# Who may log in to the oncelog server. Change it with: oncelog user\n";

fn remove(path: &Path, name: &str) -> anyhow::Result<()> {
    change(path, |text| {
        let text = text.ok_or_else(|| FileError::new(path, "there is no such file"))?;
        without(path, text, name)
    })
}

fn list(path: &Path) -> anyhow::Result<String> {
    let text = String::from_utf8(private::read_private(path)?).context("the file is not UTF-8")?;
    let users = Users::parse(path, &text)?;
    let mut lines = String::new();
    for name in names(path, &text)? {
        let account = &users.accounts[&name];
        let by_certificate = users.certificates.values().any(|user| user.name == name);
        let means = match (account.password.is_some(), by_certificate) {
            (true, true) => "password or certificate",
            (true, false) => "password",
            (false, _) => "certificate",
        };
        lines += &format!("{name} ({means})\n");
        for grant in &account.user.grants {
            let rights: Vec<&str> = grant.allow.iter().map(|right| right.name()).collect();
            lines += &format!("    {:?}: {}\n", grant.prefix, rights.join(", "));
        }
    }
    Ok(lines)
}

/// Replaces the text of a file by one that a server takes.
fn change(
    path: &Path,
    edit: impl FnOnce(Option<&str>) -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let change = Change::begin(path)?;
    let text = change.read()?.map(String::from_utf8).transpose().context("it is not UTF-8")?;
    let text = edit(text.as_deref())?;
    Users::parse(path, &text).context("the file would not be one that a server takes")?;
    change.replace(text.as_bytes())?;
    Ok(())
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// The sum of the first certificate in a file.
fn fingerprint(path: &Path) -> anyhow::Result<String> {
    let der = CertificateDer::from_pem_slice(&private::read(path)?);
    let der = der.map_err(|error| FileError::new(path, format!("no PEM certificate: {error}")))?;
    Ok(Sha256::digest(&der).iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The users' names in the order of the file.
fn names(path: &Path, text: &str) -> Result<Vec<String>, FileError> {
    let file: UsersFile = toml::from_str(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        FileError::at(path, text, offset, error.message())
    })?;
    Ok(file.user.into_iter().map(|user| user.into_inner().name.into_inner()).collect())
}

/// The text without a user, and the comment right above them.
fn without(path: &Path, text: &str, name: &str) -> anyhow::Result<String> {
    let mut left = names(path, text)?;
    let Some(index) = left.iter().position(|other| other == name) else {
        bail!(FileError::new(path, format!("there is no user {name}")));
    };
    left.remove(index);
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let kept = block(&lines, index).map(|block| {
        let kept = lines[..block.start].iter().chain(&lines[block.end..]);
        kept.copied().collect::<String>()
    });
    // Whoever writes tables in another way is not guessed at.
    let kept = kept.filter(|kept| names(path, kept).is_ok_and(|names| names == left));
    kept.with_context(|| format!("cannot tell which lines are {name}'s; take them out by hand"))
}

/// The lines of a user, by number.
fn block(lines: &[&str], index: usize) -> Option<Range<usize>> {
    let starts: Vec<usize> =
        (0..lines.len()).filter(|line| lines[*line].trim_start().starts_with("[[user]]")).collect();
    let with_comment = |start: &usize| {
        let comments = lines[..*start].iter().rev();
        start - comments.take_while(|line| line.trim_start().starts_with('#')).count()
    };
    let start = starts.get(index).map(with_comment)?;
    Some(start..starts.get(index + 1).map_or(lines.len(), with_comment))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        user: UserArgs,
    }

    fn parse(words: &[&str]) -> Result<AddArgs, clap::Error> {
        let words = ["user", "add"].iter().chain(words);
        match Cli::try_parse_from(words)?.user.command {
            UserCommand::Add(args) => Ok(args),
            _ => unreachable!(),
        }
    }

    /// Adds a user by command line and password.
    fn run(file: &Path, words: &[&str], password: Option<&str>) -> anyhow::Result<()> {
        let words: Vec<&str> = [file.to_str().unwrap()].iter().chain(words).copied().collect();
        add(&parse(&words)?, password)
    }

    #[test]
    fn a_user_who_was_added_can_log_in_and_one_who_was_removed_cannot() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("users.toml");
        let words = ["ann", "--allow", "read,append", "--prefix", "orders/", "--prefix", "b\"/"];
        run(&file, &words, Some("secret")).unwrap();
        run(&file, &["bob", "--allow", "admin", "--prefix", ""], Some("other")).unwrap();
        let users = Users::load(&file).unwrap();
        assert!(users.verify("ann", b"wrong").is_none());
        let ann = users.verify("ann", b"secret").unwrap();
        assert!(ann.may(Right::Read, "orders/1") && ann.may(Right::Append, "b\"/1"));
        assert!(!ann.may(Right::Admin, "orders/1") && !ann.may(Right::Read, "bills/1"));
        assert!(users.verify("bob", b"other").unwrap().may(Right::Admin, "bills"));
        let listed = list(&file).unwrap();
        assert!(listed.contains("ann (password)\n    \"orders/\": read, append\n"), "{listed}");

        let error = run(&file, &["ann", "--allow", "read", "--prefix", ""], Some("new"));
        assert!(error.unwrap_err().to_string().contains("--replace"));
        run(&file, &["ann", "--replace", "--allow", "read", "--prefix", ""], Some("new")).unwrap();
        assert!(Users::load(&file).unwrap().verify("ann", b"secret").is_none());
        assert!(Users::load(&file).unwrap().verify("ann", b"new").is_some());

        remove(&file, "ann").unwrap();
        let users = Users::load(&file).unwrap();
        assert!(users.get("ann").is_none() && users.get("bob").is_some());
        assert!(remove(&file, "ann").unwrap_err().to_string().contains("no user ann"));
        assert!(
            remove(&dir.path().join("none"), "ann").unwrap_err().to_string().contains("no such")
        );
    }

    #[test]
    fn a_user_may_have_a_certificate_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (file, pem) = (dir.path().join("users.toml"), dir.path().join("ann.pem"));
        let certificate = rcgen::generate_simple_self_signed(["ann".to_owned()]).unwrap().cert;
        std::fs::write(&pem, certificate.pem()).unwrap();
        let words = ["ann", "--allow", "read", "--prefix", "", "--no-password", "--certificate"];
        assert!(
            parse(&["users.toml", "ann", "--allow", "read", "--prefix", "", "--no-password"])
                .is_err()
        );
        run(&file, &[&words[..], &[pem.to_str().unwrap()]].concat(), None).unwrap();
        let users = Users::load(&file).unwrap();
        assert_eq!(users.by_certificate(certificate.der()).unwrap().name, "ann");
        assert!(users.has_certificates() && users.by_certificate(b"other").is_none());
        assert!(users.verify("ann", b"").is_none());
        assert!(list(&file).unwrap().starts_with("ann (certificate)"));
    }

    #[test]
    fn wrong_arguments_are_refused_and_change_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("users.toml");
        let good = ["ann", "--allow", "read", "--prefix", ""];
        assert!(parse(&["users.toml", "ann", "--allow", "fly", "--prefix", ""]).is_err());
        assert!(parse(&["users.toml", "ann", "--allow", "read"]).is_err());
        assert!(run(&file, &["a b", "--allow", "read", "--prefix", ""], Some("x")).is_err());
        assert!(run(&file, &good, Some("")).is_err());
        assert!(run(&file, &good, Some(&"x".repeat(PASSWORD_SIZE_MAX + 1))).is_err());
        assert!(!file.exists());
    }

    #[test]
    fn a_password_is_one_line_with_its_spaces() {
        for text in [" a b ", " a b \n", " a b \r\n", " a b \nmore"] {
            assert_eq!(read_line(&mut text.as_bytes()).unwrap(), " a b ");
        }
        assert!(read_line(&mut &b"\xff\n"[..]).is_err());
    }

    #[test]
    fn comments_stay_with_their_users() {
        let path = Path::new("users");
        let text = "# head\n\n# ann\n[[user]]\nname = \"ann\"\ngrants = []\n\n# bob\n[[user]]\n\
                    name = \"bob\"\ngrants = []\n";
        let left = without(path, text, "ann").unwrap();
        assert_eq!(left, "# head\n\n# bob\n[[user]]\nname = \"bob\"\ngrants = []\n");
        let left = without(path, text, "bob").unwrap();
        assert_eq!(left, "# head\n\n# ann\n[[user]]\nname = \"ann\"\ngrants = []\n\n");
        // Lines that only look like a user's are not taken for one's.
        let odd = "user = [{ name = \"ann\", grants = [] }]\n";
        assert!(without(path, odd, "ann").unwrap_err().to_string().contains("by hand"));
        let grants = "[{ prefix = '''\n[[user]]\n''', allow = [\"read\"] }]";
        let odd = format!("[[user]]\nname = \"ann\"\ngrants = {grants}\n");
        let odd = format!("{odd}[[user]]\nname = \"bob\"\ngrants = []\n");
        assert!(without(path, &odd, "bob").unwrap_err().to_string().contains("by hand"));
    }
}
