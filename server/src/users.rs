//! Who may log in, and what they may do: a file of users, read once and kept.
//!
//! ```text
//! [[user]]
//! name = "billing"
//! password = "$argon2id$v=19$..."             # written by `oncelog user add`
//! certificate = "9f86d081884c7d65..."         # SHA-256 of a client certificate, optional
//! grants = [{ prefix = "orders/", allow = ["read", "append"] }]
//! ```
//!
//! A file is taken whole or not at all: what is wrong in it is told, and the users of before stay.
//! Checking a password takes tens of milliseconds and megabytes on purpose, for a user who is not
//! there as well; `verifier` bounds how many are checked at once. A password that was right is
//! known again by a keyed digest in memory, so that clients who come back all at once need not
//! wait.
//!
//! Not here: which connection is whose (`connection`), what rights are for (`rights`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use argon2::password_hash::PasswordVerifier;
use argon2::password_hash::phc::{Output, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Params};
use rustls::crypto::ring;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use toml::Spanned;

use crate::private::{self, FileError};
use crate::rights::{Grant, Right, User};

mod edit;
mod verifier;

pub use edit::UserArgs;
pub use verifier::{Busy, QUEUE_MAX, THREADS, Verdict, Verifier};

/// Bytes of a user's name.
pub const NAME_SIZE_MAX: usize = 64;
/// Bytes of a password.
pub const PASSWORD_SIZE_MAX: usize = 1024;

/// Kibibytes of memory of a hash, at least: less is cheap to guess on a graphics card.
const HASH_MEMORY_MIN: u32 = 7 << 10;
/// Memory times passes, at least; with the above the weakest that OWASP still recommends.
const HASH_WORK_MIN: u32 = 35 << 10;
/// Kibibytes of memory of a hash, at most: several are checked at once.
const HASH_MEMORY_MAX: u32 = 256 << 10;
/// Memory times passes, at most: some seconds.
const HASH_WORK_MAX: u32 = 4 << 20;

type Sum = [u8; 32];

/// Everyone in a file.
#[derive(Debug)]
pub struct Users {
    accounts: HashMap<String, Account>,
    certificates: HashMap<Sum, Arc<User>>,
    /// What the passwords of users without one, or who are not there, are compared with.
    nobody: PasswordHash,
    /// Of the digests in [`Account::known`].
    key: Sum,
}

#[derive(Debug)]
struct Account {
    user: Arc<User>,
    password: Option<PasswordHash>,
    /// The keyed digest of the password, once it was found right.
    known: OnceLock<Sum>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UsersFile {
    #[serde(default)]
    user: Vec<Spanned<UserEntry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserEntry {
    name: Spanned<String>,
    password: Option<Spanned<String>>,
    certificate: Option<Spanned<String>>,
    grants: Vec<Spanned<GrantEntry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantEntry {
    prefix: String,
    allow: Vec<Spanned<String>>,
}

impl Users {
    /// Reads a file of users.
    ///
    /// # Errors
    /// [`FileError`] with the line, the user, and what to do.
    pub fn load(path: &Path) -> Result<Self, FileError> {
        let bytes = private::read_private(path)?;
        let text = String::from_utf8(bytes);
        let text = text.map_err(|_| FileError::new(path, "it is not UTF-8; is it the file?"))?;
        Self::parse(path, &text)
    }

    /// The users in the text of a file.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, FileError> {
        // The error's own text shows the line: with a hash in it, which no log should have.
        let file: UsersFile = toml::from_str(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            FileError::at(path, text, offset, error.message())
        })?;
        let wrong = |offset, why: String| FileError::at(path, text, offset, why);
        let mut key = Sum::default();
        let filled = ring::default_provider().secure_random.fill(&mut key);
        filled.map_err(|_| FileError::new(path, "the system gave no random bytes"))?;
        let (accounts, certificates) = (HashMap::new(), HashMap::new());
        let mut users = Self { accounts, certificates, nobody: costly_hash(&[]), key };
        for entry in file.user {
            users.add(entry).map_err(|(offset, why)| wrong(offset, why))?;
        }
        let hashes = users.accounts.values().filter_map(|account| account.password.as_ref());
        users.nobody = costly_hash(&hashes.collect::<Vec<_>>());
        Ok(users)
    }

    /// Adds the user of an entry; else says at which byte what is wrong.
    fn add(&mut self, entry: Spanned<UserEntry>) -> Result<(), (usize, String)> {
        let start = entry.span().start;
        let entry = entry.into_inner();
        let at = entry.name.span().start;
        let name = entry.name.into_inner();
        check_user_name(&name).map_err(|why| (at, why))?;
        let refused = |why: &str| format!("user {name}: {why}");
        if self.accounts.contains_key(&name) {
            return Err((at, refused("is there twice; take one away")));
        }
        if entry.password.is_none() && entry.certificate.is_none() {
            let why = "has neither password nor certificate; set one with: oncelog user add";
            return Err((start, refused(why)));
        }
        let mut grants = Vec::new();
        for grant in entry.grants {
            grants.push(parse_grant(grant).map_err(|(at, why)| (at, refused(&why)))?);
        }
        let user = Arc::new(User { name: name.clone(), grants });
        if let Some(certificate) = entry.certificate {
            let at = certificate.span().start;
            let sum = parse_fingerprint(certificate.get_ref()).map_err(|why| (at, refused(why)))?;
            if let Some(other) = self.certificates.insert(sum, Arc::clone(&user)) {
                let why = format!("has the certificate of {}; each has their own", other.name);
                return Err((at, refused(&why)));
            }
        }
        let password = match entry.password {
            None => None,
            Some(hash) => {
                let parsed = parse_hash(hash.get_ref());
                Some(parsed.map_err(|why| (hash.span().start, refused(&why)))?)
            }
        };
        self.accounts.insert(name, Account { user, password, known: OnceLock::new() });
        Ok(())
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.accounts.len()
    }

    /// A user by name: to look whether one who logged in before a reload is still there.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<User>> {
        self.accounts.get(name).map(|account| &account.user)
    }

