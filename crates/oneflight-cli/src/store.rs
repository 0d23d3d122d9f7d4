//! Any of the stores, by its address.

use oneflight::store::StoreError;
use oneflight_postgres::PostgresStore;
use oneflight_redis::RedisStore;
use oneflight_sqlite::SqliteStore;

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
    #[arg(long, env = "ONEFLIGHT_SCHEMA", global = true, help_heading = "Names in the store")]
    pub(crate) schema: Option<String>,
    /// PostgreSQL and Redis: the prefix of the tables or keys
    #[arg(long, env = "ONEFLIGHT_PREFIX", global = true, help_heading = "Names in the store")]
    pub(crate) prefix: Option<String>,
}

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

impl Address {
    /// Opens the store.
    pub(crate) async fn open(&self, tables: Tables) -> Result<AnyStore, Failure> {
        let Some(url) = self.url.as_deref().filter(|url| !url.is_empty()) else {
            let advice =
                "which store? Name it by --store or ONEFLIGHT_STORE: postgres://…, redis://…, or an SQLite file";
            return Err(Failure::new(Code::Usage, advice));
        };
        let opened = match url.split_once("://").map(|(scheme, _)| scheme) {
            Some("postgres" | "postgresql") => self.postgres(url, tables).await.map(AnyStore::Postgres),
            Some("redis" | "rediss" | "valkey" | "valkeys" | "redis+unix") => {
                self.redis(url).await.map(AnyStore::Redis)
            }
            Some("sqlite") | None => return self.sqlite(url, tables).await.map(AnyStore::Sqlite),
            Some(_) => {
                let advice = "the store's address begins with none of postgres://, redis://, rediss:// and sqlite://";
                return Err(Failure::new(Code::Usage, advice));
            }
        };
        opened.map_err(unreachable)
    }

    async fn postgres(&self, url: &str, tables: Tables) -> Result<PostgresStore, StoreError> {
        let mut options = PostgresStore::options();
        if let Some(schema) = &self.schema {
            options = options.schema(schema);
        }
        if let Some(prefix) = &self.prefix {
            options = options.prefix(prefix);
        }
        if tables == Tables::Leave {
            options = options.without_migrations();
        }
        options.open(url).await
    }

    async fn redis(&self, url: &str) -> Result<RedisStore, StoreError> {
        let mut options = RedisStore::options();
        if let Some(prefix) = &self.prefix {
            options = options.prefix(prefix);
        }
        options.open(url).await
    }

    async fn sqlite(&self, url: &str, tables: Tables) -> Result<SqliteStore, Failure> {
        let path = url.strip_prefix("sqlite://").unwrap_or(url);
        // SQLite would make an empty file of a name that was mistyped.
        if tables == Tables::Leave && !std::path::Path::new(path).exists() {
            return Err(Failure::new(Code::NoInput, format!("there is no file {path}")));
        }
        SqliteStore::open(path).await.map_err(unreachable)
    }
}

/// A failure of the store, as the command ends with it.
pub(crate) fn unreachable(error: StoreError) -> Failure {
    Failure::new(Code::Unavailable, format!("the store: {}", told(&error)))
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
