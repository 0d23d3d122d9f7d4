//! Any of the stores, by its address.

use std::path::Path;
use std::time::Duration;

use oneflight::store::{SchemaStatus, StoreError, StoreFailure};
use oneflight_postgres::{PostgresOptions, PostgresStore, store_error};
use oneflight_redis::{RedisOptions, RedisStore};
use oneflight_sqlite::{SqliteOptions, SqliteStore};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::{ConnectOptions, Connection};

use crate::exit::{Code, Failure};

/// A store that was opened. [`with_store!`] calls a generic function with it.
#[derive(Clone)]
pub(crate) enum AnyStore {
    Sqlite(SqliteStore),
    Postgres(PostgresStore),
    Redis(RedisStore),
}

/// Where a store is, and by which names.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Address {
    /// The store: `postgres://…`, `redis://…`, or an SQLite file, as a path or `sqlite://…`
    #[arg(
        long = "store",
        env = "ONEFLIGHT_STORE",
        value_name = "URL",
        global = true,
        hide_env_values = true
    )]
    pub(crate) url: Option<String>,
    /// PostgreSQL: the schema of the tables
    #[arg(
        long,
        env = "ONEFLIGHT_SCHEMA",
        hide_env_values = true,
        global = true,
        help_heading = "Names in the store"
    )]
    pub(crate) schema: Option<String>,
    /// PostgreSQL and Redis: the prefix of the tables or keys
    #[arg(
        long,
        env = "ONEFLIGHT_PREFIX",
        hide_env_values = true,
        global = true,
        help_heading = "Names in the store"
    )]
    pub(crate) prefix: Option<String>,
}

/// How long a server may take to be reached, and to answer once it is.
const PATIENCE: Duration = Duration::from_secs(8);

/// Whether tables that are missing are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tables {
    Make,
    Leave,
}

/// Runs an expression with whichever store it is.
macro_rules! with_store {
    ($any:expr, |$store:ident| $body:expr) => {
        match $any {
            $crate::store::AnyStore::Sqlite($store) => $body,
            $crate::store::AnyStore::Postgres($store) => $body,
            $crate::store::AnyStore::Redis($store) => $body,
        }
    };
}
pub(crate) use with_store;

/// Runs an expression with whichever store it is that keeps steps and an outbox. Where there is no such thing, the function that this
/// stands in ends with a failure that says so.
macro_rules! with_sql_store {
    ($any:expr, $what:literal, |$store:ident| $body:expr) => {
        match $any {
            $crate::store::AnyStore::Sqlite($store) => $body,
            $crate::store::AnyStore::Postgres($store) => $body,
            $crate::store::AnyStore::Redis(_) => {
                let advice = concat!(
                    "a store in Redis keeps no ",
                    $what,
                    ": name the one in SQLite or PostgreSQL that does"
                );
                return Err($crate::exit::Failure::new($crate::exit::Code::Usage, advice));
            }
        }
    };
}
pub(crate) use with_sql_store;

/// Which kind of store an address is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
    Redis,
}

impl Address {
    /// Returns the address as it was given, with a password in it if there was one.
    fn url(&self) -> Result<&str, Failure> {
        said(&self.url).ok_or_else(|| {
            let advice =
                "which store? Name it by --store or ONEFLIGHT_STORE: postgres://…, redis://…, or an SQLite file";
            Failure::new(Code::Usage, advice)
        })
    }

    /// Returns which kind of store it is.
    pub(crate) fn kind(&self) -> Result<Kind, Failure> {
        let url = self.url()?;
        let kind = match url.split_once("://").map(|(scheme, _)| scheme) {
            Some("postgres" | "postgresql") => Some(Kind::Postgres),
            Some("redis" | "rediss" | "valkey" | "valkeys" | "redis+unix" | "unix") => Some(Kind::Redis),
            _ => is_file(url).then_some(Kind::Sqlite),
        };
        // A password may be in it, so it is not told what it was.
        let advice = "the store's address is none that is known here, and is not shown, since a password may be in it. It is one of \
                      postgres://user:password@host/database, redis://:password@host/, rediss://…, the path of an SQLite file, and \
                      sqlite:PATH for a path with `=` or `:` in it";
        let kind = kind.ok_or_else(|| Failure::new(Code::Usage, advice))?;
        self.fits(kind)?;
        Ok(kind)
    }

