//! A soak: millions of random calls of three groups on a multi-threaded runtime, some of which hang up, time out, panic, call
//! their own group, forget or abort. At the end no flight, no work and no value may be left, every counter has to add
//! up, and memory has to be flat.
//!
//! `bin/soak` runs it, and its `--help` lists what can be set.
//!
//! What is the same in every run and what is not: the seed fixes what each client does, the threads' timing is theirs.

use clap::Parser;
use fastrand::Rng;
use oneflight::{Drive, Fingerprint, FlightError, Group, OnAbandon, Outcome, Role};
use std::alloc::{GlobalAlloc, Layout, System};
use std::future::poll_fn;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// How many points the run is divided into; at each, everything comes to rest and memory is measured.
const POINTS: u64 = 10;
/// The points from which on memory has to be flat: those after the first third.
const FLAT_FROM: usize = 4;
/// How far it may move: spare room in tables and queues, which depends on the threads' timing.
const SLACK: usize = 64 * 1024;
/// A run that is slower than this many calls a second stands still somewhere.
const SLOWEST: u64 = 2_000;

/// Random calls on a multi-threaded runtime, and whether anything is left of them.
#[derive(Parser)]
struct Arguments {
    /// How many calls.
    #[arg(default_value_t = 10_000_000)]
    calls: u64,
    /// How many tasks make them.
    #[arg(long, default_value_t = 64)]
    clients: u64,
    /// Worker threads of the runtime.
    #[arg(long, default_value_t = 4)]
    threads: usize,
    /// Where the clients' random numbers begin.
    #[arg(long)]
    seed: Option<u64>,
}

/// A group, and what happens in it.
struct Field {
    name: &'static str,
    group: Group<u64, Value>,
    /// Whether calls here forget, abort and cancel: then their sums are bounds in places, and executions of one key may
    /// overlap.
    wild: bool,
    books: Books,
}

impl Field {
    fn all() -> Vec<Arc<Self>> {
        let field = |name, group, wild| {
            Arc::new(Self {
                name,
                group,
                wild,
                books: Books::default(),
            })
        };
        vec![
            field("plain", Group::new(), false),
            field("wild", Group::new(), true),
            field(
                "bounded",
                Group::builder()
                    .max_flights(24)
                    .max_callers(6)
                    .on_abandon(OnAbandon::Cancel)
                    .build(),
                true,
            ),
        ]
    }
}

