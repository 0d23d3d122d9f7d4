//! The keys under which the server keeps what is ours.
//!
//! ```text
//! oneflight:{417}:tenant-7|route=POST /orders<1f>a7f3     a record, one an identity
//! oneflight:{417}.open                                    the records of shard 417 that are in progress, by their tokens,
//!                                                         and the last token that was drawn in it
//! ```
//!
//! A script may only touch keys of one slot of a cluster, and a record needs a counter that outlives it. A counter for
//! every identity would stay for ever; one counter for all would put everything into one slot. So identities are dealt
//! to 1024 shards by a digest, and a shard's number is the hash tag of all its keys.
//!
//! A record's key ends in scope and key, whole, with a control character between them that neither can contain. So no
//! two identities have the same key, and an operator can read it. Braces in it do no harm, since the first pair of a
//! key is its tag and a prefix has none. A record's key is also the channel on which its changes are notified.

use std::fmt::{self, Write};

use oneflight::identity::{Fingerprint, RequestIdentity};
use oneflight::record::FencingToken;
use oneflight::store::StoreError;

use super::tokens::{SHARDS, Shard};

/// Enough for the name of a service and what it is for.
const MAX_BYTES: usize = 64;

/// Separates scope and key, which reject control characters.
const SEPARATOR: char = '\u{1f}';

/// The prefix of our keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    prefix: String,
}

/// The keys of one identity.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    pub(super) shard: Shard,
    pub(super) record: String,
}

impl Names {
    /// Fails for a prefix that would be taken for a pattern or a hash tag.
    pub(super) fn new(prefix: String) -> Result<Self, StoreError> {
        let what = if prefix.is_empty() {
            "the prefix is empty"
        } else if prefix.len() > MAX_BYTES {
            "the prefix has more than 64 bytes"
        } else if !prefix
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-.:/".contains(&byte))
        {
            "the prefix has other characters than ASCII letters, digits and `_-.:/`"
        } else {
            return Ok(Self { prefix });
        };
        Err(StoreError::InvalidName { what })
    }

    pub(super) fn keys(&self, id: &RequestIdentity) -> Keys {
        self.keys_in(Shard::of_identity(id), id)
    }

    /// Returns the keys of an identity whose shard is known: from a token that it has drawn, for example. In another one
    /// than its own there is nothing of it.
    pub(super) fn keys_in(&self, shard: Shard, id: &RequestIdentity) -> Keys {
        let mut record = String::with_capacity(self.room(id));
        // Writing into a string does not fail.
        let _ = self.write_record(&mut record, shard, id);
        Keys { shard, record }
    }

    /// The most bytes that the key of a record has.
    pub(super) fn room(&self, id: &RequestIdentity) -> usize {
        self.prefix.len() + 8 + id.scope().len() + id.key().len()
    }

    /// Writes the key of a record in a shard.
    pub(super) fn write_record(&self, to: &mut impl Write, shard: Shard, id: &RequestIdentity) -> fmt::Result {
        self.write_tag(to, shard)?;
        to.write_char(':')?;
        to.write_str(id.scope())?;
        to.write_char(SEPARATOR)?;
        to.write_str(id.key())
    }

    /// Writes the key under which the records of a shard are listed that are in progress.
    pub(super) fn write_in_progress(&self, to: &mut impl Write, shard: Shard) -> fmt::Result {
        self.write_tag(to, shard)?;
        to.write_str(".open")
    }

    /// Writes what all keys of a shard begin with.
    fn write_tag(&self, to: &mut impl Write, shard: Shard) -> fmt::Result {
        write!(to, "{}{{{shard}}}", self.prefix)
    }

    /// The key under which the records of a shard are listed that are in progress.
    pub(super) fn in_progress(&self, shard: Shard) -> String {
        let mut key = String::new();
        let _ = self.write_in_progress(&mut key, shard);
        key
    }