    /// Fails if a name is given that a store of this kind does not have: what is asked for would stand elsewhere.
    fn fits(&self, kind: Kind) -> Result<(), Failure> {
        let (store, schema, prefix) = match kind {
            Kind::Sqlite => ("in an SQLite file", said(&self.schema), said(&self.prefix)),
            Kind::Redis => ("in Redis", said(&self.schema), None),
            Kind::Postgres => return Ok(()),
        };
        let (what, option) = match (schema, prefix) {
            (Some(_), _) => ("schema", "--schema or ONEFLIGHT_SCHEMA"),
            (None, Some(_)) => ("prefix", "--prefix or ONEFLIGHT_PREFIX"),
            (None, None) => return Ok(()),
        };
        let advice = format!(
            "a store {store} has no {what}, and one is given: leave {option} away, or name the store that has it"
        );
        Err(Failure::new(Code::Usage, advice))
    }

    /// Returns which store it is, in words without a password.
    pub(crate) fn described(&self) -> Result<String, Failure> {
        let url = self.url()?;
        let wrong = |what: &str, error: &dyn std::error::Error| {
            Failure::new(
                Code::Usage,
                format!("the store is no address of {what}: {}", told(error)),
            )
        };
        let names = [("schema", &self.schema), ("prefix", &self.prefix)];
        let names: String = names
            .into_iter()
            .filter_map(|(what, name)| said(name).map(|name| format!(", {what} {name}")))
            .collect();
        Ok(match self.kind()? {
            Kind::Sqlite => {
                let file = self.file()?;
                let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
                format!("SQLite {}", file.display())
            }
            Kind::Postgres => {
                let options = url
                    .parse::<PgConnectOptions>()
                    .map_err(|error| wrong("PostgreSQL", &error))?;
                let place = match options.get_socket() {
                    Some(socket) => socket.display().to_string(),
                    None => format!("{}:{}", options.get_host(), options.get_port()),
                };
                let user = options.get_username();
                let database = options.get_database().unwrap_or(user);
                format!("PostgreSQL {user}@{place}/{database}{names}")
            }
            Kind::Redis => {
                let client = redis::Client::open(url).map_err(|error| wrong("Redis", &error))?;
                let info = client.get_connection_info();
                format!("Redis {}/{}{names}", info.addr(), info.redis_settings().db())
            }
        })
    }

    /// Returns the SQLite file that is named.
    pub(crate) fn file(&self) -> Result<&Path, Failure> {
        let url = self.url()?;
        let path = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:"));
        Ok(Path::new(path.unwrap_or(url)))
    }

    /// Opens the store. What cannot be reached is given up within seconds.
    pub(crate) async fn open(&self, tables: Tables) -> Result<AnyStore, Failure> {
        match self.kind()? {
            Kind::Sqlite => self.sqlite(tables).await.map(AnyStore::Sqlite),
            Kind::Postgres => self.postgres(tables).await.map(AnyStore::Postgres),
            Kind::Redis => self.redis().await.map(AnyStore::Redis),
        }
    }

    /// Returns which migrations the store has, and which it lacks: none where there is nothing to migrate.
    pub(crate) async fn schema_status(&self) -> Result<Option<SchemaStatus>, Failure> {
        let status = match self.kind()? {
            Kind::Sqlite => {
                let path = self.file()?;
                // SQLite would make it for being asked about it.
                if !path.exists() {
                    let told = format!("there is no file {}; oneflight migrate up makes it", path.display());
                    return Err(Failure::new(Code::NoInput, told));
                }
                self.sqlite_options().schema_status(path).await
            }
            Kind::Postgres => {
                self.reach().await?;
                self.postgres_options().schema_status(self.url()?).await
            }
            Kind::Redis => return self.redis().await.map(|_| None),
        };
        status.map(Some).map_err(unreachable)
    }

