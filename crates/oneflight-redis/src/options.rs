//! How a store is opened, and what is checked before it is.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::ConnectionManagerConfig;
use redis::cluster::ClusterClientBuilder;
use redis::{Client, ConnectionInfo, IntoConnectionInfo, Value, cmd};

use super::connection::{Acknowledgement, RedisConnection, Way};
use super::errors::unavailable;
use super::listen::Ear;
use super::names::Names;
use super::renewals::Renewing;
use super::store::{Inner, RedisStore};
use super::together::Together;
use super::tokens::Seen;
use oneflight::store::StoreError;

/// The longest pause between two tries to connect again.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Sets up a [`RedisStore`]. Made by [`RedisStore::options`].
#[derive(Clone, Debug)]
#[must_use = "options open nothing by themselves"]
pub struct RedisOptions {
    prefix: String,
    patience: Duration,
    acknowledgement: Option<Acknowledgement>,
    eviction: Eviction,
    listeners: Vec<Client>,
}

/// What to do about a server that deletes keys when its memory is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Eviction {
    Refuse,
    Accept,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            prefix: "oneflight:".to_owned(),
            patience: Duration::from_secs(5),
            acknowledgement: None,
            eviction: Eviction::Refuse,
            listeners: Vec::new(),
        }
    }
}

impl RedisOptions {
    /// Sets the prefix of our keys and channels. The default is `oneflight:`.
    ///
    /// A prefix may have ASCII letters, digits and `_-.:/`, and has 64 bytes at most. Stores that share a server and a
    /// prefix share their records.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Limits the time that an operation may take, connecting again included. The default is 5 s.
    ///
    /// A connection of ours over which nothing was answered in that time is given up for another.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Takes a claim for granted, and a result for recorded, only when so many replicas have it.
    ///
    /// The server is asked with `WAIT`, which it answers after `within` at the latest. With fewer replicas the
    /// operation fails with [`StoreError::TooFewReplicas`].
    ///
    /// This holds for what is found as well: a claim or a completion that is asked for again because its answer was
    /// lost, a replay, and a [look](oneflight::store::Store::load) at a result. For `WAIT` the server counts only what
    /// the asking connection has written, so what is found is written once more, as it is. While replicas are missing,
    /// no result is replayed.
    ///
    /// This makes it unlikely that a failover loses either, and no more: a replica that has not acknowledged may still
    /// be the one that is promoted, if there are others. `WAIT` holds up all commands of its connection, and while
    /// replicas are missing every claim and look waits for the whole of `within`; the server's own
    /// `min-replicas-to-write` refuses at once.
    pub fn acknowledged_by(mut self, replicas: u32, within: Duration) -> Self {
        self.acknowledgement = Some(Acknowledgement { replicas, within });
        self
    }

    /// Uses a server although it deletes keys when its memory is full. The server may delete a record, so that work is
    /// done again.
    pub fn accept_eviction(mut self) -> Self {
        self.eviction = Eviction::Accept;
        self
    }

    /// Hears of changes over a connection that this client opens, which is not used for anything else.
    ///
    /// This is only needed for a store [from](Self::from_connection) a connection of the caller's, where callers that
    /// wait poll otherwise.
    pub fn listen_with(mut self, client: Client) -> Self {
        self.listeners.push(client);
        self
    }

    /// Connects to a server, by a URL such as `redis://localhost:6379/`.
    ///
    /// # Errors
    ///
    /// * The URL is not valid, or the server cannot be reached.
    /// * [`StoreError::InvalidName`] if the prefix is not valid.
    /// * [`StoreError::Unsupported`] if the server evicts keys.
    pub async fn open(self, server: impl IntoConnectionInfo) -> Result<RedisStore, StoreError> {
        let client = Client::open(server).map_err(unavailable)?;
        self.from_client(client).await
    }

