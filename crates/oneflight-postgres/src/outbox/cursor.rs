//! How far a relay has read: [`Place`].
//!
//! ```text
//! Start ──first page──▶ Start, with the snapshot that it reads up to ──last page──▶ Window from that snapshot
//! Window ──first page──▶ Window, with the snapshot that it reads up to ──last page──▶ Window from that one
//! ```

use oneflight::store::StoreError;
use oneflight::store::outbox::Cursor;

/// A cursor in the store's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// What was read before: everything that this snapshot sees. `None`: nothing was.
    pub(super) from: Option<Snapshot>,
    /// What is being read: everything that this snapshot sees. `None` before the first page.
    pub(super) until: Option<Snapshot>,
    /// The last position that was read in this window.
    pub(super) at: i64,
}

/// A snapshot of the server, as its text, with a lower bound for the positions of the transactions that it does not
/// know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) text: String,
    pub(super) drawn: i64,
}

impl Snapshot {
    /// The first number that this snapshot does not know.
    pub(super) fn limit(&self) -> &str {
        self.text.split(':').nth(1).unwrap_or_default()
    }

    fn write(of: Option<&Self>) -> String {
        of.map_or_else(String::new, |it| format!("{}@{}", it.text, it.drawn))
    }

    fn read(text: &str) -> Option<Option<Self>> {
        if text.is_empty() {
            return Some(None);
        }
        let (text, drawn) = text.split_once('@')?;
        let (text, drawn) = (text.to_owned(), drawn.parse().ok()?);
        Some(Some(Self { text, drawn }))
    }
}

impl Place {
    /// Before everything.
    pub(super) fn start() -> Self {
        Self {
            from: None,
            until: None,
            at: 0,
        }
    }

    pub(super) fn cursor(&self) -> Cursor {
        let (from, until) = (
            Snapshot::write(self.from.as_ref()),
            Snapshot::write(self.until.as_ref()),
        );
        Cursor::new(format!("{from}|{until}|{}", self.at))
    }

    pub(super) fn of(cursor: &Cursor) -> Result<Self, StoreError> {
        let mut parts = cursor.as_str().split('|');
        let mut part = || parts.next().unwrap_or_default();
        let place = (|| {
            Some(Self {
                from: Snapshot::read(part())?,
                until: Snapshot::read(part())?,
                at: part().parse().ok()?,
            })
        })();
        place.ok_or(StoreError::Corrupt {
            what: "a cursor is not one of this store's",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back_from_its_cursor() {
        let snapshot = |text: &str| {
            let text = text.to_owned();
            Some(Snapshot { text, drawn: 7 })
        };
        for (from, until) in [
            (None, None),
            (None, snapshot("10:12:")),
            (snapshot("10:20:10,14"), None),
            (snapshot("10:20:10,14"), snapshot("20:20:")),
        ] {
            let place = Place { from, until, at: 5 };
            assert_eq!(Place::of(&place.cursor()).unwrap(), place);
        }
        assert_eq!(snapshot("10:20:10,14").unwrap().limit(), "20");
        assert!(Place::of(&Cursor::new("nonsense")).is_err());
    }
}
