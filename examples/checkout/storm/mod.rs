//! The storm: more clients than any handler deserves, all at once, and then a look into the database and the stand-ins' ledger.
//!
//! A number of clients work through the [`plan`], each over its own TCP connection, against one or several services that
//! run in the same process or elsewhere on this machine. Whatever they were told, the rows decide ([`stats`]).

mod client;
mod plan;
mod stats;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use self::client::{Client, Prepared};
use self::plan::{Errand, Plan};
use self::stats::{Circumstances, Left, Tally};
use crate::database::Failure;
use crate::handler::LEASE;
use crate::outside::ledger::Ledger;
use crate::place::{Kind, Place};

pub(crate) use self::plan::Shape;
pub(crate) use self::stats::Report;

/// What the orders sent gets so long to arrive when the clients are done.
const SETTLE_TIME: Duration = Duration::from_secs(30);

/// A storm to run.
#[derive(Debug, Clone)]
pub(crate) struct Storm {
    pub(crate) shape: Shape,
    pub(crate) concurrency: usize,
    pub(crate) time: Duration,
    pub(crate) handler: &'static str,
    pub(crate) place: Place,
    /// What the stand-ins keep.
    pub(crate) ledger: PathBuf,
    /// How many processes are killed meanwhile.
    pub(crate) kills: u16,
}

/// What the clients share.
struct Shared {
    plan: Plan,
    next: AtomicUsize,
    addresses: Vec<SocketAddr>,
    deadline: Instant,
    bar: ProgressBar,
}

/// A storm that is over, and has yet to be judged.
#[must_use = "the rows decide"]
pub(crate) struct Aftermath {
    storm: Storm,
    plan: Plan,
    tally: Tally,
    services: usize,
    elapsed: Duration,
}

impl Storm {
    /// Whether orders are charged and mailed. They are not if there is no outbox, and the handler leaves it to one.
    pub(crate) fn sends(&self) -> bool {
        self.place.kind() != Kind::Redis || self.handler == "naive"
    }

    /// Sends everything to the services at these addresses, of which there is at least one. Each client keeps to one of
    /// them, and takes up what comes next: so the duplicates of each key come to all of them. The bar is finished when all is
    /// over.
    pub(crate) async fn run(self, addresses: Vec<SocketAddr>, bar: &ProgressBar) -> Result<Aftermath, Failure> {
        // Whatever ends this ends the bar, and who watches it.
        let _over = Over(bar);
        let plan = Plan::new(self.shape);
        let requests = u64::from(self.shape.keys) * u64::from(self.shape.duplicates);
        bar.set_length(requests);
        let started = Instant::now();
        let shared = Arc::new(Shared {
            plan,
            next: AtomicUsize::new(0),
            addresses,
            deadline: started + self.time,
            bar: bar.clone(),
        });

        let mut clients = JoinSet::new();
        let services = shared.addresses.iter().copied().cycle();
        for (number, address) in (0..self.concurrency as u64).zip(services) {
            let shared = Arc::clone(&shared);
            let seed = self.shape.seed.wrapping_add(number);
            clients.spawn(async move { work_through(&shared, address, seed).await });
        }
        let mut tally = Tally::default();
        while let Some(one) = clients.join_next().await {
            tally.add(one?);
        }
        let elapsed = started.elapsed();
        bar.finish_and_clear();
        for complaint in tally.complaints() {
            eprintln!("{complaint}");
        }

        let shared = Arc::into_inner(shared).ok_or("a client of the storm is still there")?;
        Ok(Aftermath {
            storm: self,
            plan: shared.plan,
            tally,
            services: shared.addresses.len(),
            elapsed,
        })
    }
}

