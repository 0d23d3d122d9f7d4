//! The faults of a round, each at a random point of what its workers do.
//!
//! The point is drawn as "after so many lines of a worker", so it lies in the middle of its calls, or deliveries, however slow
//! the machine is. Each says whether it struck while there was something to strike.

use std::time::Duration;

use rustix::process::Signal;

use crate::backend::Backend;
use crate::crew::Number;
use crate::kind::Kind;
use crate::ledger::Ledger;
use crate::proxy::Cut;
use crate::round::Round;
use crate::site::Stop;

impl<B: Backend> Round<'_, B> {
    pub(crate) async fn strike(&mut self) -> bool {
        match self.scene.kind {
            Kind::Kill | Kind::Clock => self.kill().await,
            Kind::Freeze => self.freeze().await,
            Kind::Cut => self.cut().await,
            Kind::Restart => self.restart().await,
            Kind::Disk => self.fill().await,
            Kind::Disconnect => self.disconnect().await,
            Kind::Target => self.send_target_away().await,
            Kind::Begin | Kind::Left | Kind::Settings | Kind::Exhaust => self.misuse().await,
            Kind::PoolSession | Kind::PoolTransaction => match self.order.misuse {
                Some(_) => self.misuse().await,
                None if self.random.bool() => self.kill().await,
                None => self.disconnect().await,
            },
        }
    }

    async fn kill(&mut self) -> bool {
        let Some(first) = self.moment().await else {
            return false;
        };
        let all = self.scene.kind == Kind::Kill && self.random.u8(..4) == 0;
        let mut victims = vec![first];
        if all {
            victims.extend(self.crew.numbers().into_iter().filter(|&number| number != first));
        }
        let mut started = Vec::new();
        for victim in victims {
            self.struck.killed += usize::from(self.is_at_work(victim));
            self.ledger.dismiss(victim);
            let new = self.crew.replace(victim).await;
            self.hear_until(|ledger| ledger.is_gone(victim)).await;
            if self.crew.is_service(new) {
                self.ledger.expect(new);
                self.crew.order(new, &self.order).await;
            }
            started.push(new);
        }
        self.hear_until(|ledger| started.iter().all(|&new| ledger.is_ready(new)))
            .await;
        true
    }

    async fn freeze(&mut self) -> bool {
        let Some(victim) = self.moment().await else {
            return false;
        };
        self.struck.frozen += 1;
        self.crew.signal(victim, Signal::STOP);
        let longer = self.scene.lease.mul_f64(1.5 + self.random.f64());
        self.meanwhile(tokio::time::sleep(longer)).await;
        self.crew.signal(victim, Signal::CONT);
        true
    }

    async fn cut(&mut self) -> bool {
        let scene = self.scene;
        let proxy = scene.proxy.as_ref().expect("there is a proxy to be cut");
        let before = proxy.cuts();
        let cuts = [Cut::Before, Cut::Middle, Cut::After, Cut::AfterAnswer];
        let cut = cuts[self.random.usize(..cuts.len())];
        let at_commit = B::TRANSACTIONS && self.random.bool();
        if at_commit {
            proxy.cut_after(self.random.usize(..4), "COMMIT", cut);
        } else if self.random.u8(..3) == 0 {
            // Whatever is under way, on all connections.
            let moment = self.moment().await;
            proxy.cut_all();
            return moment.is_some();
        } else {
            // An order takes more messages than this.
            proxy.cut_after(self.random.usize(..30), "", cut);
        }
        self.hear_until(|ledger| proxy.cuts() > before || ledger.is_over())
            .await;
        proxy.cuts() > before
    }

    async fn restart(&mut self) -> bool {
        let moment = self.moment().await;
        let stop = match self.random.bool() {
            true => Stop::AsACrash,
            false => Stop::InGoodOrder,
        };
        let site = &self.scene.site;
        // What workers say meanwhile is stamped as it comes, and taken in later.
        tokio::task::block_in_place(|| site.restart(stop));
        moment.is_some()
    }

    async fn fill(&mut self) -> bool {
        let moment = self.moment().await;
        let scene = self.scene;
        let disk = scene.disk.as_ref().expect("there is a disk to be filled");
        disk.fill();
        let longer = Duration::from_millis(self.random.u64(50..1500));
        self.meanwhile(tokio::time::sleep(longer)).await;
        disk.clear();
        moment.is_some()
    }

    async fn disconnect(&mut self) -> bool {
        let moment = self.moment().await;
        let scene = self.scene;
        for _ in 0..self.random.usize(1..4) {
            self.meanwhile(scene.site.disconnect()).await;
            let pause = Duration::from_millis(self.random.u64(..30));
            self.meanwhile(tokio::time::sleep(pause)).await;
        }
        moment.is_some()
    }

    /// Waits until the applications have misused all that they were told to, or have no calls left.
    async fn misuse(&mut self) -> bool {
        let numbers = self.crew.services();
        let (_, times) = self.order.misuse.expect("they were told what to misuse");
        let over = |ledger: &Ledger, number| ledger.misused(number) >= times || !ledger.is_open(number);
        self.hear_until(|ledger| numbers.iter().all(|&number| over(ledger, number)))
            .await;
        numbers.iter().any(|&number| self.ledger.misused(number) > 0)
    }

    /// Has the receiver of messages give no answer for a while.
    async fn send_target_away(&mut self) -> bool {
        let moment = self.moment().await;
        let scene = self.scene;
        scene.receiver.be_away(true);
        let longer = Duration::from_millis(self.random.u64(100..1500));
        self.meanwhile(tokio::time::sleep(longer)).await;
        scene.receiver.be_away(false);
        moment.is_some()
    }

    /// Waits for a random point in the calls, or deliveries, of a random worker; `None` if they were over before.
    async fn moment(&mut self) -> Option<Number> {
        let numbers = self.crew.numbers();
        let victim = numbers[self.random.usize(..numbers.len())];
        let (is_service, deliveries) = (self.crew.is_service(victim), self.deliveries);
        let lines = match is_service {
            true => self.random.usize(..self.order.calls()),
            // Each of two has about a half of them.
            false => self.random.usize(..deliveries.div_ceil(2)),
        };
        let ready_line = usize::from(is_service && !self.ledger.is_ready(victim));
        let receiver = &self.scene.receiver;
        self.hear_until(|ledger| {
            let is_over = match is_service {
                true => !ledger.is_open(victim),
                false => receiver.effects() >= deliveries,
            };
            ledger.heard_of(victim) >= lines + ready_line || is_over
        })
        .await;
        let more = Duration::from_micros(self.random.u64(..4000));
        self.meanwhile(tokio::time::sleep(more)).await;
        self.is_at_work(victim).then_some(victim)
    }

    /// Whether a worker has calls, or deliveries, to be struck in.
    fn is_at_work(&self, worker: Number) -> bool {
        match self.crew.is_service(worker) {
            true => self.ledger.is_open(worker),
            false => self.scene.receiver.effects() < self.deliveries,
        }
    }
}
