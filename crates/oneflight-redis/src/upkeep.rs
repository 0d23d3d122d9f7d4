//! Looking into the store: an operator's desk.
//!
//! What is in progress is listed by its shards, in the order of the tokens, as [`doubt`](super::doubt) does. Of what is completed
//! there is no list, so all keys of the server are passed (`SCAN`), and in a cluster those of each server after the other. What is
//! there from the first page to the last is listed at least once, as long as no slots move.
//!
//! A scan answers with more keys than were asked for. Those for which a page has no place stand in the cursor.

use futures_util::{StreamExt, TryStreamExt, stream};
use redis::{Value, cmd};

use super::connection::Call;
use super::doubt::{AT_ONCE, Candidate};
use super::errors::unavailable;
use super::layout::decimal;
use super::records::{self, Answer};
use super::scripts::{ERASE, HOLD, LOAD, SCAN};
use super::store::RedisStore;
use super::tokens::Shard;
use oneflight::identity::RequestIdentity;
use oneflight::record::{FencingToken, State};
use oneflight::store::{
    Erase, Erased, Finding, RecordCursor, RecordEntry, RecordPage, RecordQuery, RecordState, StoreError, Upkeep, hex,
    unhex,
};

mod findings;

/// About how many keys a scan passes. The server does nothing else meanwhile.
const PASSED: &str = "250";
/// How many scans there are for a page, so that one that finds little comes to an end.
const SCANS: usize = 400;
/// Stands for the end of a server's keys in a cursor.
const END: &str = "end";

/// How far a scan has come.
struct Place {
    /// A shard of the server whose keys are passed.
    server: Shard,
    /// Where the server goes on, or that it has come to its end.
    at: String,
    /// Keys that were found, and not looked at so far.
    found: Vec<Vec<u8>>,
}

impl Place {
    fn first(server: Shard) -> Self {
        Self {
            server,
            at: "0".to_owned(),
            found: Vec::new(),
        }
    }

    fn read(words: &str) -> Option<Self> {
        let mut parts = words.split(':');
        let (server, at, found) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
        let found = found.split(',').filter(|key| !key.is_empty()).map(unhex);
        let is_place = at == END || at.parse::<u64>().is_ok();
        (parts.next().is_none() && is_place).then_some(Self {
            server: Shard::new(server),
            at: at.to_owned(),
            found: found.collect::<Option<_>>()?,
        })
    }

    fn read_or_first(after: Option<&RecordCursor>, first: Shard) -> Result<Self, StoreError> {
        let Some(cursor) = after else {
            return Ok(Self::first(first));
        };
        let words = cursor.as_str().strip_prefix("scan:");
        words.and_then(Self::read).ok_or(ANOTHER_STORES)
    }

    fn cursor(&self) -> RecordCursor {
        let found: Vec<_> = self.found.iter().map(|key| hex(key)).collect();
        RecordCursor::new(format!("scan:{}:{}:{}", self.server, self.at, found.join(",")))
    }
}

const ANOTHER_STORES: StoreError = StoreError::Unsupported {
    advice: "the cursor is one of another store, or of other conditions; begin at the first page",
};

impl RedisStore {
    /// Returns a shard of each server that has keys, in their order.
    async fn servers(&self) -> Result<Vec<Shard>, StoreError> {
        if !self.0.connection.is_cluster() {
            return Ok(vec![Shard::new(0)]);
        }
        let slots = self
            .0
            .connection
            .answer_to(cmd("CLUSTER").arg("SLOTS"), self.0.patience)
            .await;
        let slots = records::slots(slots.map_err(unavailable)?)?;
        let mut servers: Vec<(&Value, Shard)> = Vec::new();
        for shard in Shard::all() {
            let slot = i64::from(shard.slot());
            let of = slots.iter().find(|(first, last, _)| (*first..=*last).contains(&slot));
            if let Some((_, _, server)) = of
                && !servers.iter().any(|(known, _)| known == &server)
            {
                servers.push((server, shard));
            }
        }
        Ok(servers.into_iter().map(|(_, shard)| shard).collect())
    }

    /// Goes on to the next keys that match. Returns whether there are any more.
    async fn scan(&self, place: &mut Place, servers: &[Shard], pattern: &str) -> Result<bool, StoreError> {
        if place.at == END {
            let next = servers.iter().find(|server| server.number() > place.server.number());
            match next {
                Some(next) => *place = Place::first(*next),
                None => return Ok(false),
            }
        }
        let on = self.0.names.in_progress(place.server);
        let call = Call {
            script: &SCAN,
            keys: &[&on],
            arguments: &[place.at.as_bytes(), pattern.as_bytes(), PASSED.as_bytes()],
        };
        let (at, found) = records::scanned(self.ask(call).await?)?;
        place.at = if at == "0" { END.to_owned() } else { at };
        place.found.extend(found);
        Ok(true)
    }

