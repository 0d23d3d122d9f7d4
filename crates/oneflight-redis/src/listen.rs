//! How a process hears of changes from other processes: over one connection, however many callers wait.
//!
//! ```text
//! silent ──first watch──▶ connecting ──connected──▶ hearing ──connection lost──▶ connecting, later each time
//!                             └── nothing is subscribed: callers poll ────┘
//! ```
//!
//! Every record has a channel of its own, named like its key, to which the scripts publish. The server sends a process
//! what it has subscribed to and nothing else. Plain channels are used in a cluster too: its nodes pass messages on to
//! one another, so one connection to any node hears of all. (Sharded channels would not be passed on, and take a
//! connection to every node.)
//!
//! A channel is subscribed to as long as a caller in this process watches it. The server confirms the subscription
//! before the watch is handed out, so a caller that then looks at the record misses nothing.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use parking_lot::Mutex;
use redis::aio::{PubSubSink, PubSubStream};
use redis::{Client, RedisResult, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use oneflight::store::{Watch, Watchers, jitter};

/// The most records that may be waited for by notification at a time.
const MOST_WATCHED: usize = 16_384;
/// The number of wishes that are put to the server at a time.
const BATCH: usize = 256;
/// How long the server may take to answer, before the connection is given up.
const ANSWER: Duration = Duration::from_secs(5);
/// After how much silence the server is asked whether it is still there.
const SILENCE: Duration = Duration::from_secs(15);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The most that is added to a pause, so that processes which lost the server together do not come back together.
const JITTER: Duration = Duration::from_millis(50);

/// The process's ear. Clones share it.
#[derive(Clone)]
pub(super) struct Ear(Arc<Inner>);

struct Inner {
    /// Where to connect to: any of these, one after the other.
    servers: Arc<[Client]>,
    known: Known,
    /// The way to the task that listens, if one was begun.
    wishes: Mutex<Option<mpsc::UnboundedSender<Wish>>>,
}

/// The registry, and the number by which it knows a channel. Two channels with one number hear of each other, which
/// does no harm.
#[derive(Clone)]
struct Known {
    watchers: Watchers,
    hasher: RandomState,
}

impl Known {
    fn number(&self, channel: &str) -> u64 {
        self.hasher.hash_one(channel)
    }
}

/// What the listening task is asked for.
enum Wish {
    /// Subscribes, and gives the subscription back once it is confirmed.
    Hear(Arc<str>, oneshot::Sender<Subscription>),
    /// A watch of the channel has ended.
    Leave(Arc<str>, Connection),
}

/// The number of a connection, among those that the task has had.
type Connection = u64;

/// One watch's share in the subscription to a channel. It is given up when this is dropped.
struct Subscription {
    channel: Arc<str>,
    connection: Connection,
    wishes: mpsc::UnboundedSender<Wish>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // If nothing receives it, the connection is gone, and its subscriptions with it.
        let _ = self
            .wishes
            .send(Wish::Leave(Arc::clone(&self.channel), self.connection));
    }
}

impl Ear {
    pub(super) fn new(servers: Vec<Client>) -> Self {
        let watchers = Watchers::new(MOST_WATCHED);
        // Until it hears something.
        watchers.close();
        let hasher = RandomState::new();
        Self(Arc::new(Inner {
            servers: servers.into(),
            known: Known { watchers, hasher },
            wishes: Mutex::new(None),
        }))
    }

    /// Subscribes to a record's changes, if they are heard.
    pub(super) async fn watch(&self, channel: &str) -> Watch {
        let wishes = self.wishes();
        let watch = self.0.known.watchers.watch(self.0.known.number(channel));
        if watch.is_none() {
            return watch;
        }
        let (answers, answer) = oneshot::channel();
        if wishes.send(Wish::Hear(channel.into(), answers)).is_err() {
            return Watch::none();
        }
        match timeout(ANSWER, answer).await {
            Ok(Ok(subscription)) => watch.holding(subscription),
            Ok(Err(_)) | Err(_) => Watch::none(),
        }
    }

    /// Returns the way to the task that listens. Begins one if there is none, or if the runtime that it was on is gone.
    fn wishes(&self) -> mpsc::UnboundedSender<Wish> {
        let mut wishes = self.0.wishes.lock();
        if let Some(wishes) = wishes.as_ref().filter(|wishes| !wishes.is_closed()) {
            return wishes.clone();
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        *wishes = Some(sender.clone());
        let task = Listening {
            servers: Arc::clone(&self.0.servers),
            known: self.0.known.clone(),
            wishes: receiver,
            // The sender that the task hands on to subscriptions must not keep itself alive.
            answers: sender.downgrade(),
        };
        tokio::spawn(task.run());
        sender
    }
}

impl fmt::Debug for Ear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ear").field(&self.0.known.watchers).finish()
    }
}