    /// Returns the names that the service gives its tables.
    pub(crate) fn postgres_options(&self) -> PostgresOptions {
        let mut options = PostgresStore::options().patience(PATIENCE);
        if let Some(schema) = said(&self.schema) {
            options = options.schema(schema);
        }
        if let Some(prefix) = said(&self.prefix) {
            options = options.prefix(prefix);
        }
        options
    }

    pub(crate) fn sqlite_options(&self) -> SqliteOptions {
        SqliteStore::options().busy_deadline(PATIENCE)
    }

    async fn postgres(&self, tables: Tables) -> Result<PostgresStore, Failure> {
        let connect = self.reach().await?;
        let options = self.postgres_options();
        let options = match tables {
            Tables::Make => options,
            Tables::Leave => {
                complete(options.schema_status(self.url()?).await)?;
                options.without_migrations()
            }
        };
        let pool = PgPoolOptions::new()
            .acquire_timeout(PATIENCE)
            .connect_lazy_with(connect);
        options.from_pool(pool).await.map_err(unreachable)
    }

    /// Makes and upgrades the tables in PostgreSQL, in a session by this name, which waits no longer than this for each lock. The
    /// inner error is that of the migration.
    pub(crate) async fn upgrade_postgres(
        &self,
        session: &str,
        longest: Duration,
    ) -> Result<Result<(), StoreError>, Failure> {
        let connect = self.reach().await?.application_name(session);
        let pool = PgPoolOptions::new()
            .acquire_timeout(PATIENCE)
            .connect_lazy_with(connect);
        let options = self.postgres_options().migration_lock_timeout(longest);
        Ok(options.from_pool(pool).await.map(drop))
    }

    /// Connects to the server, to hear what it says, and returns how. A pool would go on trying, and say in the end that it had no
    /// connection.
    pub(crate) async fn reach(&self) -> Result<PgConnectOptions, Failure> {
        let failed = |error: sqlx::Error| unreachable(store_error(error));
        let options: PgConnectOptions = self.url()?.parse().map_err(failed)?;
        // What a server answers is told where it was asked for.
        let options = options.disable_statement_logging();
        let connected = within(PgConnection::connect_with(&options)).await?;
        // Those who go on make connections of their own.
        let _ = connected.map_err(failed)?.close().await;
        Ok(options)
    }

    /// Opens the store to look at how it is set up: a server that evicts keys is opened as well.
    pub(crate) async fn open_as_it_is(&self) -> Result<AnyStore, Failure> {
        match self.kind()? {
            Kind::Redis => self
                .redis_with(RedisStore::options().accept_eviction())
                .await
                .map(AnyStore::Redis),
            Kind::Sqlite | Kind::Postgres => self.open(Tables::Leave).await,
        }
    }

    async fn redis(&self) -> Result<RedisStore, Failure> {
        self.redis_with(RedisStore::options()).await
    }

    async fn redis_with(&self, options: RedisOptions) -> Result<RedisStore, Failure> {
        let mut options = options.patience(PATIENCE);
        if let Some(prefix) = said(&self.prefix) {
            options = options.prefix(prefix);
        }
        within(options.open(self.url()?)).await?.map_err(unreachable)
    }

    async fn sqlite(&self, tables: Tables) -> Result<SqliteStore, Failure> {
        let path = self.file()?;
        // SQLite would make an empty file of a name that was mistyped.
        if tables == Tables::Leave && !path.exists() {
            return Err(Failure::new(
                Code::NoInput,
                format!("there is no file {}", path.display()),
            ));
        }
        let options = self.sqlite_options();
        let options = match tables {
            Tables::Make => options,
            Tables::Leave => {
                complete(options.schema_status(path).await)?;
                options.without_migrations()
            }
        };
        options.open(path).await.map_err(unreachable)
    }
}

