//! Names of logs and processors, and the group that a name belongs to.
//!
//! `payments/orders` is of group `payments`; a bare name is a group of its own. A group lives on
//! one shard, which is where its atomicity comes from.
//!
//! Not here: which names are taken (`catalog`).

use crate::error::NameError;
use crate::format::checksum;
use crate::limits::NAME_SIZE_MAX;
use crate::position::ShardId;

/// Whether `name` is one.
///
/// # Errors
/// [`NameError`] says what is wrong with it.
pub fn check_name(name: &str) -> Result<(), NameError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte);
    let why = if name.is_empty() {
        "it is empty"
    } else if name.len() > NAME_SIZE_MAX {
        "it is longer than 255 bytes"
    } else if !name.bytes().all(allowed) {
        "it has a character that is not allowed"
    } else if name.split('/').any(str::is_empty) {
        "it has an empty part"
    } else if name.split('/').any(|part| part.starts_with('.')) {
        "a part of it begins with a dot"
    } else {
        return Ok(());
    };
    Err(NameError { name: name.chars().take(80).collect(), why })
}

/// The part before the first slash.
#[must_use]
pub fn group_of(name: &str) -> &str {
    name.split_once('/').map_or(name, |(group, _)| group)
}

/// The shard of a group: CRC-64/NVME of its name, modulo the shard count (F-14).
#[must_use]
pub fn shard_of(group: &str, shard_count: u16) -> ShardId {
    let shard = checksum(&[group.as_bytes()]) % u64::from(shard_count);
    ShardId(u16::try_from(shard).expect("less than the shard count"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_part_by_part() {
        for name in ["orders", "payments/orders", "a.b-c_D/9", &"x".repeat(255)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", "/a", "a/", "a//b", ".a", "a/.b", "a b", "é", &"x".repeat(256)] {
            let error = check_name(name).unwrap_err();
            assert!(error.to_string().contains("is no name"), "{error}");
        }
    }

    #[test]
    fn a_group_is_the_part_before_the_first_slash() {
        assert_eq!(group_of("payments/eu/orders"), "payments");
        assert_eq!(group_of("orders"), "orders");
    }
}
