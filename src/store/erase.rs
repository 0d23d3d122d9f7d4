//! Erasing in a store that keeps its records in the order of scope and key.

use std::future::Future;

use super::error::StoreError;
use super::upkeep::{Erase, Erased, RecordCursor, RecordPlace, RecordQuery, ScopeRange};

/// How such a store erases a batch of completed records. [`erase_in_order`] goes from batch to batch.
pub trait EraseInOrder: Sync {
    /// Erases up to `limit` completed records of a range, and returns how many those were. If it is none, there are no more.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    fn erase_records(&self, range: &ScopeRange, limit: u64) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Erases answers of up to `limit` completed records of a range that are behind a place, which may be before the range. Returns
    /// the place of the last record that had an answer and how many were erased, or `None` if none has an answer.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    fn erase_answers(
        &self,
        range: &ScopeRange,
        after: &RecordPlace,
        limit: u64,
    ) -> impl Future<Output = Result<Option<(RecordPlace, u64)>, StoreError>> + Send;
}

/// Erases up to `limit` completed records of a scope, or their answers, as [`Upkeep::erase`](super::Upkeep::erase) says: what such a
/// store does there.
///
/// # Errors
///
/// As there.
pub async fn erase_in_order(
    store: &impl EraseInOrder,
    scope: &str,
    what: Erase,
    after: Option<RecordCursor>,
    limit: usize,
) -> Result<Erased, StoreError> {
    let query = RecordQuery {
        scope: Some(scope.to_owned()),
        ..RecordQuery::default()
    };
    let mut place = match after {
        Some(cursor) => cursor.place().ok_or(RecordCursor::OF_ANOTHER_STORE)?,
        None => RecordPlace::default(),
    };
    let limit = limit as u64;
    let mut left = limit;
    for range in query.scope_ranges() {
        while left > 0 {
            // Fewer than were asked for are not the last ones: some may have changed meanwhile.
            let erased = match what {
                Erase::Records => match store.erase_records(&range, left).await? {
                    0 => break,
                    erased => erased,
                },
                Erase::Answers => match store.erase_answers(&range, &place, left).await? {
                    None => break,
                    Some((last, erased)) => {
                        place = last;
                        erased
                    }
                },
            };
            left = left.saturating_sub(erased);
        }
    }
    // Records that were erased are not found once more, wherever it goes on.
    Ok(Erased {
        erased: limit - left,
        next: (limit > 0 && left == 0).then(|| RecordCursor::behind(&place.0, &place.1)),
    })
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    /// Records by scope and key, each with whether it has an answer. It erases no more than two at a time, and one less than it
    /// found, as if one had changed meanwhile.
    struct Records(Mutex<Vec<(RecordPlace, bool)>>);

    impl Records {
        fn of(places: &[(&str, &str)]) -> Self {
            let place = |(scope, key): &(&str, &str)| ((scope.as_bytes().to_vec(), key.as_bytes().to_vec()), true);
            let mut places: Vec<_> = places.iter().map(place).collect();
            places.sort();
            Self(Mutex::new(places))
        }

        fn is_in((from, to): &ScopeRange, (scope, _): &RecordPlace) -> bool {
            &**scope >= from.as_bytes() && to.as_ref().is_none_or(|to| &**scope < to.as_bytes())
        }
    }

    impl EraseInOrder for Records {
        async fn erase_records(&self, range: &ScopeRange, limit: u64) -> Result<u64, StoreError> {
            let mut erased = 0;
            self.0.lock().retain(|(place, _)| {
                let is_kept = erased >= limit.min(2) || !Self::is_in(range, place);
                erased += u64::from(!is_kept);
                is_kept
            });
            Ok(erased)
        }

        async fn erase_answers(
            &self,
            range: &ScopeRange,
            after: &RecordPlace,
            limit: u64,
        ) -> Result<Option<(RecordPlace, u64)>, StoreError> {
            let mut records = self.0.lock();
            let found = records
                .iter_mut()
                .filter(|(place, has_answer)| *has_answer && Self::is_in(range, place) && place > after);
            let found: Vec<_> = found.take(usize::try_from(limit.min(2)).unwrap_or(2)).collect();
            let mut last = None;
            for (place, has_answer) in found {
                *has_answer = false;
                last = Some(place.clone());
            }
            Ok(last.map(|last| (last, 1)))
        }
    }

    const ALL: [(&str, &str); 7] = [
        ("a", "1"),
        ("t", "1"),
        ("t", "2"),
        ("t", "3"),
        ("t|user=x", "1"),
        ("t|user=x", "2"),
        ("tt", "1"),
    ];

    #[tokio::test]
    async fn a_scope_is_erased_in_batches_to_its_end_and_nothing_beside_it() {
        let records = Records::of(&ALL);
        let some = erase_in_order(&records, "t", Erase::Records, None, 3).await.unwrap();
        assert_eq!(some.erased, 3);
        let rest = erase_in_order(&records, "t", Erase::Records, some.next, 3)
            .await
            .unwrap();
        assert_eq!((rest.erased, rest.next), (2, None));
        let left: Vec<_> = records.0.lock().iter().map(|((scope, _), _)| scope.clone()).collect();
        assert_eq!(left, [b"a".to_vec(), b"tt".to_vec()]);
        let nothing = erase_in_order(&records, "", Erase::Records, None, 0).await.unwrap();
        assert_eq!((nothing.erased, nothing.next), (0, None));
    }

    #[tokio::test]
    async fn answers_are_erased_behind_the_place_at_which_the_last_batch_ended() {
        let records = Records::of(&ALL);
        // Of the first two, one counts; so there is another batch of one.
        let some = erase_in_order(&records, "t", Erase::Answers, None, 2).await.unwrap();
        let next = some.next.unwrap();
        assert_eq!((some.erased, next.place()), (2, Some((b"t".to_vec(), b"3".to_vec()))));
        let rest = erase_in_order(&records, "t", Erase::Answers, Some(next), 9)
            .await
            .unwrap();
        assert_eq!((rest.erased, rest.next), (1, None));
        let with: Vec<_> = records
            .0
            .lock()
            .iter()
            .filter(|it| it.1)
            .map(|it| it.0.0.clone())
            .collect();
        assert_eq!(with, [b"a".to_vec(), b"tt".to_vec()]);
        let other = Some(RecordCursor::new("scan:1"));
        let error = erase_in_order(&records, "t", Erase::Answers, other, 9).await;
        assert!(matches!(error, Err(StoreError::Unsupported { .. })), "{error:?}");
    }
}