    /// Whether somebody logs in by a certificate: without TLS that cannot work.
    #[must_use]
    pub fn has_certificates(&self) -> bool {
        !self.certificates.is_empty()
    }

    /// Whose a client's certificate (DER) is. The caller has checked that it is the client's.
    #[must_use]
    pub fn by_certificate(&self, der: &[u8]) -> Option<Arc<User>> {
        self.certificates.get(&Sum::from(Sha256::digest(der))).cloned()
    }

    /// Checks a password: slow, and the memory of its hash is used meanwhile. See [`Verifier`].
    #[must_use]
    pub fn verify(&self, name: &str, password: &[u8]) -> Option<Arc<User>> {
        if password.len() > PASSWORD_SIZE_MAX {
            return None;
        }
        if let Some(user) = self.verify_known(name, password) {
            return Some(user);
        }
        let account = self.accounts.get(name);
        let hash = account.and_then(|account| account.password.as_ref());
        // Compares in constant time; the parameters are those of the hash.
        let right = Argon2::default().verify_password(password, hash.unwrap_or(&self.nobody));
        let account = account.filter(|account| account.password.is_some() && right.is_ok())?;
        account.known.get_or_init(|| self.digest(password));
        Some(Arc::clone(&account.user))
    }

    /// As [`Users::verify`], at once, for a password that was right before; `None` says nothing.
    #[must_use]
    pub fn verify_known(&self, name: &str, password: &[u8]) -> Option<Arc<User>> {
        if password.len() > PASSWORD_SIZE_MAX {
            return None;
        }
        // Whoever is asked for, the work is the same.
        let digest = self.digest(password);
        let account = self.accounts.get(name)?;
        let known = account.known.get()?;
        let different = known.iter().zip(&digest).fold(0, |bits, (a, b)| bits | (a ^ b));
        (different == 0).then(|| Arc::clone(&account.user))
    }

    fn digest(&self, password: &[u8]) -> Sum {
        Sha256::new().chain_update(self.key).chain_update(password).finalize().into()
    }
}

/// The file of users of a server, and who is in it now.
#[derive(Debug)]
pub struct SharedUsers {
    path: PathBuf,
    current: RwLock<Arc<Users>>,
}

impl SharedUsers {
    /// Reads the file.
    ///
    /// # Errors
    /// As [`Users::load`].
    pub fn load(path: &Path) -> Result<Self, FileError> {
        let current = RwLock::new(Arc::new(Users::load(path)?));
        Ok(Self { path: path.to_owned(), current })
    }

    /// Who may log in now.
    #[must_use]
    pub fn current(&self) -> Arc<Users> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the file again, and has `check` look at it before it counts.
    ///
    /// # Errors
    /// As [`Users::load`], or what `check` says; then the users of before stay.
    pub fn reload(
        &self,
        check: impl FnOnce(&Users) -> Result<(), FileError>,
    ) -> Result<Arc<Users>, FileError> {
        let users = Arc::new(Users::load(&self.path)?);
        check(&users)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&users);
        Ok(users)
    }
}