    /// Returns a pattern of the keys of records, of scopes that begin so, and of this key.
    pub(super) fn pattern(&self, scope: Option<&str>, key: Option<&str>) -> String {
        let key = key.map(|key| format!("{SEPARATOR}{}", as_it_is(key)));
        // A prefix has no character of a pattern.
        format!(
            "{}{{*}}:{}*{}",
            self.prefix,
            as_it_is(scope.unwrap_or_default()),
            key.unwrap_or_default()
        )
    }

    /// Returns the identity of a record, by its key.
    pub(super) fn any_identity(&self, record: &[u8]) -> Option<RequestIdentity> {
        let text = std::str::from_utf8(record).ok()?;
        let (_, text) = text.strip_prefix(&self.prefix)?.split_once("}:")?;
        let (scope, key) = text.split_once(SEPARATOR)?;
        let id = RequestIdentity::from_stored(scope, key).ok()?;
        (self.keys(&id).record.as_bytes() == record).then_some(id)
    }

    /// Returns the identity of a record of this shard, by its key.
    pub(super) fn identity(&self, shard: Shard, record: &[u8]) -> Option<RequestIdentity> {
        let text = std::str::from_utf8(record).ok()?;
        let text = text.strip_prefix(&format!("{}{{{shard}}}:", self.prefix))?;
        let (scope, key) = text.split_once(SEPARATOR)?;
        RequestIdentity::from_stored(scope, key).ok()
    }
}

/// A text in a pattern that stands for nothing but itself.
fn as_it_is(text: &str) -> String {
    let special = |character: char| r"*?[]\^-".contains(character);
    text.chars().fold(String::new(), |mut escaped, character| {
        if special(character) {
            escaped.push('\\');
        }
        escaped.push(character);
        escaped
    })
}

impl Shard {
    /// Returns the shard of an identity. It must never change: another shard has another counter.
    pub(super) fn of_identity(id: &RequestIdentity) -> Self {
        let digest = Fingerprint::builder()
            .part("scope", id.scope())
            .part("key", id.key())
            .build();
        let number = u16::from_be_bytes([digest.as_bytes()[0], digest.as_bytes()[1]]);
        Self::new(number % SHARDS)
    }
}

impl Keys {
    /// Returns the token as this identity's shard counts it, or `None` if it is not of this shard.
    pub(super) fn count(&self, token: FencingToken) -> Option<u64> {
        self.shard.count(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oneflight::identity::Scope;

    fn id(scope: &str, key: &str) -> RequestIdentity {
        RequestIdentity::new(Scope::new(scope), key).unwrap()
    }

    #[test]
    fn prefixes_are_plain() {
        for prefix in ["shop:", "a", "prod/shop-7_b."] {
            assert!(Names::new(prefix.to_owned()).is_ok(), "{prefix}");
        }
        for prefix in ["", "{", "a}", "a*", "a b", "naïve", &"a".repeat(65)] {
            assert!(Names::new(prefix.to_owned()).is_err(), "{prefix}");
        }
    }

    #[test]
    fn no_two_identities_share_a_key_and_all_keys_of_one_share_a_tag() {
        let names = Names::new("oneflight:".to_owned()).unwrap();
        let pairs = [
            ("a", "bc"),
            ("ab", "c"),
            ("a", "c"),
            ("{1}", "}:x"),
            ("{1}:", "x"),
            ("a.open", "b"),
        ];
        let mut seen = std::collections::HashSet::new();
        for (scope, key) in pairs {
            let id = id(scope, key);
            let keys = names.keys(&id);
            let tag = format!("oneflight:{{{}}}", keys.shard);
            for name in [&names.in_progress(keys.shard), &keys.record] {
                assert!(name.starts_with(&tag), "{name}");
            }
            assert_eq!(names.identity(keys.shard, keys.record.as_bytes()), Some(id.clone()));
            assert_eq!(names.any_identity(keys.record.as_bytes()), Some(id));
            assert!(seen.insert(keys.record), "{scope} {key}");
        }
    }

    #[test]
    fn an_identity_stays_in_its_shard_for_ever() {
        assert_eq!(Shard::of_identity(&id("tenant-7", "a7f3")).to_string(), "243");
    }
}
