//! Files of users, and who gets in by them.
//!
//! Not here: changing files (`edit`).

use super::*;

/// As weak as is allowed, since these tests hash often.
const HASH_START: &str = "$argon2id$v=19$m=7168,t=5,p=1$";

fn weak_hash(password: &str) -> String {
    use argon2::{PasswordHasher, Version};
    let params = Params::new(HASH_MEMORY_MIN, 5, 1, None).unwrap();
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let hash = argon2.hash_password(password.as_bytes()).unwrap().to_string();
    assert!(hash.starts_with(HASH_START));
    hash
}

fn parse(text: &str) -> Result<Users, FileError> {
    Users::parse(Path::new("users.toml"), text)
}

fn entry(name: &str, more: &str) -> String {
    format!("[[user]]\nname = \"{name}\"\n{more}\n")
}

#[test]
fn only_the_right_password_of_a_user_who_is_there_is_right() {
    let (ann, bob) = (weak_hash("secret"), weak_hash("other"));
    let grants = "grants = [{ prefix = \"orders/\", allow = [\"read\", \"process\"] }]";
    let text = entry("ann", &format!("password = \"{ann}\"\n{grants}"))
        + &entry("bob", &format!("password = \"{bob}\"\ngrants = []"));
    let users = parse(&text).unwrap();
    assert_eq!(users.count(), 2);
    for _ in 0..2 {
        let user = users.verify("ann", b"secret").unwrap();
        assert!(user.may(Right::Process, "orders/1") && !user.may(Right::Append, "orders/1"));
        assert_eq!(users.verify("ann", b"other"), None);
        assert_eq!(users.verify("bob", b"secret"), None);
        assert_eq!(users.verify("eve", b"secret"), None);
        assert_eq!(users.verify("", b""), None);
        // A password that was right is known; others are not.
        assert_eq!(users.verify_known("ann", b"secret"), Some(user));
        assert_eq!(users.verify_known("ann", b"secret2"), None);
        assert_eq!(users.verify_known("bob", b"other"), None);
    }
}

#[test]
fn who_is_not_there_costs_as_much_as_the_costliest() {
    let cheap = weak_hash("a");
    let costly = edit::hash("b").unwrap();
    let user = |name, hash| entry(name, &format!("password = \"{hash}\"\ngrants = []"));
    let users = parse(&(user("a", &cheap) + &user("b", &costly))).unwrap();
    let params = |text: &str| PasswordHash::new(text).unwrap().params;
    assert_eq!(users.nobody.params, params(&costly));
    assert_eq!(parse(&user("a", &cheap)).unwrap().nobody.params, params(&cheap));
    assert_eq!(parse("").unwrap().nobody.params, params(&costly));
    // And is no way in.
    assert_eq!(users.verify("nobody", b""), None);
}

#[test]
fn wrong_files_are_refused_with_line_user_and_what_to_do() {
    let hash = weak_hash("secret");
    let password = format!("password = \"{hash}\"\ngrants = []");
    let with = |bad: &str| entry("ann", &format!("password = \"{bad}\"\ngrants = []"));
    let sum = "ab:".repeat(31) + "ab";
    let certificate = format!("certificate = \"{sum}\"\ngrants = []");
    let grant = |grant: &str| entry("ann", &format!("password = \"{hash}\"\ngrants = [{grant}]"));
    let cases = [
        ("rubbish".to_owned(), 1, "expected"),
        (entry("ann", &password) + "pasword = 1", 5, "unknown field"),
        (entry("a b", &password), 2, "no user name"),
        (entry("", &password), 2, "no user name"),
        (entry(&"x".repeat(65), &password), 2, "no user name"),
        (entry("ann", &password) + &entry("ann", &password), 6, "user ann: is there twice"),
        (entry("ann", "grants = []"), 1, "user ann: has neither password nor certificate"),
        (entry("ann", &format!("password = \"{hash}\"")), 1, "missing field `grants`"),
        (with("secret"), 3, "user ann: has a password that is no hash"),
        (with(&hash.replace("argon2id", "argon2i")), 3, "argon2id"),
        (with(&hash.replace("v=19", "v=16")), 3, "version 19"),
        (with(&hash.replace("m=7168", "m=1024")), 3, "too easily guessed"),
        (with(&hash.replace("t=5", "t=4")), 3, "too easily guessed"),
        (with(&hash.replace("m=7168", "m=999999")), 3, "too costly"),
        (with(&hash.replace("t=5", "t=100000")), 3, "too costly"),
        (with(hash.rsplit_once('$').unwrap().0), 3, "too easily guessed"),
        (entry("ann", "certificate = \"abc\"\ngrants = []"), 3, "no SHA-256"),
        (entry("ann", &certificate.replace("ab", "gb")), 3, "no SHA-256"),
        (entry("ann", &certificate) + &entry("bob", &certificate), 7, "certificate of ann"),
        (grant("{ prefix = \"\", allow = [\"fly\"] }"), 4, "read, append, process, admin"),
        (grant("{ prefix = \"\", allow = [] }"), 4, "allows nothing"),
        (grant("{ prefix = \"\", allow = [\"read\"], deny = [] }"), 4, "unknown field"),
    ];
    for (text, line, why) in cases {
        let error = parse(&text).expect_err(&text);
        assert!(error.why.contains(why), "{error} for {text}");
        assert_eq!(error.line, Some(line), "{error} for {text}");
        assert!(!error.to_string().contains(&hash), "{error} has a hash in it");
    }
}

#[test]
fn files_that_others_may_read_are_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users.toml");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    assert!(Users::load(&path).unwrap_err().to_string().contains("chmod"));
}

#[test]
fn a_reload_changes_users_whole_or_not_at_all() {
    use crate::private::Change;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users.toml");
    let sum = "0123456789abcdef".repeat(4);
    let write = |text: &str| Change::begin(&path).unwrap().replace(text.as_bytes()).unwrap();
    write(&entry("ann", &format!("certificate = \"{sum}\"\ngrants = []")));
    let users = SharedUsers::load(&path).unwrap();
    let before = users.current();
    write(&entry("bob", "grants = []"));
    users.reload(|_| Ok(())).unwrap_err();
    assert!(Arc::ptr_eq(&users.current(), &before));
    write(&entry("bob", &format!("certificate = \"{}\"\ngrants = []", sum.to_uppercase())));
    users.reload(|_| Err(FileError::new(&path, "no"))).unwrap_err();
    assert!(Arc::ptr_eq(&users.current(), &before));
    users.reload(|_| Ok(())).unwrap();
    let after = users.current();
    assert!(after.get("ann").is_none() && after.get("bob").is_some());
    assert!(before.get("ann").is_some(), "who began with the old ones goes on with them");
}
