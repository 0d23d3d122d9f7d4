//! Listing what is in doubt, in the order of the tokens, across all shards.
//!
//! `SCAN` would have to pass every record that was ever completed and is still kept. So each shard lists what is in
//! progress, in the very scripts that change it: a claim adds, a completion or release removes. A round asks every
//! shard for its first few, and goes no further than the shard that has more to tell. Then the records themselves are
//! looked at, since most of what is in progress is not in doubt.

use futures_util::{StreamExt, TryStreamExt, stream};

use super::connection::Call;
use super::records::{self, Answer};
use super::scripts::{IN_PROGRESS, LOAD};
use super::store::RedisStore;
use super::tokens::Shard;
use oneflight::record::FencingToken;
use oneflight::store::{InDoubt, StoreError, report_unreadable};

/// The number of questions that are under way at a time.
pub(super) const AT_ONCE: usize = 64;
/// The number of records that a shard names in a round.
const NAMED: usize = 100;

/// A record that is in progress, perhaps in doubt.
pub(super) struct Candidate {
    pub(super) shard: Shard,
    pub(super) count: u64,
    pub(super) token: FencingToken,
    pub(super) key: Vec<u8>,
}

impl RedisStore {
    pub(super) async fn list_in_doubt(
        &self,
        limit: usize,
        after: Option<FencingToken>,
    ) -> Result<Vec<InDoubt>, StoreError> {
        let mut doubtful = Vec::new();
        let mut after = after.unwrap_or(FencingToken::new(0));
        while doubtful.len() < limit {
            let (candidates, last) = self.candidates(after).await?;
            let mut looks =
                stream::iter(candidates.into_iter().map(|candidate| self.look(candidate))).buffered(AT_ONCE);
            while let Some((token, found)) = looks.next().await {
                match found {
                    Ok(found) => doubtful.extend(found),
                    Err(error @ StoreError::Corrupt { .. }) => report_unreadable(token, &error),
                    Err(error) => return Err(error),
                }
                if doubtful.len() == limit {
                    return Ok(doubtful);
                }
            }
            match last {
                Some(last) => after = last,
                None => break,
            }
        }
        Ok(doubtful)
    }

    /// Returns what is in progress with larger tokens, in their order, and how far that goes if not to the end.
    pub(super) async fn candidates(
        &self,
        after: FencingToken,
    ) -> Result<(Vec<Candidate>, Option<FencingToken>), StoreError> {
        let mut lists = stream::iter(Shard::all().map(|shard| self.named(shard, after))).buffered(AT_ONCE);
        let mut candidates = Vec::new();
        let mut last: Option<FencingToken> = None;
        while let Some(named) = lists.try_next().await? {
            if named.len() >= NAMED {
                let end = named.last().map(|candidate| candidate.token);
                last = last.into_iter().chain(end).min();
            }
            candidates.extend(named);
        }
        candidates.retain(|candidate| last.is_none_or(|last| candidate.token <= last));
        candidates.sort_unstable_by_key(|candidate| candidate.token);
        Ok((candidates, last))
    }

    async fn named(&self, shard: Shard, after: FencingToken) -> Result<Vec<Candidate>, StoreError> {
        let list = self.0.names.in_progress(shard);
        let first = shard.count_after(after).to_string();
        let most = NAMED.to_string();
        let answered = self
            .ask(Call {
                script: &IN_PROGRESS,
                keys: &[&list],
                arguments: &[first.as_bytes(), most.as_bytes()],
            })
            .await?;
        let named = records::in_progress(answered)?;
        let candidates = named.into_iter().map(|(key, count)| {
            let token = shard.token(count).ok_or(StoreError::Corrupt {
                what: "a token in a list of what is in progress is too large",
            })?;
            Ok(Candidate {
                shard,
                count,
                token,
                key,
            })
        });
        candidates.collect()
    }

    async fn look(&self, candidate: Candidate) -> (FencingToken, Result<Option<InDoubt>, StoreError>) {
        (candidate.token, self.look_at(candidate).await)
    }

    async fn look_at(&self, candidate: Candidate) -> Result<Option<InDoubt>, StoreError> {
        let id = self.0.names.identity(candidate.shard, &candidate.key);
        let id = id.ok_or(StoreError::Corrupt {
            what: "a list of what is in progress names something that is not a record",
        })?;
        let keys = self.0.names.keys_in(candidate.shard, &id);
        let answered = self
            .ask(Call {
                script: &LOAD,
                keys: &[&keys.record],
                arguments: &[b"0"],
            })
            .await?;
        let record = Answer::new(answered)?
            .record(candidate.shard)?
            .map(|(record, _)| record);
        // Another holder may have it by now, and it is then listed elsewhere.
        let record = record.filter(|record| candidate.shard.count(record.token) == Some(candidate.count));
        Ok(record.and_then(|record| InDoubt::of(id, &record)))
    }
}
