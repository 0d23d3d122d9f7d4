//! What a store of a test passes on to the one that it has inside.

/// The operations of a [`Store`](oneflight::store::Store) but `claim`, as the field `inner` has them.
macro_rules! all_but_claim {
    () => {
        async fn renew(
            &self,
            id: &oneflight::RequestIdentity,
            token: oneflight::record::FencingToken,
            lease: std::time::Duration,
        ) -> Result<(), oneflight::store::StoreError> {
            self.inner.renew(id, token, lease).await
        }

        async fn end_lease(
            &self,
            id: &oneflight::RequestIdentity,
            token: oneflight::record::FencingToken,
            left: std::time::Duration,
        ) -> Result<(), oneflight::store::StoreError> {
            self.inner.end_lease(id, token, left).await
        }

        async fn complete(
            &self,
            claim: oneflight::store::Claim,
            result: oneflight::record::RecordedResult,
            retention: std::time::Duration,
        ) -> Result<(), oneflight::store::StoreError> {
            self.inner.complete(claim, result, retention).await
        }

        async fn release(&self, claim: oneflight::store::Claim) -> Result<(), oneflight::store::StoreError> {
            self.inner.release(claim).await
        }

        async fn load(
            &self,
            id: &oneflight::RequestIdentity,
        ) -> Result<Option<oneflight::record::Record>, oneflight::store::StoreError> {
            self.inner.load(id).await
        }

        async fn purge(&self, limit: usize) -> Result<usize, oneflight::store::StoreError> {
            self.inner.purge(limit).await
        }
    };
}
