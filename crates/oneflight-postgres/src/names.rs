//! The names of our tables, and the numbers by which an identity is known to the server.
//!
//! Names go into the text of statements, so a name that is not a plain identifier is an error. The numbers are digests:
//! if two identities have one number, which is one chance in 2^64, one waits for the other, and nothing more.

use oneflight::identity::{Fingerprint, RequestIdentity};
use oneflight::store::StoreError;

/// PostgreSQL cuts names at 63 bytes. The longest that we append has 28.
const MAX_BYTES: usize = 32;

/// The names of the tables of a [`PostgresStore`](super::PostgresStore).
///
/// Work in a transaction [finds them](oneflight::idempotency::Tx::names) in what it runs its statements on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The first of the connection's search path if `None`.
    pub(super) schema: Option<String>,
    pub(super) prefix: String,
}

impl Names {
    /// Returns the schema of the tables. A store that is open knows it, also where it is the first of the search path.
    #[must_use]
    pub fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// Returns the prefix of the tables' names.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Fails for a name that is not a plain identifier.
    pub(super) fn validate(&self) -> Result<(), StoreError> {
        for name in self.schema.iter().chain([&self.prefix]) {
            let what = if name.is_empty() {
                "a name is empty"
            } else if name.len() > MAX_BYTES {
                "a name has more than 32 bytes"
            } else if name.starts_with(|first: char| first.is_ascii_digit()) {
                "a name begins with a digit"
            } else if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                "a name has other characters than ASCII letters, digits and underscores"
            } else {
                continue;
            };
            return Err(StoreError::InvalidName { what });
        }
        Ok(())
    }

    /// Returns a table or sequence of ours, as statements name it.
    pub(super) fn of(&self, name: &str) -> String {
        match &self.schema {
            Some(schema) => format!(r#""{}"."{}{name}""#, schema.replace('"', r#""""#), self.prefix),
            None => format!(r#""{}{name}""#, self.prefix),
        }
    }

    /// The number under which migrations exclude each other, here and in the SQL that we print.
    pub(super) fn migration_lock(&self) -> i64 {
        number(&self.digest("migrations", "", ""), 0)
    }

    /// The number under which partitions of the outbox are emptied, by one at a time.
    pub(super) fn house_lock(&self) -> i64 {
        number(&self.digest("house", "", ""), 0)
    }

    /// The channel on which changes of records are notified.
    pub(super) fn channel(&self) -> String {
        format!("oneflight_{:016x}", number(&self.digest("channel", "", ""), 0))
    }

    /// The channel on which other processes are told that there are messages.
    pub(super) fn outbox_channel(&self) -> String {
        format!("oneflight_{:016x}", number(&self.digest("outbox", "", ""), 0))
    }

    /// Returns the numbers of an identity.
    pub(super) fn keys(&self, id: &RequestIdentity) -> Keys {
        let digest = self.digest("identity", id.scope(), id.key());
        Keys {
            claim: number(&digest, 0),
            watch: number(&digest, 8),
        }
    }

    fn digest(&self, what: &str, scope: &str, key: &str) -> Fingerprint {
        Fingerprint::builder()
            .part("purpose", "oneflight postgres 1")
            .part("records", self.of("records"))
            .part("what", what)
            .part("scope", scope)
            .part("key", key)
            .build()
    }
}

/// The numbers by which an identity is known to the server's advisory locks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys {
    /// Held while a claim is decided about, and by a transaction from its begin to its end.
    pub(super) claim: i64,
    /// Held, shared, by every process in which a caller waits for a change of the record.
    pub(super) watch: i64,
}

/// Returns eight bytes of a digest, as a number.
fn number(digest: &Fingerprint, from: usize) -> i64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest.as_bytes()[from..from + 8]);
    i64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_identifiers() {
        let names = |schema: &str, prefix: &str| Names {
            schema: Some(schema.to_owned()),
            prefix: prefix.to_owned(),
        };
        assert!(names("shop", "oneflight_").validate().is_ok());
        let long = "a".repeat(33);
        for name in ["", "7a", "a b", r#"a"b"#, "a;b", "naïve", &long] {
            assert!(names(name, "p").validate().is_err(), "{name}");
            assert!(names("s", name).validate().is_err(), "{name}");
        }
    }
}