/// The task that listens. When it ends, in whichever way, nothing is heard.
struct Listening {
    servers: Arc<[Client]>,
    known: Known,
    wishes: mpsc::UnboundedReceiver<Wish>,
    answers: mpsc::WeakUnboundedSender<Wish>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.known.watchers.close();
    }
}

impl Listening {
    /// Listens until the store and all its watches are gone, so that nothing can be asked any more.
    async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        let mut connection: Connection = 0;
        let mut servers = Arc::clone(&self.servers).to_vec().into_iter().cycle();
        while let Some(server) = servers.next().filter(|_| !self.is_over()) {
            if let Ok(Ok(ear)) = timeout(ANSWER, server.get_async_pubsub()).await {
                pause = FIRST_PAUSE;
                connection += 1;
                let (sink, stream) = ear.split();
                self.known.watchers.open();
                self.hear(sink, stream, connection).await;
                self.known.watchers.close();
                // A wish that is not answered says that nothing is heard.
                while self.wishes.try_recv().is_ok() {}
            }
            sleep(pause + jitter(JITTER)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn is_over(&self) -> bool {
        self.wishes.is_closed() && self.wishes.is_empty()
    }

    /// Passes on what is heard and puts wishes to the server, until the connection is lost or nothing can be asked any
    /// more.
    async fn hear(&mut self, mut sink: PubSubSink, mut stream: PubSubStream, connection: Connection) {
        let mut channels = Channels::default();
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            // Each may be dropped half-way: what has come in by then waits in a queue.
            let answered = tokio::select! {
                heard = stream.next() => {
                    let Some(message) = heard else { return };
                    self.known.watchers.notify(self.known.number(message.get_channel_name()));
                    continue;
                }
                wished = self.wishes.recv_many(&mut batch, BATCH) => {
                    if wished == 0 {
                        return;
                    }
                    let wishes = batch.drain(..);
                    timeout(ANSWER, channels.fulfil(&mut sink, wishes, connection, &self.answers)).await
                }
                () = sleep(SILENCE) => timeout(ANSWER, async { sink.ping::<Value>().await.map(drop) }).await,
            };
            if !matches!(answered, Ok(Ok(()))) {
                return;
            }
        }
    }
}

/// What one connection has subscribed to, and for how many watches.
#[derive(Default)]
struct Channels {
    wanted: HashMap<Arc<str>, usize>,
    subscribed: HashSet<Arc<str>>,
}

impl Channels {
    /// Brings the server's view in line with what is wanted, in two round trips at most.
    async fn fulfil(
        &mut self,
        sink: &mut PubSubSink,
        wishes: impl Iterator<Item = Wish>,
        connection: Connection,
        answers: &mpsc::WeakUnboundedSender<Wish>,
    ) -> RedisResult<()> {
        let mut confirm = Vec::new();
        let mut touched = HashSet::new();
        for wish in wishes {
            match wish {
                Wish::Hear(channel, answer) => {
                    *self.wanted.entry(Arc::clone(&channel)).or_default() += 1;
                    touched.insert(Arc::clone(&channel));
                    confirm.push((channel, answer));
                }
                Wish::Leave(channel, of) if of == connection => {
                    if let Some(wanted) = self.wanted.get_mut(&channel) {
                        *wanted -= 1;
                    }
                    touched.insert(channel);
                }
                // An earlier connection took its subscriptions with it.
                Wish::Leave(..) => {}
            }
        }
        let (mut join, mut leave) = (Vec::new(), Vec::new());
        for channel in touched {
            let wanted = self.wanted.get(&channel).is_some_and(|wanted| *wanted > 0);
            match (wanted, self.subscribed.contains(&channel)) {
                (true, false) => join.push(channel),
                (false, true) => leave.push(channel),
                (true, true) => {}
                (false, false) => drop(self.wanted.remove(&channel)),
            }
        }
        if !leave.is_empty() {
            sink.unsubscribe(names(&leave)).await?;
            for channel in leave {
                self.subscribed.remove(&channel);
                self.wanted.remove(&channel);
            }
        }
        if !join.is_empty() {
            sink.subscribe(names(&join)).await?;
            self.subscribed.extend(join);
        }
        for (channel, answer) in confirm {
            let Some(wishes) = answers.upgrade() else { break };
            // If the caller that asked is gone, the subscription comes back and is dropped.
            let _ = answer.send(Subscription {
                channel,
                connection,
                wishes,
            });
        }
        Ok(())
    }
}

fn names(channels: &[Arc<str>]) -> Vec<&str> {
    channels.iter().map(|channel| &**channel).collect()
}
