//! The tables of a store: what takes them from one version to the next, and whether this version works with what is there.
//!
//! The version of a schema is the number of migrations that it has. Each is applied once, in order. One that was released is never
//! edited; a change is another migration. The database says of each migration which version is the oldest that works with it. So a
//! process of an older version opens a newer database, as long as no migration has broken with that version.

use super::error::StoreError;

/// What takes the tables of a store from one version to the next.
///
/// ```
/// use oneflight::store::{Migration, SchemaStatus};
///
/// const MIGRATIONS: &[Migration] = &[
///     Migration {
///         description: "records",
///         sql: "CREATE TABLE records (id TEXT PRIMARY KEY, record TEXT NOT NULL)",
///         compatible_from: None,
///     },
///     Migration {
///         description: "when a record expires",
///         sql: "CREATE INDEX records_expiry ON records (record)",
///         compatible_from: Some(1),
///     },
/// ];
/// // Of a database in which version 1 was found.
/// let status = SchemaStatus::of(MIGRATIONS, 1, None);
/// assert_eq!(status.missing, [(2, "when a record expires")]);
/// assert_eq!(status.compatible_from, 1);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// What it is for.
    pub description: &'static str,
    /// Its statements.
    pub sql: &'static str,
    /// The oldest version that works with what this leaves, if that is not this version alone.
    ///
    /// What only adds (a table, an index, a function, a column with a default) keeps the number of the migration before. What
    /// breaks with older versions has its own: a column or a function that goes, another meaning, something that has to be
    /// written with each claim.
    pub compatible_from: Option<i64>,
}

impl Migration {
    /// Returns the oldest version that works with what this leaves, if this is the migration to that version.
    pub fn floor(&self, version: i64) -> i64 {
        self.compatible_from.unwrap_or(version)
    }

    /// Returns the newest version that is known where these are.
    pub fn newest(migrations: &[Self]) -> i64 {
        i64::try_from(migrations.len()).unwrap_or(i64::MAX)
    }

    /// Returns those that a schema of this version lacks, in order, each with the version that it leads to. One that is newer lacks
    /// none.
    pub fn missing(migrations: &[Self], found: i64) -> impl Iterator<Item = (i64, &Self)> {
        (1..).zip(migrations).filter(move |(version, _)| *version > found)
    }
}

/// Which migrations a database has, and which it lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SchemaStatus {
    /// The version of its schema: 0 if it has none.
    pub found: i64,
    /// The newest version that is known here.
    pub known: i64,
    /// The oldest version that works with the schema once what is missing is applied. A process of an older one goes on as
    /// long as it has the store open, and ends when it is started anew.
    pub compatible_from: i64,
    /// What is to be applied, in order: a version and what it is for.
    pub missing: Vec<(i64, &'static str)>,
}

impl SchemaStatus {
    /// Compares the version that was found with the migrations that are known here. If it is newer, the database says which version
    /// is the oldest that works with it: the largest [floor](Migration::floor) of its migrations.
    pub fn of(migrations: &[Migration], found: i64, says: Option<i64>) -> Self {
        let floors = (1..)
            .zip(migrations)
            .map(|(version, migration)| migration.floor(version));
        let missing = Migration::missing(migrations, found);
        Self {
            found,
            known: Migration::newest(migrations),
            compatible_from: says.or(floors.max()).unwrap_or(found),
            missing: missing.map(|(version, it)| (version, it.description)).collect(),
        }
    }

    /// Returns itself, if this version works with the schema or is to upgrade it.
    ///
    /// # Errors
    ///
    /// [`StoreError::SchemaTooNew`] if only newer versions work with it, and [`StoreError::Corrupt`] if its version is none.
    pub fn usable(self) -> Result<Self, StoreError> {
        if self.found < 0 {
            return Err(StoreError::Corrupt {
                what: "the schema's version is negative",
            });
        }
        let Self {
            found,
            known,
            compatible_from,
            ..
        } = self;
        match found > known && compatible_from > known {
            true => Err(StoreError::SchemaTooNew {
                found,
                known,
                compatible_from,
            }),
            false => Ok(self),
        }
    }

    /// Returns whether nothing is missing.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn migration(compatible_from: Option<i64>) -> Migration {
        Migration {
            description: "of tomorrow",
            sql: "",
            compatible_from,
        }
    }

    #[test]
    fn a_version_works_with_what_has_not_broken_with_it() {
        let known = [migration(None), migration(None), migration(Some(2))];
        for (found, says, compatible_from, missing, is_usable) in [
            (0, None, 2, 3, true),
            (2, None, 2, 1, true),
            (3, None, 2, 0, true),
            (5, Some(3), 3, 0, true),
            (5, Some(4), 4, 0, false),
            (-1, None, 2, 3, false),
        ] {
            let status = SchemaStatus::of(&known, found, says);
            assert_eq!((status.known, status.compatible_from), (3, compatible_from), "{found}");
            assert_eq!((status.missing.len(), status.is_complete()), (missing, missing == 0));
            assert_eq!(status.usable().is_ok(), is_usable, "{found}, {says:?}");
        }
    }
}