    /// Returns what is known of an identity, by the key of its record.
    async fn entry(&self, id: RequestIdentity) -> Result<Option<RecordEntry>, StoreError> {
        let keys = self.0.names.keys(&id);
        let call = Call {
            script: &LOAD,
            keys: &[&keys.record],
            arguments: &[b"0"],
        };
        let known = Answer::new(self.ask(call).await?)?.record(keys.shard)?;
        Ok(known
            .filter(|(record, _)| !record.is_past_retention())
            .map(|(record, correlation)| {
                let mut entry = RecordEntry::new(id, record);
                entry.correlation_id = correlation;
                entry
            }))
    }

    /// Returns the record under a key, if it is one that is asked for.
    async fn asked_for(&self, key: Vec<u8>, query: &RecordQuery) -> Result<Option<RecordEntry>, StoreError> {
        let id = self.0.names.any_identity(&key).ok_or(StoreError::Corrupt {
            what: "a key with our prefix is none of a record",
        })?;
        if !query.has_scope(id.scope()) || query.key.as_ref().is_some_and(|key| key != id.key()) {
            return Ok(None);
        }
        let entry = self.entry(id).await?;
        Ok(entry.filter(|entry| {
            query.state.is_none_or(|state| state == entry.state)
                && (query.correlation_id.is_none() || query.correlation_id == entry.correlation_id)
        }))
    }

    async fn page_of_all(&self, query: &RecordQuery) -> Result<RecordPage, StoreError> {
        let servers = self.servers().await?;
        let Some(first) = servers.first() else {
            return Ok(RecordPage::default());
        };
        let mut place = Place::read_or_first(query.after.as_ref(), *first)?;
        let pattern = self.0.names.pattern(query.scope.as_deref(), query.key.as_deref());
        let mut page = RecordPage::default();
        for _ in 0..SCANS {
            while !place.found.is_empty() && page.entries.len() < query.limit {
                let most = (query.limit - page.entries.len()).min(place.found.len());
                let some: Vec<_> = place.found.drain(..most).collect();
                let mut looks = stream::iter(some.into_iter().map(|key| self.asked_for(key, query))).buffered(AT_ONCE);
                while let Some(found) = looks.next().await {
                    page.add(found)?;
                }
            }
            if page.entries.len() == query.limit {
                break;
            }
            if !self.scan(&mut place, &servers, &pattern).await? {
                return Ok(page);
            }
        }
        page.next = Some(place.cursor());
        Ok(page)
    }

    /// What is in progress, or in doubt: the few that the shards list.
    async fn page_of_open(&self, query: &RecordQuery) -> Result<RecordPage, StoreError> {
        let mut after = match &query.after {
            None => FencingToken::new(0),
            Some(cursor) => {
                let words = cursor.as_str().strip_prefix("open:");
                let token = words.and_then(|token| token.parse().ok()).ok_or(ANOTHER_STORES)?;
                FencingToken::new(token)
            }
        };
        let mut page = RecordPage::default();
        loop {
            let (candidates, last) = self.candidates(after).await?;
            let looks = candidates.into_iter().map(|candidate| self.look_for(candidate, query));
            let mut looks = stream::iter(looks).buffered(AT_ONCE);
            while let Some((token, found)) = looks.next().await {
                page.add(found)?;
                if page.entries.len() == query.limit {
                    page.next = Some(RecordCursor::new(format!("open:{token}")));
                    return Ok(page);
                }
            }
            match last {
                Some(last) => after = last,
                None => return Ok(page),
            }
        }
    }

    async fn look_for(
        &self,
        candidate: Candidate,
        query: &RecordQuery,
    ) -> (FencingToken, Result<Option<RecordEntry>, StoreError>) {
        let found = self.asked_for(candidate.key, query).await;
        // Another holder may have it by now, and it is then listed elsewhere.
        let is_it = |entry: &RecordEntry| candidate.shard.count(entry.record.token) == Some(candidate.count);
        (candidate.token, found.map(|found| found.filter(is_it)))
    }

    /// Erases a completed record or its answer. Returns whether there was something to erase.
    async fn erase_at(&self, key: Vec<u8>, query: &RecordQuery, what: Erase) -> Result<bool, StoreError> {
        let Some(id) = self.0.names.any_identity(&key).filter(|id| query.has_scope(id.scope())) else {
            return Ok(false);
        };
        self.erase_of(id, None, what).await
    }