    /// Connects by a client of the caller's: one with TLS certificates, for example.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub async fn from_client(mut self, client: Client) -> Result<RedisStore, StoreError> {
        let config = ConnectionManagerConfig::new()
            .set_max_delay(LONGEST_PAUSE)
            .set_connection_timeout(Some(self.patience))
            // It has the store's patience.
            .set_response_timeout(None);
        let connection = RedisConnection::open(client.clone(), config)
            .await
            .map_err(unavailable)?;
        if self.listeners.is_empty() {
            self.listeners.push(client);
        }
        self.from_connection(connection).await
    }

    /// Connects to a cluster, by the URLs of some of its nodes.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open), except that a cluster is not checked for evicting keys.
    pub async fn open_cluster<I>(mut self, nodes: I) -> Result<RedisStore, StoreError>
    where
        I: IntoIterator<Item: IntoConnectionInfo>,
    {
        let nodes = nodes.into_iter().map(IntoConnectionInfo::into_connection_info);
        let nodes: Vec<ConnectionInfo> = nodes.collect::<Result<_, _>>().map_err(unavailable)?;
        if self.listeners.is_empty() {
            let clients = nodes.iter().cloned().map(Client::open);
            self.listeners = clients.collect::<Result<_, _>>().map_err(unavailable)?;
        }
        let connection = ClusterClientBuilder::new(nodes)
            .connection_timeout(self.patience)
            .response_timeout(self.longest_answer())
            .build()
            .map_err(unavailable)?
            .get_async_connection()
            .await
            .map_err(unavailable)?;
        self.eviction = Eviction::Accept;
        self.from_connection(connection).await
    }

    /// Uses a connection of the caller's. Its timeouts hold beside ours.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub async fn from_connection(self, connection: impl Into<RedisConnection>) -> Result<RedisStore, StoreError> {
        let names = Names::new(self.prefix)?;
        let connection = connection.into();
        if self.eviction == Eviction::Refuse && evicts(&connection, self.patience).await? {
            return Err(StoreError::Unsupported {
                advice: "this server deletes keys when its memory is full, and records are keys; set its \
                         maxmemory-policy to noeviction, or say that you accept it",
            });
        }
        let way = Way {
            connection: connection.clone(),
            patience: self.patience,
            acknowledgement: self.acknowledgement,
        };
        Ok(RedisStore(Arc::new(Inner {
            connection,
            seen: Seen::new(),
            renewals: Renewing::gathered(way.clone(), names.clone()),
            names,
            together: Together::over(way),
            ear: (!self.listeners.is_empty()).then(|| Ear::new(self.listeners)),
            patience: self.patience,
            acknowledgement: self.acknowledgement,
        })))
    }

    fn longest_answer(&self) -> Duration {
        let within = self.acknowledgement.map_or(Duration::ZERO, |it| it.within);
        self.patience.saturating_add(within)
    }
}

impl RedisStore {
    /// Connects to a server, by a URL such as `redis://localhost:6379/`.
    ///
    /// # Errors
    ///
    /// * The URL is not valid, or the server cannot be reached.
    /// * [`StoreError::Unsupported`] if the server evicts keys.
    pub async fn open(server: impl IntoConnectionInfo) -> Result<Self, StoreError> {
        Self::options().open(server).await
    }

    /// Connects by a client of the caller's. To use a connection of the caller's, see
    /// [`RedisOptions::from_connection`].
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub async fn from_client(client: Client) -> Result<Self, StoreError> {
        Self::options().from_client(client).await
    }

    /// Returns options to open a store with.
    pub fn options() -> RedisOptions {
        RedisOptions::default()
    }
}

/// Returns whether the server deletes keys when its memory is full. A server that does not say counts as one that does
/// not.
async fn evicts(connection: &RedisConnection, patience: Duration) -> Result<bool, StoreError> {
    let memory = match connection.answer_to(cmd("INFO").arg("memory"), patience).await {
        Ok(memory) => memory,
        // A user with restricted rights may not ask.
        Err(error) if error.code().is_some() => return Ok(false),
        Err(error) => return Err(unavailable(error)),
    };
    let memory = match memory {
        Value::BulkString(text) => String::from_utf8_lossy(&text).into_owned(),
        Value::VerbatimString { text, .. } => text,
        _ => return Ok(false),
    };
    let setting = |name: &str| memory.lines().find_map(|line| line.trim().strip_prefix(name));
    let bounded = setting("maxmemory:").is_some_and(|bytes| bytes != "0");
    let policy = setting("maxmemory_policy:").unwrap_or("noeviction");
    Ok(bounded && policy != "noeviction")
}