impl Aftermath {
    /// Waits until what the orders sent has been delivered, or until that takes too long. What is missing then is missing.
    pub(crate) async fn settled(&self) -> Result<(), Failure> {
        if !self.storm.sends() {
            return Ok(());
        }
        let until = Instant::now() + SETTLE_TIME;
        let orders = self.storm.place.look_into().await?;
        let ledger = Ledger::look_into(&self.storm.ledger).await?;
        let prefix = self.plan.key_prefix();
        let is_settled = async || {
            let orders = orders.with_key_prefix(prefix).await?;
            let (charges, mails) = (ledger.charges(prefix).await?, ledger.mails(prefix).await?);
            let charged: HashSet<_> = charges.iter().map(|charge| &charge.reference).collect();
            let mailed: HashSet<_> = mails.iter().map(|mail| &mail.reference).collect();
            let ordered = || orders.iter().map(|order| &order.idempotency_key);
            Ok::<_, sqlx::Error>(ordered().all(|key| charged.contains(key) && mailed.contains(key)))
        };
        while !is_settled().await? && Instant::now() < until {
            sleep(Duration::from_millis(20)).await;
        }
        if self.storm.kills > 0 {
            // What a relay had delivered and not recorded when it was killed is delivered again when its lease is over.
            sleep(LEASE + Duration::from_secs(1)).await;
        }
        orders.close().await;
        ledger.close().await;
        Ok(())
    }

    /// Counts the rows in the database that the services write to, or wrote to. Orders may be under way for clients that
    /// have gone: what is counted is the truth once the services have stopped.
    pub(crate) async fn count(&self) -> Result<Report, Failure> {
        let orders = self.storm.place.look_into().await?;
        let rows = orders.with_key_prefix(self.plan.key_prefix()).await?;
        orders.close().await;
        let left = match self.storm.sends() {
            true => Some(self.left().await?),
            false => None,
        };
        let circumstances = Circumstances {
            handler: self.storm.handler,
            store: self.storm.place.kind().name(),
            services: self.services,
            keys: self.storm.shape.keys,
            duplicates: self.storm.shape.duplicates,
            seed: self.storm.shape.seed,
            elapsed: self.elapsed,
            kills: self.storm.kills,
        };
        Ok(Report::new(
            &circumstances,
            &self.plan,
            &self.tally,
            &rows,
            left.as_ref(),
        ))
    }

    /// What has left the shop for this storm's orders.
    async fn left(&self) -> Result<Left, Failure> {
        let ledger = Ledger::look_into(&self.storm.ledger).await?;
        let prefix = self.plan.key_prefix();
        let left = Left {
            charges: ledger.charges(prefix).await?,
            mails: ledger.mails(prefix).await?,
        };
        ledger.close().await;
        Ok(left)
    }
}

/// A client's life: takes the next errand of the plan until there is none.
async fn work_through(shared: &Shared, address: SocketAddr, seed: u64) -> Tally {
    let mut client = Client::new(address, shared.deadline, seed);
    let mut tally = Tally::default();
    // The index is all that is shared, and each value is taken once: nothing to order.
    while let Some(errand) = shared.plan.errands.get(shared.next.fetch_add(1, Ordering::Relaxed)) {
        run_errand(shared, &mut client, errand, &mut tally).await;
        shared.bar.inc(u64::from(1 + errand.repeats));
    }
    tally.retries = client.retries;
    tally
}

async fn run_errand(shared: &Shared, client: &mut Client, errand: &Errand, tally: &mut Tally) {
    let plan = &shared.plan;
    let key = plan.key(errand.key);
    let prepared = Prepared::new(errand.spelling, &key, &plan.order(errand.key));
    let mut begun = Instant::now();
    if let Some(after) = errand.hang_up {
        tally.hang_ups += u64::from(client.hang_up(&prepared, after).await);
    }
    for round in 0..=errand.repeats {
        tally.requests += 1;
        match client.ask(&prepared).await {
            Ok(answer) => {
                tally.answered(plan, errand.key, &answer, begun.elapsed());
                tally.repeats += u64::from(round > 0);
            }
            Err(failure) => tally.failed(&key, &failure),
        }
        begun = Instant::now();
    }
}

/// Finishes the bar when it is dropped.
struct Over<'b>(&'b ProgressBar);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A bar on the terminal, if standard error is one.
pub(crate) fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} requests, {elapsed}") {
        bar.set_style(style);
    }
    bar
}