fn main() -> ExitCode {
    expect_planned_panics();
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(arguments.threads)
        .enable_time()
        .build();
    let soaked = match runtime {
        Ok(runtime) => runtime.block_on(soak(&arguments)),
        Err(error) => Err(format!("no runtime: {error}")),
    };
    match soaked {
        Ok(summary) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("soak: FAILED: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn soak(arguments: &Arguments) -> Result<String, String> {
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    let fields = Field::all();
    let began = Instant::now();
    println!("seed {seed}");
    println!("       calls   seconds   live bytes    resident");
    let mut live = Vec::new();
    for point in 1..=POINTS {
        let calls = arguments.calls * point / POINTS - arguments.calls * (point - 1) / POINTS;
        stretch(arguments, &fields, calls, seed.wrapping_add(point << 32)).await?;
        live.push(at_rest().await);
        println!(
            "{:>12} {:>9.1} {:>12} {:>11}",
            arguments.calls * point / POINTS,
            began.elapsed().as_secs_f64(),
            live[live.len() - 1],
            resident(),
        );
    }
    println!();
    for field in &fields {
        field.books.check(field)?;
    }
    let grown = growth(&live)?;
    let sum =
        |count: fn(&oneflight::Stats) -> u64| -> u64 { fields.iter().map(|field| count(&field.group.stats())).sum() };
    Ok(format!(
        "soak: {} calls ({} nested) in {:.0} s: {} led, {} joined, {} refused; 0 flights, 0 works and 0 values left, \
         counters add up, memory {grown:+} bytes after the first third",
        fields.iter().map(|field| field.books.calls()).sum::<u64>(),
        fields.iter().map(|field| field.books.nested()).sum::<u64>(),
        began.elapsed().as_secs_f64(),
        sum(|stats| stats.led),
        sum(|stats| stats.joined),
        sum(|stats| stats.refused),
    ))
}

/// So many calls, and then rest: all clients have returned, and nothing is in flight.
async fn stretch(arguments: &Arguments, fields: &[Arc<Field>], calls: u64, seed: u64) -> Result<(), String> {
    let clients: Vec<_> = (0..arguments.clients)
        .map(|number| {
            let own = calls / arguments.clients + u64::from(number < calls % arguments.clients);
            tokio::spawn(Client::new(fields.to_vec(), seed.wrapping_add(number)).run(own))
        })
        .collect();
    let limit = Duration::from_secs(60 + calls / SLOWEST);
    let rest = async {
        for client in clients {
            client.await.map_err(|error| error.to_string())?;
        }
        for field in fields {
            field.group.drain().await;
        }
        Ok(())
    };
    let rested = tokio::time::timeout(limit, rest).await;
    rested.unwrap_or_else(|_| Err(format!("somebody still waits after {} s", limit.as_secs())))
}

/// How much more is alive at the end than when memory should have become flat.
fn growth(live: &[usize]) -> Result<isize, String> {
    let (before, after) = (live[FLAT_FROM - 1], live[live.len() - 1]);
    let highest = live[FLAT_FROM..].iter().max().copied().unwrap_or(after);
    if highest > before + SLACK {
        return Err(format!(
            "memory grows: {before} bytes at point {FLAT_FROM}, up to {highest} later"
        ));
    }
    Ok(after.wrapping_sub(before).cast_signed())
}

/// Keys up to here come again and again.
const HOT: u64 = 12;

// The books: what the clients saw and what the work did, to be compared with what the group counted.

/// Counts what there is, and what happened, in one group.
#[derive(Default)]
struct Books {
    /// Calls that clients made, and calls that work made.
    called: Counter,
    nested: Counter,
    /// Of all calls: dropped before they were polled; ended by an error that the group refuses with; asked to join what
    /// was not in flight; joined, and got an answer; dropped before there was one, without having led.
    unpolled: Counter,
    refused: Counter,
    nothing: Counter,
    followed: Counter,
    gone: Counter,
    /// Executions begun, panicked, and ended with a value; work and values that are alive.
    led: Counter,
    panicked: Counter,
    completed: Counter,
    works: Counter,
    values: Counter,
    aborts: Counter,
    clock: AtomicU64,
    running: [AtomicBool; HOT as usize],
    wrong: Counter,
}

/// A number that is counted up, and in some cases down.
#[derive(Default)]
struct Counter(AtomicU64);

impl Counter {
    fn add(&self) {
        self.0.fetch_add(1, SeqCst);
    }

    fn take(&self) {
        self.0.fetch_sub(1, SeqCst);
    }

    fn get(&self) -> u64 {
        self.0.load(SeqCst)
    }
}

/// One execution, as far as its callers see it.
struct Execution {
    key: u64,
    /// When the first caller returned with its result.
    returned: AtomicU64,
}

/// What work comes to. Its copies are counted.
struct Value {
    execution: Arc<Execution>,
    field: Arc<Field>,
}

impl Value {
    fn new(execution: Arc<Execution>, field: Arc<Field>) -> Self {
        field.books.values.add();
        Self { execution, field }
    }
}

impl Clone for Value {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.execution), Arc::clone(&self.field))
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        self.field.books.values.take();
    }
}

/// Alive as long as the work is; what the work holds.
struct Work {
    execution: Arc<Execution>,
    field: Arc<Field>,
}

impl Work {
    fn begin(field: Arc<Field>, key: u64) -> Self {
        let books = &field.books;
        books.led.add();
        books.works.add();
        if !field.wild && key < HOT {
            books.wrong_if(
                books.running[key as usize].swap(true, SeqCst),
                "two executions of one key",
            );
        }
        let returned = AtomicU64::new(u64::MAX);
        let execution = Arc::new(Execution { key, returned });
        Self { execution, field }
    }

    fn key(&self) -> u64 {
        self.execution.key
    }

    fn field(&self) -> &Arc<Field> {
        &self.field
    }

    fn end(&self) -> Value {
        self.field.books.completed.add();
        Value::new(Arc::clone(&self.execution), Arc::clone(&self.field))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let books = &self.field.books;
        books.works.take();
        if !self.field.wild && self.execution.key < HOT {
            books.running[self.execution.key as usize].store(false, SeqCst);
        }
    }
}

/// A call that has been polled: it ends with an answer, or it is dropped.
struct Call {
    field: Arc<Field>,
    key: u64,
    begun: u64,
    led: Arc<AtomicBool>,
    settled: bool,
}

impl Call {
    fn begin(field: &Arc<Field>, key: u64) -> Self {
        Self {
            field: Arc::clone(field),
            key,
            begun: field.books.clock.fetch_add(1, SeqCst),
            led: Arc::default(),
            settled: false,
        }
    }

