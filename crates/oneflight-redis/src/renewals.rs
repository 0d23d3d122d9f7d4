//! Renewals that go out together, as [`Renewals`] has gathered them.
//!
//! One message has scripts of some leases each. A script has the keys of one slot in a cluster, and on a server that says that it
//! is in one.

use std::collections::HashMap;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use oneflight::record::FencingToken;
use oneflight::store::{RenewTogether, Renewal, Renewals};

use super::connection::{Call, Way};
use super::layout::decimal;
use super::names::{Keys, Names};
use super::records;
use super::scripts::RENEW;
use super::tokens::Shard;

/// The number of leases that one script renews. The server does nothing else meanwhile, for some 0.4 ms.
const TOGETHER: usize = 128;

/// The way to the server for renewals.
pub(super) struct Renewing {
    pub(super) way: Way,
    pub(super) names: Names,
}

impl Renewing {
    pub(super) fn gathered(way: Way, names: Names) -> Renewals<Self> {
        Renewals::over(Self { way, names })
    }
}

/// A renewal as a script is given it.
struct Asked {
    renewal: Renewal,
    record: String,
    shard: Shard,
    /// The token, as a script compares it.
    count: String,
}

impl Asked {
    /// A token says of which shard it is; if that is not the shard of the identity, nothing of the identity is there.
    fn of(renewal: Renewal, names: &Names) -> Self {
        let (shard, count) = Shard::of(renewal.token());
        let Keys { record, .. } = names.keys_in(shard, renewal.id());
        Self {
            renewal,
            record,
            shard,
            count: decimal(count),
        }
    }
}

impl RenewTogether for Renewing {
    async fn renew_together(&self, renewals: Vec<Renewal>) {
        let connection = &self.way.connection;
        let mut asked: Vec<_> = renewals.into_iter().map(|it| Asked::of(it, &self.names)).collect();
        if !connection.has_slots() {
            asked = self.send(in_groups(asked)).await;
            if asked.is_empty() {
                return;
            }
        }
        let mut shards = HashMap::<u16, Vec<_>>::new();
        for asked in asked {
            shards.entry(asked.shard.number()).or_default().push(asked);
        }
        let groups = shards.into_values().flat_map(in_groups);
        if connection.is_cluster() {
            // A server that does not answer holds no renewal of another one up.
            let mut each: FuturesUnordered<_> = groups.map(|group| self.send(vec![group])).collect();
            while each.next().await.is_some() {}
        } else {
            self.send(groups.collect()).await;
        }
    }
}

impl Renewing {
    /// Renews in one message, and tells each what came of it. Returns those that were not looked at, since a script has the
    /// keys of one slot.
    async fn send(&self, groups: Vec<Vec<Asked>>) -> Vec<Asked> {
        let connection = &self.way.connection;
        let answers = {
            let given: Vec<_> = groups.iter().map(|group| Given::of(group)).collect();
            let arguments: Vec<_> = given.iter().map(Given::arguments).collect();
            let calls = given.iter().zip(&arguments);
            let calls = calls.map(|(given, arguments)| Call {
                script: &RENEW,
                keys: &given.keys,
                arguments,
            });
            connection
                .run_all(&calls.collect::<Vec<_>>(), self.way.patience, None)
                .await
        };
        let mut of_several_slots = Vec::new();
        for (group, answer) in groups.into_iter().zip(answers) {
            let is_of_one_shard = group.iter().all(|asked| asked.shard == group[0].shard);
            if !is_of_one_shard && connection.has_refused_slots(&answer) {
                of_several_slots.extend(group);
                continue;
            }
            let tokens: Vec<FencingToken> = group.iter().map(|asked| asked.renewal.token()).collect();
            let told = answer.and_then(|answered| records::renewed(answered.value, &tokens));
            let told = told.unwrap_or_else(|error| tokens.iter().map(|_| Err(error.clone())).collect());
            for (asked, told) in group.into_iter().zip(told) {
                asked.renewal.answer(told);
            }
        }
        of_several_slots
    }
}

fn in_groups(asked: Vec<Asked>) -> Vec<Vec<Asked>> {
    let mut asked = asked.into_iter();
    let groups = std::iter::from_fn(|| Some(asked.by_ref().take(TOGETHER).collect::<Vec<_>>()));
    groups.take_while(|group| !group.is_empty()).collect()
}

/// What a script is given of a group.
struct Given<'a> {
    keys: Vec<&'a str>,
    /// Of each, token and lease.
    texts: Vec<(&'a str, String)>,
}

impl<'a> Given<'a> {
    fn of(group: &'a [Asked]) -> Self {
        let texts = |asked: &'a Asked| (&*asked.count, records::millis(asked.renewal.lease()).to_string());
        Self {
            keys: group.iter().map(|asked| &*asked.record).collect(),
            texts: group.iter().map(texts).collect(),
        }
    }

    fn arguments(&self) -> Vec<&[u8]> {
        let texts = self.texts.iter();
        texts
            .flat_map(|(token, lease)| [token.as_bytes(), lease.as_bytes()])
            .collect()
    }
}
