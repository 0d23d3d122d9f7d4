//! The line, the gate, and what is under way in its caller's place.

use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures::future::{poll_fn, poll_immediate};
use tokio::time::timeout;

use super::super::change::Change;
use super::super::gathered::{Answer, Gathered, Wanted};
use super::super::queue::{Queue, Rank};
use super::id;
use oneflight::record::FencingToken;
use oneflight::store::StoreError;

/// What nothing here takes, however busy the machine is.
const LONG: Duration = Duration::from_secs(50);

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Wakes {
    fn poll<F: Future>(self: &Arc<Self>, future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(&Waker::from(Arc::clone(self))))
    }

    fn many(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// Of those that share it, one is polling while the others are woken, and is not polled any more after that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_under_way_goes_on_although_a_wake_up_is_lost() {
    let gathered = Arc::new(Gathered::default());
    let (polls, polling) = mpsc::channel();
    let (looks, looked) = mpsc::channel();
    let mut first = Some((polls, looked));
    let (ends, over) = tokio::sync::oneshot::channel();
    let mut ends = Some(ends);
    let work = poll_fn(move |cx: &mut Context<'_>| match first.take() {
        Some((polls, looked)) => {
            cx.waker().wake_by_ref();
            polls.send(()).unwrap();
            looked.recv().unwrap();
            // Without another wake-up.
            Poll::Pending
        }
        None => {
            ends.take().unwrap().send(()).unwrap();
            Poll::Ready(Answer::Alone)
        }
    });
    let mut caller = gathered.share(work);
    tokio::spawn({
        let gathered = Arc::clone(&gathered);
        async move {
            polling.recv().unwrap();
            let mut sees_to_it = pin!(gathered.see_to_it());
            assert!(poll_immediate(&mut sees_to_it).await.is_none());
            looks.send(()).unwrap();
            sees_to_it.await;
        }
    });
    assert!(poll_immediate(&mut caller).await.is_none());
    timeout(LONG, over).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_under_way_wakes_those_at_the_gate_and_not_the_whole_line() {
    let (gathered, queue) = (Arc::new(Gathered::default()), Queue::default());
    let held = queue.try_enter(Rank::Business).unwrap();
    let wakes = Arc::new(Wakes::default());
    let enter = |_| Box::pin(queue.enter(Rank::Business, || gathered.see_to_it()));
    let mut line: Vec<_> = (0..20).map(enter).collect();
    for waits in &mut line {
        assert!(wakes.poll(waits.as_mut()).is_pending());
    }
    let _caller = gathered.share(pending());
    assert_eq!(wakes.many(), 1);
    drop(held);
}

#[tokio::test]
async fn the_head_of_the_line_rests_while_what_is_urgent_is_not_at_the_gate_yet() {
    let (gathered, queue) = (Arc::new(Gathered::default()), Queue::default());
    let wakes = Arc::new(Wakes::default());
    let urgent = queue.urgent();
    let mut waits = Box::pin(queue.enter(Rank::Business, || gathered.see_to_it()));
    assert!(wakes.poll(waits.as_mut()).is_pending());
    assert_eq!(wakes.many(), 0);
    assert!(queue.try_enter(Rank::Lease).is_some());
    drop(urgent);
    assert_eq!(wakes.many(), 1);
    assert!(wakes.poll(waits.as_mut()).is_ready());
}

/// Notes whether what it is about is locked when it is woken.
struct Looks {
    gathered: Arc<Gathered>,
    locked: AtomicUsize,
    wakes: AtomicUsize,
}

impl Wake for Looks {
    fn wake(self: Arc<Self>) {
        self.wakes.fetch_add(1, Ordering::SeqCst);
        if self.gathered.line(Rank::Lease).is_locked() {
            self.locked.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[test]
fn nobody_is_woken_under_the_lock_of_the_line() {
    let (gathered, queue) = (Arc::new(Gathered::default()), Queue::default());
    let looks = Arc::new(Looks {
        gathered: Arc::clone(&gathered),
        locked: AtomicUsize::new(0),
        wakes: AtomicUsize::new(0),
    });
    let waker = Waker::from(Arc::clone(&looks));
    let mut cx = Context::from_waker(&waker);
    let line = gathered.line(Rank::Lease);
    let join = || {
        let wanted = Wanted::Change(Arc::new(Change::Release {
            id: id("one"),
            token: FencingToken::new(7),
        }));
        line.join(wanted, None, Some(queue.urgent()))
    };
    for is_taken in [true, false] {
        let mut askers = [join(), join(), join()];
        let mut business = Box::pin(queue.enter(Rank::Business, || gathered.see_to_it()));
        assert!(business.as_mut().poll(&mut cx).is_pending());
        for asker in &mut askers {
            assert!(Pin::new(&mut asker.answered).poll(&mut cx).is_pending());
        }
        let before = looks.wakes.load(Ordering::SeqCst);
        match is_taken {
            true => drop(line.take()),
            false => assert!(askers.iter().all(|it| it.leave())),
        }
        assert!(looks.wakes.load(Ordering::SeqCst) - before > 3);
    }
    assert_eq!(looks.locked.load(Ordering::SeqCst), 0);
}

#[test]
fn what_goes_alone_is_taken_by_itself_and_finds_out_by_itself() {
    let gathered = Gathered::default();
    let line = gathered.line(Rank::Lease);
    let release = |number| {
        let (id, token) = (id("one"), FencingToken::new(number));
        Arc::new(Change::Release { id, token })
    };
    let join = || {
        let [first, second, fourth] = [1, 2, 4].map(|number| Wanted::Change(release(number)));
        [first, second, Wanted::Alone(release(3)), fourth].map(|wanted| line.join(wanted, None, None))
    };
    let askers = join();
    assert_eq!([(); 4].map(|()| line.take().len()), [2, 1, 1, 0]);
    drop(askers);
    let mut askers = join();
    line.fail_one(Instant::now(), &StoreError::NoConnection);
    let mut told = askers.iter_mut().map(|it| it.answered.try_recv());
    assert!(matches!(told.next(), Some(Ok(Answer::Failed(_)))));
    assert!(matches!(told.next(), Some(Ok(Answer::Alone))));
    assert!(matches!(told.next(), Some(Err(_))));
    assert!(matches!(told.next(), Some(Ok(Answer::Alone))));
    assert!(askers[2].leave());
}
