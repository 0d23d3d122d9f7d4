//! What a relay reads next.
//!
//! ```text
//! main: the shards that it has, window after window
//! newcomer: shards that it has got, from the beginning ──read to the end──▶ main is read up to the same instant,
//!                                                                            and both are one again
//! ```

use crate::store::StoreError;
use crate::store::outbox::{Cursor, OutboxStore, Page, Shard};

/// Shards that have been read equally far.
#[derive(Debug)]
struct Reader {
    shards: Vec<Shard>,
    cursor: Cursor,
    /// Whether a window has been begun and not been read to its end.
    is_within: bool,
}

/// All readers of a relay.
#[derive(Debug, Default)]
pub(super) struct Reading {
    main: Option<Reader>,
    newcomer: Option<Reader>,
    newcomer_is_read: bool,
    joins: bool,
    /// Shards that it has got while others were new.
    queued: Vec<(Shard, Cursor)>,
}

impl Reading {
    /// Adds shards that are to be read from the beginning.
    pub(super) fn gain(&mut self, shards: Vec<Shard>, start: &Cursor) {
        self.queued
            .extend(shards.into_iter().map(|shard| (shard, start.clone())));
        self.next_newcomer();
    }

    /// Has all shards read from the beginning once more.
    pub(super) fn restart(&mut self, start: &Cursor) {
        let all = std::mem::take(self);
        let queued = all.queued.into_iter().map(|(shard, _)| shard);
        let read = [all.main, all.newcomer].into_iter().flatten();
        let shards = queued.chain(read.flat_map(|reader| reader.shards)).collect();
        self.gain(shards, start);
    }

    fn next_newcomer(&mut self) {
        if self.newcomer.is_some() {
            return;
        }
        let queued = std::mem::take(&mut self.queued);
        // The earliest start is one for all.
        if let Some((_, cursor)) = queued.first().cloned() {
            let shards = queued.into_iter().map(|(shard, _)| shard).collect();
            (self.newcomer_is_read, self.joins) = (false, false);
            self.newcomer = Some(Reader {
                shards,
                cursor,
                is_within: false,
            });
        }
    }

    /// Drops shards that are another relay's.
    pub(super) fn lose(&mut self, lost: impl Fn(Shard) -> bool) {
        self.queued.retain(|(shard, _)| !lost(*shard));
        for reader in [&mut self.main, &mut self.newcomer] {
            if let Some(some) = reader {
                some.shards.retain(|shard| !lost(*shard));
                if some.shards.is_empty() {
                    *reader = None;
                }
            }
        }
        self.next_newcomer();
    }

    /// Whether there is something that has to be read to its end.
    pub(super) fn is_within(&self) -> bool {
        self.newcomer.is_some() || self.main.as_ref().is_some_and(|main| main.is_within)
    }

    /// What has been read, for the store to say whether there is more.
    pub(super) fn known(&self) -> (Option<Cursor>, Vec<Shard>) {
        match &self.main {
            Some(main) if !self.is_within() => (Some(main.cursor.clone()), main.shards.clone()),
            _ => (None, Vec::new()),
        }
    }

    /// Reads a page. `None` if there are no shards to read.
    pub(super) async fn read<S: OutboxStore>(&mut self, store: &S, limit: usize) -> Result<Option<Page>, StoreError> {
        if let Some(newcomer) = &mut self.newcomer {
            if !self.newcomer_is_read {
                let page = store.fetch(&newcomer.shards, &newcomer.cursor, None, limit).await?;
                newcomer.cursor = page.cursor.clone();
                self.newcomer_is_read = !page.more;
                if self.newcomer_is_read && self.main.is_none() {
                    self.main = self.newcomer.take();
                    self.next_newcomer();
                }
                return Ok(Some(page));
            }
            if let Some(main) = &mut self.main {
                let begins = !main.is_within;
                self.joins |= begins;
                let until = self.joins.then_some(&newcomer.cursor);
                let page = store.fetch(&main.shards, &main.cursor, until, limit).await?;
                main.cursor = page.cursor.clone();
                main.is_within = page.more;
                if self.joins && !page.more {
                    main.cursor = newcomer.cursor.clone();
                    main.shards.append(&mut newcomer.shards);
                    (self.newcomer, self.joins) = (None, false);
                    self.next_newcomer();
                }
                return Ok(Some(page));
            }
            self.main = self.newcomer.take();
            self.next_newcomer();
        }
        let Some(main) = &mut self.main else {
            return Ok(None);
        };
        let page = store.fetch(&main.shards, &main.cursor, None, limit).await?;
        main.cursor = page.cursor.clone();
        main.is_within = page.more;
        Ok(Some(page))
    }
}
