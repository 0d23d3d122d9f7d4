//! A disk that is full, which is noticed in the midst of what is done for several.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;

use super::super::change::Change;
use super::super::queue::Rank;
use super::id;
use super::shop::{MINUTE, Shop, end, granted, result};
use oneflight::record::{CodecId, RecordedResult, Verdict};
use oneflight::store::{ClaimOutcome, Store, StoreError, StoreFailure};

impl Shop {
    /// No page is to be had any more, beside those that the file has.
    async fn fill(&self) {
        // There are no pages in it that are free.
        self.run("VACUUM").await;
        self.store.writer.faults.most_pages.store(1, Ordering::SeqCst);
    }

    /// There is room again.
    async fn empty(&self) {
        let most = &self.store.writer.faults.most_pages;
        most.store(i32::MAX.unsigned_abs() - 1, Ordering::SeqCst);
        // That which is kept notices as well.
        end(self.turn().await);
    }
}

fn is_full(error: &StoreError) -> bool {
    let is_full = matches!(
        error,
        StoreError::Failed {
            failure: StoreFailure::Full,
            ..
        }
    );
    is_full && error.to_string().contains("shop.db")
}

#[tokio::test]
async fn of_several_changes_on_a_full_disk_those_are_made_that_need_no_room() {
    for shop in Shop::each().await {
        let mut tokens = Vec::new();
        for key in ["large", "renewed", "ended", "released", "small"] {
            tokens.push(shop.granted(key).await.token());
        }
        let large = RecordedResult::value(Verdict::Performed, CodecId::Json, &vec![b'1'; 60_000]);
        let complete = |key: &str, token, result: &RecordedResult| Change::Complete {
            id: id(key),
            token,
            result: result.clone(),
            retention: MINUTE,
        };
        let changes = vec![
            complete("large", tokens[0], &large),
            Change::Renew {
                id: id("renewed"),
                token: tokens[1],
                lease: MINUTE * 3,
            },
            Change::EndLease {
                id: id("ended"),
                token: tokens[2],
                left: Duration::ZERO,
            },
            Change::Release {
                id: id("released"),
                token: tokens[3],
            },
            complete("small", tokens[4], &result()),
        ];
        shop.fill().await;
        let turn = shop.turn().await;
        let mut changes: Vec<_> = changes
            .into_iter()
            .map(|it| Box::pin(shop.store.writer.change(it)))
            .collect();
        shop.lined_up(Rank::Lease, 5, &mut changes).await;
        end(turn);
        let mut changed = join_all(changes).await;
        let error = changed.remove(0).unwrap_err();
        assert!(is_full(&error), "{error:?}");
        assert!(changed.iter().all(|it| matches!(it, Ok(1))), "{changed:?}");
        let left = async |key| shop.store.load(&id(key)).await.unwrap();
        let lease = async |key| left(key).await.unwrap().lease_remaining();
        assert_eq!(left("large").await.unwrap().result(), None);
        assert!(lease("renewed").await > Some(MINUTE * 2));
        assert_eq!(lease("ended").await, Some(Duration::ZERO));
        assert_eq!(left("released").await, None);
        assert_eq!(left("small").await.unwrap().result(), Some(&result()));

        shop.empty().await;
        let completed = shop.store.writer.change(complete("large", tokens[0], &large));
        assert_eq!(completed.await.unwrap(), 1);
        assert_eq!(left("large").await.unwrap().result(), Some(&large));
    }
}

#[tokio::test]
async fn of_several_claims_on_a_full_disk_those_are_granted_that_fit_and_the_others_when_there_is_room() {
    for shop in Shop::each().await {
        // Some fit in what is left of the pages.
        let keys: Vec<_> = (0..64).map(|n| format!("{n:0>200}")).collect();
        shop.fill().await;
        let turn = shop.turn().await;
        let mut claims: Vec<_> = keys.iter().map(|key| Box::pin(shop.claim(key))).collect();
        shop.lined_up(Rank::Business, 64, &mut claims).await;
        end(turn);
        let outcomes = join_all(claims).await;
        let fit = outcomes.iter().filter(|it| it.is_ok()).count();
        assert!((1..64).contains(&fit), "{fit}");
        shop.empty().await;
        for (key, outcome) in keys.iter().zip(outcomes) {
            let record = shop.store.load(&id(key)).await.unwrap();
            match outcome {
                Ok(ClaimOutcome::Granted(claim)) => assert_eq!(record.map(|it| it.token), Some(claim.token())),
                Ok(ClaimOutcome::Denied(denied)) => panic!("{denied:?}"),
                Err(error) => {
                    assert!(is_full(&error), "{error:?}");
                    assert_eq!(record, None);
                    let _ = shop.granted(key).await;
                }
            }
        }
        // They go together again.
        let turn = shop.turn().await;
        let before = shop.commits();
        let more = ["a", "b", "c"];
        let mut claims: Vec<_> = more.iter().map(|key| Box::pin(shop.claim(key))).collect();
        shop.lined_up(Rank::Business, 3, &mut claims).await;
        end(turn);
        join_all(claims).await.into_iter().for_each(|it| drop(granted(it)));
        assert_eq!(shop.commits() - before, 1);
    }
}

/// What keeps the holders' claims needs no room.
#[tokio::test]
async fn leases_are_renewed_on_a_full_disk() {
    for shop in Shop::each().await {
        let shop = Arc::new(shop);
        let mut claims = Vec::new();
        for n in 0..20 {
            claims.push(shop.granted(&n.to_string()).await);
        }
        shop.fill().await;
        end(shop.turn().await);
        let renews = claims.iter().map(async |claim| {
            let renewed = shop.store.renew(claim.id(), claim.token(), MINUTE * 3);
            renewed.await
        });
        for renewed in join_all(renews).await {
            renewed.unwrap();
        }
    }
}