    /// To be set when this call's closure runs.
    fn led(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.led)
    }

    fn answered(mut self, answer: Option<Result<Outcome<Value>, FlightError>>) {
        self.settled = true;
        let books = &self.field.books;
        let led = self.led.load(SeqCst);
        let refused = match &answer {
            None => return books.nothing.add(),
            Some(Ok(outcome)) => {
                let now = books.clock.fetch_add(1, SeqCst);
                let execution = &outcome.value.execution;
                let returned = execution.returned.fetch_min(now, SeqCst).min(now);
                books.wrong_if(returned < self.begun, "an old result for a new call");
                books.wrong_if(execution.key != self.key, "the result of another key");
                books.wrong_if((outcome.role == Role::Leader) != led, "a role that is not his");
                false
            }
            Some(Err(error)) => match error {
                FlightError::Panicked(_) => false,
                FlightError::Aborted => {
                    books.wrong_if(books.aborts.get() == 0, "aborted by nobody");
                    false
                }
                FlightError::Reentrant | FlightError::Conflict | FlightError::Overloaded(_) => true,
                other => return books.wrong_if(true, &format!("not to be expected: {other}")),
            },
        };
        if refused {
            books.wrong_if(led, "led and refused");
            books.refused.add();
        } else if !led {
            books.followed.add();
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.settled && !self.led.load(SeqCst) {
            self.field.books.gone.add();
        }
    }
}

impl Books {
    fn calls(&self) -> u64 {
        self.called.get()
    }

    fn nested(&self) -> u64 {
        self.nested.get()
    }

    fn wrong_if(&self, wrong: bool, what: &str) {
        if wrong {
            if self.wrong.get() < 10 {
                eprintln!("wrong: {what}");
            }
            self.wrong.add();
        }
    }

    /// Whether everything adds up, now that all is at rest.
    fn check(&self, field: &Field) -> Result<(), String> {
        let stats = field.group.stats();
        println!("{}: {stats:?}, gone before an answer {}", field.name, self.gone.get());
        let same = |what: &str, left: u64, right: u64| match left == right {
            true => Ok(()),
            false => Err(format!("{}: {what}: {left}, and not {right}", field.name)),
        };
        same("wrong answers", self.wrong.get(), 0)?;
        same("flights left", field.group.in_flight() as u64, 0)?;
        same("works left", self.works.get(), 0)?;
        same("values left", self.values.get(), 0)?;
        same("led", stats.led, self.led.get())?;
        same("refused", stats.refused, self.refused.get())?;
        same("panicked", stats.panicked, self.panicked.get())?;
        let ends = self.completed.get() + stats.panicked + stats.aborted + stats.cancelled;
        same("ends of flights", ends, stats.led)?;
        // A call that comes while a flight is being aborted or cancelled waits for that, and counts only where it leads
        // or joins afterwards. If it was dropped before, it counts nowhere.
        let (followed, gone) = (self.followed.get(), self.gone.get());
        let uncounted = (followed + gone).wrapping_sub(stats.joined);
        if uncounted > if field.wild { gone } else { 0 } {
            return Err(format!(
                "{}: joined: {}, and not {followed} to {}",
                field.name,
                stats.joined,
                followed + gone
            ));
        }
        same(
            "led, joined, refused and the rest",
            stats.led + stats.joined + stats.refused + self.nothing.get() + self.unpolled.get() + uncounted,
            self.called.get() + self.nested.get(),
        )
    }
}

// The clients: each is one task that makes calls, and does with each what clients do.

const PLANNED: &str = "as planned";
/// Keys from the hot ones up to here rarely meet.
const COLD: u64 = 1 << 20;
const DEPTH: u32 = 2;

/// Keeps the panic hook from telling of panics that are part of the soak.
fn expect_planned_panics() {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload_as_str() != Some(PLANNED) {
            loud(panic);
        }
    }));
}

struct Client {
    fields: Vec<Arc<Field>>,
    random: Rng,
}

impl Client {
    fn new(fields: Vec<Arc<Field>>, seed: u64) -> Self {
        let random = Rng::with_seed(seed);
        Self { fields, random }
    }

    async fn run(mut self, calls: u64) {
        let mut made = 0;
        while made < calls {
            let field = Arc::clone(&self.fields[self.random.usize(..self.fields.len())]);
            let key = key(&mut self.random);
            if field.wild {
                self.meddle(&field, key);
            }
            made += 1;
            field.books.called.add();
            let random = self.random.fork();
            let call = call(Arc::clone(&field), key, random, 0);
            match self.random.u32(..100) {
                0 => {
                    drop(call);
                    field.books.unpolled.add();
                }
                1..=15 => {
                    let polls = self.random.u32(1..4);
                    hang_up(call, polls).await;
                }
                16 => {
                    let patience = Duration::from_micros(self.random.u64(..2_000));
                    let _ = timeout(patience, call).await;
                }
                17..=19 if !field.wild && made < calls => {
                    made += 1;
                    field.books.called.add();
                    let random = self.random.fork();
                    idle(call, self::call(field, key, random, 0)).await;
                }
                _ => call.await,
            }
        }
    }

