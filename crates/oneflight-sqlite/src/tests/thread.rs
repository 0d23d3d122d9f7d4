//! A system that gives the store no thread: what would be done by it is done by each for itself.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::{join_all, poll_immediate};

use super::super::faults::Faults;
use super::super::queue::Rank;
use super::id;
use super::shop::{MINUTE, Shop, end, granted, result};
use oneflight::store::Store;

const MANY: usize = 4;

async fn claims_completes_and_renews(shop: &Shop, round: &str) {
    let keys: Vec<_> = (0..MANY).map(|n| format!("{round} {n}")).collect();
    let turn = shop.turn().await;
    let mut claims: Vec<_> = keys.iter().map(|key| Box::pin(shop.claim(key))).collect();
    for claim in &mut claims {
        assert!(poll_immediate(claim).await.is_none());
    }
    end(turn);
    let claims: Vec<_> = join_all(claims).await.into_iter().map(granted).collect();

    let turn = shop.turn().await;
    let renews = async |n: usize| {
        let claim = &claims[n];
        let renewed = shop.store.renew(claim.id(), claim.token(), MINUTE * 2);
        renewed.await
    };
    let mut renewed = Box::pin(join_all((0..MANY).map(renews)));
    for _ in 0..100 {
        assert!(poll_immediate(&mut renewed).await.is_none());
        tokio::task::yield_now().await;
    }
    end(turn);
    assert!(renewed.await.iter().all(Result::is_ok));
    for key in &keys {
        let record = shop.store.load(&id(key)).await.unwrap().unwrap();
        assert!(record.lease_remaining() > Some(MINUTE));
    }

    let turn = shop.turn().await;
    let complete = |claim| Box::pin(shop.store.complete(claim, result(), MINUTE));
    let mut completed: Vec<_> = claims.into_iter().map(complete).collect();
    for completed in &mut completed {
        assert!(poll_immediate(completed).await.is_none());
    }
    end(turn);
    assert!(join_all(completed).await.iter().all(Result::is_ok));
    for key in &keys {
        let record = shop.store.load(&id(key)).await.unwrap().unwrap();
        assert_eq!(record.result(), Some(&result()));
    }
}

#[tokio::test]
async fn without_a_thread_each_goes_alone_and_with_one_they_go_together_again() {
    let faults: [fn(&Faults) -> &AtomicBool; 2] = [|faults| &faults.no_thread, |faults| &faults.no_runtime];
    for fault in faults {
        for shop in Shop::each().await {
            let writer = &shop.store.writer;
            fault(&writer.faults).store(true, Ordering::SeqCst);
            claims_completes_and_renews(&shop, "without").await;
            for rank in [Rank::Lease, Rank::Business] {
                assert_eq!(shop.waiting(rank), 0, "{rank:?}");
            }
            fault(&writer.faults).store(false, Ordering::SeqCst);
            claims_completes_and_renews(&shop, "with").await;
            assert!(writer.gathered.has_thread.load(Ordering::SeqCst));
        }
    }
}
