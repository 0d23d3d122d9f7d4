//! Promise 20: the conformance suite for operators fails on broken stores.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[macro_use]
#[path = "../../../tests/common/inner.rs"]
mod inner;
mod common;

use common::{ANY, each_is_found};
use oneflight::identity::RequestIdentity;
use oneflight::record::FencingToken;
use oneflight::store::{
    ClaimOutcome, ClaimRequest, Erase, Erased, Finding, InDoubt, ManualClock, MemoryStore, RecordCursor, RecordPage,
    RecordQuery, RecordState, Store, StoreError, Takeover, Upkeep,
};
use oneflight_conformance as conformance;

/// How a store is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    ListsTheFirstPageOnly,
    ListsOtherScopes,
    ListsOtherKeys,
    ListsOtherStates,
    ListsWithoutIds,
    TakesEveryCursor,
    ListsWithoutResults,
    ErasesOtherScopes,
    ErasesNothing,
    ErasesRecordsForAnswers,
    ErasesAnswersForRecords,
    ErasesWithoutEnd,
    ErasesOneOfAnyToken,
    ErasesTheScopeOfOne,
    HoldsNothing,
    HoldsWhatItHasNot,
    TakesOverWhatIsHeld,
    HoldsForEver,
    HasNoAdvice,
}

/// A memory store with a defect.
struct Broken {
    inner: MemoryStore,
    defect: Defect,
}

impl Store for Broken {
    async fn claim(&self, mut request: ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        let known = self.inner.load(&request.id).await?;
        if let (Defect::TakesOverWhatIsHeld, Some(known), Takeover::Expired) = (self.defect, known, request.takeover) {
            request = request.takeover(Takeover::Of(known.token));
        }
        if self.defect == Defect::ListsWithoutIds {
            request = request.correlation_id(None);
        }
        let outcome = self.inner.claim(request).await?;
        if let (Defect::HoldsForEver, ClaimOutcome::Granted(claim)) = (self.defect, &outcome) {
            self.inner.hold(claim.id(), claim.token()).await?;
        }
        Ok(outcome)
    }

    all_but_claim!();

    async fn in_doubt(&self, limit: usize, after: Option<FencingToken>) -> Result<Vec<InDoubt>, StoreError> {
        self.inner.in_doubt(limit, after).await
    }
}

impl Upkeep for Broken {
    async fn records(&self, mut query: RecordQuery) -> Result<RecordPage, StoreError> {
        match self.defect {
            Defect::ListsOtherScopes => query.scope = None,
            Defect::ListsOtherKeys => query.key = None,
            Defect::ListsOtherStates => query.state = query.state.filter(|state| *state == RecordState::Completed),
            Defect::TakesEveryCursor => query.after = query.after.filter(|cursor| cursor.place().is_some()),
            _ => {}
        }
        let mut page = self.inner.records(query).await?;
        match self.defect {
            Defect::ListsTheFirstPageOnly => page.next = None,
            Defect::ListsWithoutResults => page.entries.retain(|entry| entry.record.result().is_none()),
            _ => {}
        }
        Ok(page)
    }

    async fn erase(
        &self,
        scope: &str,
        what: Erase,
        after: Option<RecordCursor>,
        limit: usize,
    ) -> Result<Erased, StoreError> {
        let what = match (self.defect, what) {
            (Defect::ErasesRecordsForAnswers, Erase::Answers) => Erase::Records,
            (Defect::ErasesAnswersForRecords, Erase::Records) => Erase::Answers,
            (_, what) => what,
        };
        match self.defect {
            Defect::ErasesNothing => Ok(Erased::new(5, None)),
            Defect::ErasesOtherScopes => {
                for scope in ["erased-not", "erased2"] {
                    self.inner.erase(scope, what, None, limit).await?;
                }
                self.inner.erase(scope, what, after, limit).await
            }
            Defect::ErasesWithoutEnd => {
                let erased = self.inner.erase(scope, what, after, limit).await?;
                Ok(Erased::new(erased.erased, Some(RecordCursor::behind(b"", b""))))
            }
            _ => self.inner.erase(scope, what, after, limit).await,
        }
    }

    async fn erase_one(&self, id: &RequestIdentity, mut token: FencingToken, what: Erase) -> Result<bool, StoreError> {
        match (self.defect, self.inner.load(id).await?) {
            (Defect::ErasesOneOfAnyToken, Some(known)) => token = known.token,
            (Defect::ErasesTheScopeOfOne, Some(known)) if known.token == token => {
                self.inner.erase(id.scope(), what, None, 100).await?;
                return Ok(true);
            }
            _ => {}
        }
        self.inner.erase_one(id, token, what).await
    }

    async fn hold(&self, id: &RequestIdentity, token: FencingToken) -> Result<bool, StoreError> {
        match self.defect {
            Defect::HoldsNothing => Ok(self.inner.load(id).await?.is_some_and(|known| known.token == token)),
            Defect::HoldsWhatItHasNot => self.inner.hold(id, token).await.map(|_| true),
            _ => self.inner.hold(id, token).await,
        }
    }

    async fn findings(&self) -> Result<Vec<Finding>, StoreError> {
        let mut findings = self.inner.findings().await?;
        if self.defect == Defect::HasNoAdvice {
            findings.iter_mut().for_each(|finding| finding.advice = None);
        }
        Ok(findings)
    }
}

#[tokio::test]
async fn a_broken_store_does_not_conform() {
    let expected = [
        (Defect::ListsTheFirstPageOnly, "all_records_are_listed_in_pages"),
        (Defect::ListsOtherScopes, ANY),
        (Defect::ListsOtherKeys, "records_are_found_by_each_condition"),
        (Defect::ListsOtherStates, "records_are_found_by_each_condition"),
        (Defect::ListsWithoutIds, "a_record_is_listed_with_what_is_known_of_it"),
        (Defect::TakesEveryCursor, "a_cursor_of_another_store_is_an_error"),
        (Defect::ListsWithoutResults, "all_records_are_listed_in_pages"),
        (Defect::ErasesOtherScopes, "what_is_erased_is_new"),
        (Defect::ErasesNothing, "what_is_erased_is_new"),
        (
            Defect::ErasesRecordsForAnswers,
            "what_has_no_answer_any_more_was_done_all_the_same",
        ),
        (Defect::ErasesAnswersForRecords, "what_is_erased_is_new"),
        (Defect::ErasesWithoutEnd, "what_is_erased_is_new"),
        (Defect::ErasesOneOfAnyToken, "one_record_or_its_answer_is_erased_alone"),
        (Defect::ErasesTheScopeOfOne, "one_record_or_its_answer_is_erased_alone"),
        (Defect::HoldsNothing, "what_is_held_is_taken_over_by_no_policy"),
        (Defect::HoldsWhatItHasNot, "what_is_held_is_taken_over_by_no_policy"),
        (Defect::TakesOverWhatIsHeld, "what_is_held_is_taken_over_by_no_policy"),
        (Defect::HoldsForEver, "a_record_is_listed_with_what_is_known_of_it"),
        (Defect::HasNoAdvice, "every_finding_that_is_not_sound_has_advice"),
    ];
    each_is_found(expected, async |defect| {
        let clock = ManualClock::new();
        let make = async || Broken {
            inner: MemoryStore::with_clock(clock.clone()),
            defect,
        };
        conformance::run_upkeep_with(make, async |duration| clock.advance(duration)).await
    })
    .await;
}