    fn meddle(&mut self, field: &Field, key: u64) {
        match self.random.u32(..100) {
            0 => {
                field.group.forget(&key);
            }
            1 => {
                field.books.aborts.add();
                field.group.abort(&key);
            }
            _ => {}
        }
    }
}

fn key(random: &mut Rng) -> u64 {
    match random.bool() {
        true => random.u64(..HOT),
        false => random.u64(HOT..COLD),
    }
}

fn one_in(random: &mut Rng, times: u32) -> bool {
    random.u32(..times) == 0
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// One call of the group, which books what becomes of it. Boxed, because work makes calls.
fn call(field: Arc<Field>, key: u64, mut random: Rng, depth: u32) -> Boxed<()> {
    Box::pin(async move {
        let booked = Call::begin(&field, key);
        let answer = if one_in(&mut random, 16) {
            field.group.join(&key).await
        } else {
            Some(run(&booked, &field, key, random, depth).await)
        };
        booked.answered(answer);
    })
}

async fn run(
    booked: &Call,
    field: &Arc<Field>,
    key: u64,
    mut random: Rng,
    depth: u32,
) -> Result<Outcome<Value>, FlightError> {
    let (led, at) = (booked.led(), Arc::clone(field));
    let on_abandon = if one_in(&mut random, 4) {
        OnAbandon::Cancel
    } else {
        OnAbandon::Finish
    };
    let drive = if one_in(&mut random, 10) {
        Drive::Spawned
    } else {
        Drive::InPlace
    };
    let (borrowed, proven) = (one_in(&mut random, 4), one_in(&mut random, 50));
    let work = move || {
        led.store(true, SeqCst);
        work(Work::begin(at, key), random, depth)
    };
    macro_rules! with_policies {
        ($run:expr) => {{
            let mut run = $run.drive(drive);
            if field.wild {
                run = run.on_abandon(on_abandon);
            }
            run.await
        }};
    }
    // All keys are of calls without a fingerprint, so that these few are in conflict where they meet another.
    let proof = Fingerprint::from_digest([7; 32]);
    match (borrowed, proven) {
        (false, false) => with_policies!(field.group.run(key, work)),
        (false, true) => with_policies!(field.group.run(key, work).fingerprint(proof)),
        (true, false) => with_policies!(field.group.run_by_ref(&key, work)),
        (true, true) => with_policies!(field.group.run_by_ref(&key, work).fingerprint(proof)),
    }
}

async fn work(work: Work, mut random: Rng, depth: u32) -> Value {
    for _ in 0..random.u32(..4) {
        tokio::task::yield_now().await;
    }
    if one_in(&mut random, 400) {
        sleep(Duration::from_millis(1)).await;
    }
    if depth < DEPTH && one_in(&mut random, 20) {
        // Now and then for its own key, which is refused.
        let key = if one_in(&mut random, 8) {
            work.key()
        } else {
            key(&mut random)
        };
        let field = Arc::clone(work.field());
        field.books.nested.add();
        call(field, key, random.fork(), depth + 1).await;
    }
    if one_in(&mut random, 50) {
        work.field().books.panicked.add();
        std::panic::panic_any(PLANNED);
    }
    work.end()
}

/// Polls the call so many times, if it has not ended before, and drops it.
async fn hang_up(mut call: Boxed<()>, polls: u32) {
    let mut left = polls;
    poll_fn(|cx: &mut Context<'_>| match call.as_mut().poll(cx) {
        Poll::Pending if left > 1 => {
            left -= 1;
            Poll::Pending
        }
        _ => Poll::Ready(()),
    })
    .await;
}

/// Keeps the first call, which may be the driver, unpolled until the second has its result.
async fn idle(mut first: Boxed<()>, second: Boxed<()>) {
    let polled = poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx))).await;
    second.await;
    if polled.is_pending() {
        first.await;
    }
}

// Memory: counted by the allocator, so that a single flight in ten thousand that is not freed shows.

static LIVE: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

#[allow(unsafe_code, reason = "an allocator cannot be written without")]
// SAFETY: everything is done by the system's allocator; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's contract is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// The bytes that are alive once the runtime has put its finished tasks away.
async fn at_rest() -> usize {
    let mut lowest = usize::MAX;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        lowest = lowest.min(LIVE.load(Relaxed));
    }
    lowest
}

/// What the system says that the process occupies; only Linux is asked.
fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.map_or("-", str::trim).to_owned()
}