/// Returns whether an address is the path of a file, rather than that of a server in a form of another program's, such as
/// `host=db password=…`.
fn is_file(address: &str) -> bool {
    let scheme = address.split_once(':').map(|(scheme, _)| scheme);
    // One letter is a drive of Windows'.
    let scheme = scheme.filter(|scheme| {
        scheme.len() > 1
            && scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+.-".contains(&byte))
    });
    match scheme {
        // Of the last one the store says what it thinks.
        Some(scheme) => matches!(scheme, "sqlite" | "file"),
        None => {
            let lower = address.to_ascii_lowercase();
            !(lower.contains('=') && (lower.contains(' ') || lower.contains("password")))
        }
    }
}

/// Sees that the tables are there which are to be left as they are.
fn complete(status: Result<SchemaStatus, StoreError>) -> Result<(), Failure> {
    let SchemaStatus {
        found, known, missing, ..
    } = status.map_err(unreachable)?;
    let told = match (missing.is_empty(), found) {
        // One that is too new is told by the store.
        (true, _) => return Ok(()),
        (false, 0) => "there are no tables of oneflight in the store".to_owned(),
        (false, _) => {
            format!("the schema of the store is of version {found}, and this command works with version {known}")
        }
    };
    let advice = format!("{told}; see oneflight migrate status, and apply what is missing by oneflight migrate up");
    Err(Failure::new(Code::Config, advice))
}

/// A variable that is empty says nothing.
pub(crate) fn said(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

/// Gives up what takes too long.
async fn within<T>(asked: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::time::timeout(PATIENCE, asked).await.map_err(|_| {
        let told = format!(
            "the store has not answered within {} s; look whether its server can be reached",
            PATIENCE.as_secs()
        );
        Failure::new(Code::Unavailable, told)
    })
}

/// A failure of the store, as the command ends with it.
pub(crate) fn unreachable(error: StoreError) -> Failure {
    let code = match &error {
        StoreError::Failed { failure, .. } => match failure {
            StoreFailure::NotLoggedIn | StoreFailure::Forbidden | StoreFailure::ReadOnly => Code::NoPermission,
            StoreFailure::Locked | StoreFailure::Cancelled => Code::Temporary,
            _ => Code::Unavailable,
        },
        StoreError::Busy { .. } | StoreError::Outdated { .. } | StoreError::RelayOutdated => Code::Temporary,
        StoreError::SchemaTooNew { .. } => Code::Config,
        StoreError::Corrupt { .. } => Code::Data,
        StoreError::InvalidName { .. } | StoreError::Unsupported { .. } => Code::Usage,
        _ => Code::Unavailable,
    };
    Failure::new(code, format!("the store: {}", told(&error)))
}

/// An error with its causes.
pub(crate) fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_is_no_file_either_and_is_not_quoted() {
        let kind = |url: &str| {
            let address = Address {
                url: Some(url.to_owned()),
                schema: None,
                prefix: None,
            };
            address.kind().map_err(|failure| (failure.code(), failure.to_string()))
        };
        for wrong in [
            "host=db user=x password=hunter2 dbname=y",
            "password=hunter2",
            "PASSWORD=hunter2",
            "postgres:oneflight:hunter2",
            "postgresql:hunter2@db/x",
            "user:hunter2@db/x",
            "mysql://user:hunter2@db/x",
            "jdbc:postgresql://db/x?password=hunter2",
            "db.example.com:5432/hunter2",
        ] {
            let (code, told) = kind(wrong).unwrap_err();
            assert_eq!(code, Code::Usage as u8, "{wrong}");
            assert!(!told.contains("hunter2") && told.contains("postgres://"), "{told}");
        }
        for file in [
            "orders.db",
            "./a b.db",
            "/var/lib/a=b.db",
            r"C:\orders.db",
            "sqlite:a=b c.db",
            "sqlite:///var/lib/orders.db",
            "file:orders.db",
        ] {
            assert_eq!(kind(file), Ok(Kind::Sqlite), "{file}");
        }
        assert_eq!(kind("postgres://user:hunter2@db/x"), Ok(Kind::Postgres));
        assert_eq!(kind("rediss://:hunter2@db/"), Ok(Kind::Redis));
    }
}