    /// Erases the completed record of a request or its answer. Returns whether there was something to erase; of a token, whether
    /// it was completed under that one.
    async fn erase_of(&self, id: RequestIdentity, of: Option<FencingToken>, what: Erase) -> Result<bool, StoreError> {
        let keys = self.0.names.keys(&id);
        let (token, left) = match (what, of) {
            (Erase::Records, None) => (String::new(), None),
            (Erase::Records, Some(of)) => match keys.count(of) {
                Some(count) => (decimal(count), None),
                None => return Ok(false),
            },
            (Erase::Answers, of) => {
                let entry = self.entry(id).await?;
                let Some(entry) = entry.filter(|entry| of.is_none_or(|of| of == entry.record.token)) else {
                    return Ok(false);
                };
                let State::Completed { result, .. } = &entry.record.state else {
                    return Ok(false);
                };
                let Some(left) = result.erased() else {
                    return Ok(of.is_some());
                };
                (decimal(keys.count(entry.record.token).unwrap_or_default()), Some(left))
            }
        };
        let call = Call {
            script: &ERASE,
            keys: &[&keys.record],
            arguments: &[token.as_bytes(), left.as_ref().map_or(&[], |left| left.as_bytes())],
        };
        match Answer::new(self.ask(call).await?)?.done(FencingToken::new(0)) {
            Ok(()) => Ok(true),
            Err(StoreError::Outdated { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Puts what was found into a page.
trait Add {
    fn add(&mut self, found: Result<Option<RecordEntry>, StoreError>) -> Result<(), StoreError>;
}

impl Add for RecordPage {
    fn add(&mut self, found: Result<Option<RecordEntry>, StoreError>) -> Result<(), StoreError> {
        match found {
            Ok(found) => self.entries.extend(found),
            Err(StoreError::Corrupt { .. }) => self.unreadable += 1,
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl Upkeep for RedisStore {
    async fn records(&self, query: RecordQuery) -> Result<RecordPage, StoreError> {
        if query.limit == 0 {
            return Ok(RecordPage::default());
        }
        match query.state {
            None | Some(RecordState::Completed) => self.page_of_all(&query).await,
            Some(_) => self.page_of_open(&query).await,
        }
    }

    async fn erase(
        &self,
        scope: &str,
        what: Erase,
        after: Option<RecordCursor>,
        limit: usize,
    ) -> Result<Erased, StoreError> {
        let query = RecordQuery {
            scope: Some(scope.to_owned()),
            ..RecordQuery::default()
        };
        let servers = self.servers().await?;
        let Some(first) = servers.first() else {
            return Ok(Erased::default());
        };
        let pattern = self.0.names.pattern(Some(scope), None);
        let (mut place, mut erased) = (Place::read_or_first(after.as_ref(), *first)?, 0);
        let mut scans = 0;
        while erased < limit && scans < SCANS {
            while !place.found.is_empty() && erased < limit {
                let most = (limit - erased).min(place.found.len());
                let some: Vec<_> = place.found.drain(..most).collect();
                let erasing = some.into_iter().map(|key| self.erase_at(key, &query, what));
                let are_erased: Vec<bool> = stream::iter(erasing).buffered(AT_ONCE).try_collect().await?;
                erased += are_erased.into_iter().filter(|it| *it).count();
            }
            if erased < limit && !self.scan(&mut place, &servers, &pattern).await? {
                return Ok(Erased::new(erased as u64, None));
            }
            scans += 1;
        }
        Ok(Erased::new(erased as u64, (limit > 0).then(|| place.cursor())))
    }

    async fn erase_one(&self, id: &RequestIdentity, token: FencingToken, what: Erase) -> Result<bool, StoreError> {
        self.erase_of(id.clone(), Some(token), what).await
    }

    async fn hold(&self, id: &RequestIdentity, token: FencingToken) -> Result<bool, StoreError> {
        let keys = self.0.names.keys(id);
        let Some(count) = keys.count(token) else {
            return Ok(false);
        };
        let count = decimal(count);
        let call = Call {
            script: &HOLD,
            keys: &[&keys.record],
            arguments: &[count.as_bytes()],
        };
        match Answer::new(self.ask(call).await?)?.done(token) {
            Ok(()) => Ok(true),
            Err(StoreError::Outdated { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn findings(&self) -> Result<Vec<Finding>, StoreError> {
        findings::all(self).await
    }
}
