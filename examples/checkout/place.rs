//! Where the shop keeps its records and its orders, as the command line says.
//!
//! ```text
//! --store sqlite      records and orders in one file                (the default; needs nothing)
//! --store postgres    records and orders in one database            --url postgres://…
//! --store redis       records in Redis, orders in a file beside it  --url redis://…
//! ```
//!
//! The last two are features of this package, named like the stores.

use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
#[cfg(feature = "postgres")]
use sqlx::postgres::PgConnectOptions;

use crate::database::Database;

type Failure = Box<dyn Error + Send + Sync>;

/// The store's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
    Redis,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct PlaceArgs {
    /// Keep the records with the orders in an SQLite file, with the orders in PostgreSQL, or in Redis, which leaves the
    /// orders in the file.
    #[arg(long, value_enum, default_value = "sqlite")]
    store: Kind,
    /// The store's server, such as postgres://shop@localhost/shop or redis://localhost/.
    #[arg(long, required_if_eq_any([("store", "postgres"), ("store", "redis")]))]
    url: Option<String>,
    /// Keep the orders in this SQLite file, which is made if need be. Without it: checkout.db, or for a storm a temporary
    /// one that is removed in the end.
    #[arg(long, value_name = "FILE")]
    pub(crate) db: Option<PathBuf>,
    /// Let the stand-ins of the payment API and the mail server keep what they did in this SQLite file, which is made if need
    /// be. Without it: beside the orders, with .outside.db at the end of its name; or checkout.outside.db.
    #[arg(long, value_name = "FILE")]
    pub(crate) ledger: Option<PathBuf>,
}

/// Where everything is.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    Sqlite(PathBuf),
    #[cfg(feature = "postgres")]
    Postgres {
        url: String,
        options: Box<PgConnectOptions>,
    },
    #[cfg(feature = "redis")]
    Redis {
        url: String,
        orders: PathBuf,
    },
}

impl PlaceArgs {
    /// Whether it is said where the orders are.
    pub(crate) fn names_the_orders(&self) -> bool {
        self.db.is_some() || self.store == Kind::Postgres
    }

    /// The ledger of the stand-ins, where the orders are in `file` unless the arguments say otherwise.
    pub(crate) fn ledger(&self, file: PathBuf) -> PathBuf {
        let beside = || self.db.clone().unwrap_or(file).with_extension("outside.db");
        self.ledger.clone().unwrap_or_else(beside)
    }

    /// What the arguments say; where they name no file and one is needed, it is `file`.
    pub(crate) fn place(self, file: PathBuf) -> Result<Place, Failure> {
        let file_or = self.db.clone().unwrap_or(file);
        match (self.store, self.url, self.db) {
            (Kind::Sqlite, None, _) => Ok(Place::Sqlite(file_or)),
            (Kind::Sqlite, Some(_), _) => Err(
                "the store sqlite has no server: give --store postgres or redis with --url (a storm on a service that \
                     runs already takes --service)"
                    .into(),
            ),
            (Kind::Postgres, _, Some(_)) => {
                Err("with --store postgres the orders are in PostgreSQL, and there is no file: leave --db out".into())
            }
            #[cfg(feature = "postgres")]
            (Kind::Postgres, Some(url), None) => {
                let options = url
                    .parse()
                    .map_err(|error| format!("--url is not one of PostgreSQL: {error}"))?;
                Ok(Place::Postgres {
                    url,
                    options: Box::new(options),
                })
            }
            #[cfg(feature = "redis")]
            (Kind::Redis, Some(url), _) => Ok(Place::Redis { url, orders: file_or }),
            (Kind::Postgres | Kind::Redis, None, _) => Err("this store has a server: say where, with --url".into()),
            #[cfg(not(all(feature = "postgres", feature = "redis")))]
            (kind, Some(_), _) => {
                let store = kind.name();
                Err(format!(
                    "this program was built without the store {store}: run it by cargo with --features {store}"
                )
                .into())
            }
        }
    }
}

impl Place {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Sqlite(_) => Kind::Sqlite,
            #[cfg(feature = "postgres")]
            Self::Postgres { .. } => Kind::Postgres,
            #[cfg(feature = "redis")]
            Self::Redis { .. } => Kind::Redis,
        }
    }

    /// Opens the orders' database, and makes it if need be.
    pub(crate) async fn open(&self) -> Result<Database, Failure> {
        match self {
            Self::Sqlite(file) => Database::open_file(file).await,
            #[cfg(feature = "redis")]
            Self::Redis { orders: file, .. } => Database::open_file(file).await,
            #[cfg(feature = "postgres")]
            Self::Postgres { options, .. } => Database::connect(options).await,
        }
    }

    /// Opens the orders' database if it is there.
    pub(crate) async fn look_into(&self) -> Result<Database, Failure> {
        match self {
            Self::Sqlite(file) => Database::look_into_file(file).await,
            #[cfg(feature = "redis")]
            Self::Redis { orders: file, .. } => Database::look_into_file(file).await,
            #[cfg(feature = "postgres")]
            Self::Postgres { options, .. } => Database::look_into(options).await,
        }
    }

    /// The arguments that say the same to another process.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["--store".into(), self.kind().name().into()];
        match self {
            Self::Sqlite(file) => arguments.extend(["--db".into(), file.into()]),
            #[cfg(feature = "postgres")]
            Self::Postgres { url, .. } => arguments.extend(["--url".into(), url.into()]),
            #[cfg(feature = "redis")]
            Self::Redis { url, orders } => {
                arguments.extend(["--url".into(), url.into(), "--db".into(), orders.into()]);
            }
        }
        arguments
    }
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::Redis => "redis",
        }
    }
}

/// Where the orders are, and never a URL: there may be a password in it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(file) => write!(f, "{}", file.display()),
            #[cfg(feature = "postgres")]
            Self::Postgres { .. } => f.write_str("PostgreSQL"),
            #[cfg(feature = "redis")]
            Self::Redis { orders, .. } => write!(f, "{} (its records are in Redis)", orders.display()),
        }
    }
}
