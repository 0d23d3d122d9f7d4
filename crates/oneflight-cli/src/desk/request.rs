//! Which request is meant: by its key, and by its scope where the key alone does not tell.

use oneflight::RequestIdentity;
use oneflight::correlation::CorrelationId;
use oneflight::identity::IdempotencyKey;
use oneflight::store::{RecordEntry, RecordPage, RecordQuery, Store, StoreError, Upkeep};

use crate::exit::{Code, Failure};
use crate::store::{AnyStore, unreachable, with_store};

/// How many records of one key are told apart, and listed.
const MANY: usize = 50;
/// How many records are read at a time.
pub(super) const PAGE: usize = 200;

/// A request, as it is named on the command line.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Named {
    /// The idempotency key, whole
    key: String,
    /// The scope in its canonical form, or a beginning of it that ends where one of its parts does. It may be left out if the key is in
    /// one scope only
    #[arg(long)]
    scope: Option<String>,
}

impl Named {
    pub(super) fn new(key: String, scope: Option<String>) -> Self {
        Self { key, scope }
    }

    /// Finds the record of the request.
    pub(super) async fn find(&self, store: &AnyStore) -> Result<RecordEntry, Failure> {
        check_key(&self.key)?;
        let scope = self.scope.as_deref();
        let mut found = match scope {
            // Where the scope is whole, there is nothing to search.
            Some(scope) => match exactly(store, scope, &self.key).await? {
                Some(entry) => vec![entry],
                None => matching(store, self.query()).await?,
            },
            None => matching(store, self.query()).await?,
        };
        match (found.len(), scope) {
            (1, _) => Ok(found.remove(0)),
            (0, None) => Err(Failure::new(
                Code::No,
                format!("there is no record of the key {}", self.key),
            )),
            (0, Some(scope)) => {
                let elsewhere = Self::new(self.key.clone(), None);
                let elsewhere = matching(store, elsewhere.query()).await?;
                let mut told = format!("there is no record of the key {} in the scope {scope}", self.key);
                if !elsewhere.is_empty() {
                    told.push_str(&format!("; there is one in\n{}", scopes(&elsewhere)));
                }
                Err(Failure::new(Code::No, told))
            }
            _ => {
                let told = format!(
                    "the key {} is in several scopes; say --scope with one of\n{}",
                    self.key,
                    scopes(&found)
                );
                Err(Failure::new(Code::Usage, told))
            }
        }
    }

    fn query(&self) -> RecordQuery {
        RecordQuery {
            key: Some(self.key.clone()),
            scope: self.scope.clone(),
            ..RecordQuery::all(PAGE)
        }
    }
}

/// Finds the records that a request with this correlation id has claimed.
pub(super) async fn correlated(
    store: &AnyStore,
    correlation_id: &CorrelationId,
    scope: Option<String>,
) -> Result<Vec<RecordEntry>, Failure> {
    let query = RecordQuery {
        correlation_id: Some(correlation_id.clone()),
        scope,
        ..RecordQuery::all(PAGE)
    };
    matching(store, query).await
}

/// Makes an identity of what was typed.
pub(super) fn identity(scope: &str, key: &str) -> Result<RequestIdentity, Failure> {
    RequestIdentity::from_stored(scope, key).map_err(|error| Failure::new(Code::Data, error.to_string()))
}

/// A key that no client can have sent is a slip of the person who types.
fn check_key(key: &str) -> Result<(), Failure> {
    let checked = IdempotencyKey::new(key);
    checked
        .map(drop)
        .map_err(|error| Failure::new(Code::Data, error.to_string()))
}

/// Returns the record of an identity, if there is one.
async fn exactly(store: &AnyStore, scope: &str, key: &str) -> Result<Option<RecordEntry>, Failure> {
    let id = identity(scope, key)?;
    let loaded = with_store!(store, |store| store.load(&id).await).map_err(unreachable)?;
    let Some(record) = loaded else { return Ok(None) };
    // Listed, it says who claimed and when as well.
    let query = RecordQuery {
        key: Some(key.to_owned()),
        scope: Some(scope.to_owned()),
        ..RecordQuery::all(PAGE)
    };
    let listed = match with_store!(store, |store| store.records(query).await) {
        Ok(page) => page.entries,
        Err(StoreError::Unsupported { .. }) => Vec::new(),
        Err(error) => return Err(unreachable(error)),
    };
    let listed = listed.into_iter().find(|entry| entry.id == id);
    let entry = listed.unwrap_or_else(|| RecordEntry::new(id, record.clone()));
    let mut entry = entry;
    entry.record = record;
    Ok(Some(entry))
}

/// Returns the records that a query is for, over all pages, as far as a person can tell them apart.
async fn matching(store: &AnyStore, mut query: RecordQuery) -> Result<Vec<RecordEntry>, Failure> {
    let mut found = Vec::new();
    loop {
        let page = page(store, query.clone()).await?;
        found.extend(page.entries);
        match page.next {
            Some(next) if found.len() < MANY => query.after = Some(next),
            _ => return Ok(found),
        }
    }
}

/// Reads a page of records.
pub(super) async fn page(store: &AnyStore, query: RecordQuery) -> Result<RecordPage, Failure> {
    with_store!(store, |store| store.records(query).await).map_err(unreachable)
}

fn scopes(entries: &[RecordEntry]) -> String {
    let scopes: Vec<_> = entries.iter().map(|entry| format!("  {}", entry.id.scope())).collect();
    scopes.join("\n")
}

/// Reads the record once more, and sees that nobody has gone on with the request since a person was asked about it.
pub(super) async fn unchanged(store: &AnyStore, entry: &RecordEntry) -> Result<(), Failure> {
    let now = with_store!(store, |store| store.load(&entry.id).await).map_err(unreachable)?;
    let is_same = now.is_some_and(|now| {
        now.token == entry.record.token && now.result().is_some() == entry.record.result().is_some()
    });
    match is_same {
        true => Ok(()),
        false => {
            let told = format!(
                "somebody has gone on with {} meanwhile, and nothing was changed; look at it again",
                entry.id
            );
            Err(Failure::new(Code::Temporary, told))
        }
    }
}

/// Returns an [`Idempotency`](oneflight::Idempotency) over a store, to change what is recorded there.
macro_rules! idempotency {
    ($store:expr) => {
        oneflight::Idempotency::builder($store.clone()).build()
    };
}
pub(super) use idempotency;
