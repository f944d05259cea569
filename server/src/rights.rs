//! What a user may do, and where: the names of rights and the logs that they are for (P-11).
//!
//! ```text
//! user -> grants: (prefix of names, rights) ...      allowed if any grant has both
//! ```
//!
//! A right for a prefix is one for every log, group and processor whose name begins with it, bytes
//! compared; the empty prefix is for all.
//!
//! Not here: who a user is (`users`), and what needs which right (`command`).

use std::fmt;

/// One thing to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// To read and follow logs, and describe them.
    Read,
    /// To append to logs.
    Append,
    /// To claim processors, and commit for them.
    Process,
    /// To make, change, truncate, seal and drop logs.
    Admin,
}

impl Right {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Read, Self::Append, Self::Process, Self::Admin];

    /// Its name in files and errors.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Append => "append",
            Self::Process => "process",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Rights for all names that begin with a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// What a name begins with; empty for every name.
    pub prefix: String,
    /// What is allowed there.
    pub allow: Vec<Right>,
}

/// Who somebody turned out to be, and what they may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// What they may do.
    pub grants: Vec<Grant>,
}

impl User {
    /// Somebody who may do everything, for servers without users.
    #[must_use]
    pub fn everyone() -> Self {
        let all = Grant { prefix: String::new(), allow: Right::ALL.to_vec() };
        Self { name: "default".to_owned(), grants: vec![all] }
    }

    /// Somebody who has not said who they are.
    #[must_use]
    pub fn nobody() -> Self {
        Self { name: String::new(), grants: Vec::new() }
    }

    /// Whether they may do this to the log, or processor, of a name.
    #[must_use]
    pub fn may(&self, right: Right, name: &str) -> bool {
        let fits = |grant: &Grant| name.starts_with(&grant.prefix) && grant.allow.contains(&right);
        self.grants.iter().any(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_is_for_the_names_under_its_prefix_only() {
        let grant = Grant { prefix: "orders/".to_owned(), allow: vec![Right::Read] };
        let user = User { name: "a".to_owned(), grants: vec![grant] };
        assert!(user.may(Right::Read, "orders/2026"));
        assert!(!user.may(Right::Read, "orders"));
        assert!(!user.may(Right::Append, "orders/2026"));
        assert!(User::everyone().may(Right::Admin, "orders"));
    }
}
