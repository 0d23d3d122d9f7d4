//! Five requests in doubt, of which two cannot be read.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, Store};

pub fn id(number: usize) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), format!("k{number}")).unwrap()
}

pub async fn five_in_doubt<S: Store>(store: &S) -> Vec<Claim> {
    let mut claims = Vec::new();
    for number in 0..5 {
        let request = id(number);
        match store.claim(ClaimRequest::new(&request, Duration::ZERO)).await.unwrap() {
            ClaimOutcome::Granted(claim) => claims.push(claim),
            other => panic!("{other:?}"),
        }
    }
    claims
}

/// Two of the five cannot be read: the second and the fourth, in the order of the tokens.
pub async fn the_others_are_listed<S: Store>(store: &S, claims: &[Claim]) {
    let listed = async |limit, after| {
        let listed = store.in_doubt(limit, after).await.unwrap();
        listed.iter().map(|it| it.token).collect::<Vec<_>>()
    };
    let mut tokens: Vec<_> = [0, 2, 4].map(|number| claims[number].token()).to_vec();
    tokens.sort();
    assert_eq!(listed(10, None).await, tokens);
    // A page is as full as if they were not there.
    assert_eq!(listed(2, None).await, tokens[..2]);
    assert_eq!(listed(2, Some(tokens[1])).await, tokens[2..]);
    assert_eq!(listed(1, Some(tokens[0])).await, tokens[1..2]);
}
