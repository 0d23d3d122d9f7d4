//! The one file that a store is about, for as long as the store lives.
//!
//! A file may be moved, deleted or replaced while connections have it open. They go on with a file that nothing else
//! can find any more, while new ones, and other processes, get another database. And the same name may lead to another
//! file, after a change of directory. Either would let a request be executed twice. So before a connection is used,
//! this checks that the path still leads to the file that the store was made on; and in the errand in which a record is
//! read, which file the connection has open.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::busy::unavailable;
use oneflight::store::StoreError;

/// A table of one row that tells which databases a connection has: what [`Databases`] is read from.
macro_rules! databases {
    () => {
        "(SELECT max(file) FILTER (WHERE seq = 0) AS main_file, count(*) FILTER (WHERE seq > 1 AND file <> '') AS attached
          FROM pragma_database_list)"
    };
}
pub(super) use databases;

/// The databases of a connection.
pub(super) struct Databases {
    /// The path of the main one's file, in full; empty if it is in memory.
    main: String,
    /// How many files are attached, those of temporary tables aside.
    attached: i64,
}

impl Databases {
    fn of(row: &SqliteRow) -> sqlx::Result<Self> {
        let main: Option<String> = row.try_get("main_file")?;
        Ok(Self {
            main: main.unwrap_or_default(),
            attached: row.try_get("attached")?,
        })
    }

    async fn ask(connection: &mut SqliteConnection) -> sqlx::Result<Self> {
        let ask = sqlx::query(concat!("SELECT * FROM ", databases!()));
        Self::of(&ask.fetch_one(connection).await?)
    }

    pub(super) fn has_attached(&self) -> bool {
        self.attached > 0
    }
}

/// The file of a store.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DatabaseFile {
    /// In full, and without symbolic links; empty if the database is in memory.
    path: String,
    identity: Option<Identity>,
}

impl DatabaseFile {
    /// Returns the file that a connection has open.
    pub(super) async fn of(connection: &mut SqliteConnection) -> sqlx::Result<Self> {
        let path = Databases::ask(connection).await?.main;
        let identity = Identity::of(&path)?;
        Ok(Self { path, identity })
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn is_in_memory(&self) -> bool {
        self.path.is_empty()
    }

    /// Fails if the path leads elsewhere by now, or nowhere.
    pub(super) fn still_there(&self) -> Result<(), StoreError> {
        // What cannot be seen, for want of a right to look, is not known to have changed.
        match Identity::of(&self.path) {
            Ok(found) if found != self.identity => Err(StoreError::unavailable(
                "the file was deleted, moved or replaced while it was open; put it back, or restart on the one that is \
                 to be used",
            )),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Reads which databases a connection has, from a row that it has read along with them. Fails if it has another
    /// file open.
    pub(super) fn seen_in(&self, row: &SqliteRow) -> Result<Databases, StoreError> {
        self.is_main_of(Databases::of(row).map_err(unavailable)?)
    }

    /// Fails if a connection has another file open.
    pub(super) async fn is_open_on(&self, connection: &mut SqliteConnection) -> Result<Databases, StoreError> {
        self.is_main_of(Databases::ask(connection).await.map_err(unavailable)?)
    }

    fn is_main_of(&self, databases: Databases) -> Result<Databases, StoreError> {
        if databases.main == self.path {
            return Ok(databases);
        }
        Err(StoreError::unavailable(format!(
            "a connection of the pool has another file open, {}; name the database by its path in full",
            databases.main
        )))
    }

    /// Adds to an error which file it is about.
    pub(super) fn named(&self, error: StoreError) -> StoreError {
        about(&self.path, error)
    }
}

/// Returns the path of a file in full, if it is one.
pub(super) fn path_of_file(path: &Path) -> Result<PathBuf, StoreError> {
    let name = path.as_os_str().as_encoded_bytes();
    if name.is_empty() || name == b":memory:" {
        return Err(StoreError::Unsupported {
            advice: "SqliteStore::open takes the path of a file; use MemoryStore to keep records in memory",
        });
    }
    if name.starts_with(b"sqlite:") || name.starts_with(b"file:") {
        return Err(StoreError::Unsupported {
            advice: "SqliteStore::open takes the path of a file, not a URL: leave out the scheme, or make a pool of the URL \
                     and use SqliteStore::from_pool (a file of such a name is opened by a path, such as ./sqlite:name); \
                     use MemoryStore to keep records in memory",
        });
    }
    // The name of a file in a directory, whatever it is: SQLite gives some names a meaning.
    Ok(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
}

/// Adds to an error which file it is about.
pub(super) fn about(path: &str, error: StoreError) -> StoreError {
    let about = |source| AboutFile {
        path: path.to_owned(),
        source,
    };
    match error {
        StoreError::Unavailable { source } => StoreError::unavailable(about(source)),
        StoreError::Failed { failure, source } => StoreError::failed(failure, about(source)),
        error => error,
    }
}

#[derive(Debug)]
struct AboutFile {
    path: String,
    source: Arc<dyn Error + Send + Sync>,
}

impl fmt::Display for AboutFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str("SQLite database in memory: ")?,
            path => write!(f, "SQLite database {path}: ")?,
        }
        self.source.fmt(f)
    }
}

impl Error for AboutFile {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}

/// What tells a file from another of the same name: device and number, where they exist.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    number: u64,
}

impl Identity {
    /// Returns `None` if there is no such file.
    #[cfg(unix)]
    fn of(path: &str) -> std::io::Result<Option<Self>> {
        use std::os::unix::fs::MetadataExt;
        match std::fs::metadata(path) {
            Ok(found) => Ok(Some(Self {
                device: found.dev(),
                number: found.ino(),
            })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// An open file can be neither deleted nor replaced here.
    #[cfg(not(unix))]
    fn of(_path: &str) -> std::io::Result<Option<Self>> {
        Ok(None)
    }
}