/// Whether this may be a user's name; else why not.
fn check_user_name(name: &str) -> Result<(), String> {
    let allowed = |c: char| !c.is_control() && !c.is_whitespace();
    if name.is_empty() || name.len() > NAME_SIZE_MAX || !name.chars().all(allowed) {
        return Err(format!(
            "{name:?} is no user name: give 1 to {NAME_SIZE_MAX} bytes, no spaces"
        ));
    }
    Ok(())
}

fn parse_right(name: &str) -> Result<Right, String> {
    let names = Right::ALL.map(Right::name).join(", ");
    let found = Right::ALL.into_iter().find(|right| right.name() == name);
    found.ok_or_else(|| format!("{name:?} is no right; there are {names}"))
}

fn parse_grant(grant: Spanned<GrantEntry>) -> Result<Grant, (usize, String)> {
    let start = grant.span().start;
    let GrantEntry { prefix, allow } = grant.into_inner();
    if allow.is_empty() {
        return Err((start, format!("the grant for {prefix:?} allows nothing; take it away")));
    }
    let right = |name: &Spanned<String>| {
        parse_right(name.get_ref()).map_err(|why| (name.span().start, why))
    };
    let allow = allow.iter().map(right).collect::<Result<_, _>>()?;
    Ok(Grant { prefix, allow })
}

/// The sum that 64 hexadecimal digits say; colons between bytes are ignored, as openssl has them.
fn parse_fingerprint(text: &str) -> Result<Sum, &'static str> {
    let why = "has a certificate that is no SHA-256: give 64 hexadecimal digits, as from \
               openssl x509 -noout -fingerprint -sha256";
    let digits: Vec<u32> = text
        .chars()
        .filter(|c| *c != ':')
        .map(|c| c.to_digit(16))
        .collect::<Option<_>>()
        .ok_or(why)?;
    let bytes =
        digits.chunks(2).map(|pair| pair.iter().fold(0, |sum, digit| sum * 16 + digit) as u8);
    if digits.len() == 64 {
        Sum::try_from(bytes.collect::<Vec<_>>()).map_err(|_| why)
    } else {
        Err(why)
    }
}

/// A hash that was checked not to be too weak, or too costly.
fn parse_hash(text: &str) -> Result<PasswordHash, String> {
    let again = "make it again with: oncelog user hash";
    let hash = PasswordHash::new(text);
    let hash = hash.map_err(|_| format!("has a password that is no hash; {again}"))?;
    let algorithm = Algorithm::try_from(hash.algorithm.as_str());
    if algorithm != Ok(Algorithm::Argon2id) || hash.version != Some(19) {
        return Err(format!("has a hash that is not argon2id of version 19; {again}"));
    }
    let params = Params::try_from(&hash);
    let params = params.map_err(|_| format!("has a hash with wrong parameters; {again}"))?;
    let (memory, work) = cost(&params);
    let length = hash.hash.as_ref().map_or(0, |output| output.len());
    let salt = hash.salt.as_ref().map_or(0, |salt| salt.len());
    if memory < HASH_MEMORY_MIN || work < u64::from(HASH_WORK_MIN) || length < 16 || salt < 8 {
        return Err(format!("has a hash that is too easily guessed (m={memory}); {again}"));
    }
    if memory > HASH_MEMORY_MAX || work > u64::from(HASH_WORK_MAX) {
        let why = "has a hash that is too costly to check";
        return Err(format!("{why} (m={memory}, at most {HASH_MEMORY_MAX}); {again}"));
    }
    Ok(hash)
}

/// Kibibytes, and those times passes.
fn cost(params: &Params) -> (u32, u64) {
    (params.m_cost(), u64::from(params.m_cost()) * u64::from(params.t_cost()))
}

/// A hash that no password has, as costly to check as the costliest of these.
fn costly_hash(hashes: &[&PasswordHash]) -> PasswordHash {
    let params = hashes.iter().filter_map(|hash| Params::try_from(*hash).ok());
    let params = params.max_by_key(|params| cost(params).1).unwrap_or_default();
    PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(19),
        params: (&params).try_into().expect("they are from a hash"),
        salt: Some(Salt::new(&[0; 16]).expect("16 bytes are a salt")),
        hash: Some(Output::new(&[0; 32]).expect("32 bytes are a hash")),
    }
}

#[cfg(test)]
mod tests;
