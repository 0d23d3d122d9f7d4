//! What a recorder of metrics was told.
#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit, with_local_recorder};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tokio::runtime::Builder;

/// Runs on this thread, whose recorder it is, with a clock that stands still while there is something to do.
pub fn run<F: Future>(recorder: &dyn metrics::Recorder, test: F) -> F::Output {
    run_on(Builder::new_current_thread().start_paused(true), recorder, test)
}

/// Runs on this thread, whose recorder it is.
pub fn run_timed<F: Future>(recorder: &dyn metrics::Recorder, test: F) -> F::Output {
    run_on(&mut Builder::new_current_thread(), recorder, test)
}

fn run_on<F: Future>(builder: &mut Builder, recorder: &dyn metrics::Recorder, test: F) -> F::Output {
    let runtime = builder.enable_all().build().unwrap();
    with_local_recorder(recorder, || runtime.block_on(test))
}

/// What a recorder was told, added up: a snapshot of its own begins anew each time.
pub struct Seen {
    snapshotter: Snapshotter,
    total: RefCell<BTreeMap<String, f64>>,
}

impl Seen {
    pub fn by(recorder: &DebuggingRecorder) -> Self {
        Self {
            snapshotter: recorder.snapshotter(),
            total: RefCell::default(),
        }
    }

    /// The metrics by their name and labels, such as `oneflight_waiters{route="/orders/{id}"}`, but for those at zero.
    pub fn now(&self) -> BTreeMap<String, f64> {
        let mut total = self.all();
        total.retain(|_, value| *value != 0.0);
        total
    }

    /// The metrics, also those at zero.
    pub fn all(&self) -> BTreeMap<String, f64> {
        for (key, _, _, value) in self.snapshotter.snapshot().into_vec() {
            let key = key.key();
            let labels: Vec<_> = key
                .labels()
                .map(|label| format!("{}={:?}", label.key(), label.value()))
                .collect();
            let value = match value {
                DebugValue::Counter(count) => count as f64,
                DebugValue::Gauge(value) => value.into_inner(),
                DebugValue::Histogram(_) => panic!("there are none"),
            };
            let name = format!("{}{{{}}}", key.name(), labels.join(","));
            *self.total.borrow_mut().entry(name).or_default() += value;
        }
        self.total.borrow().clone()
    }

    /// What is at zero: the names, and each with its labels.
    pub fn at_zero(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let mut zeros = self.all();
        zeros.retain(|_, value| *value == 0.0);
        let series: BTreeSet<_> = zeros.into_keys().collect();
        let names = series.iter().filter_map(|series| series.split('{').next());
        (names.map(str::to_owned).collect(), series)
    }

    pub fn expect(&self, expected: &[(&str, f64)]) {
        let expected: BTreeMap<_, _> = expected
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect();
        assert_eq!(self.now(), expected);
    }
}

/// What a recorder is told that its metrics are: the kind and the help of each name.
#[derive(Default)]
pub struct Described(Mutex<BTreeMap<String, (&'static str, String)>>);

impl Described {
    /// What is told meanwhile.
    pub fn during(tells: impl FnOnce()) -> BTreeMap<String, (&'static str, String)> {
        let recorder = Self::default();
        with_local_recorder(&recorder, tells);
        recorder.0.into_inner().unwrap()
    }

    fn add(&self, name: &KeyName, kind: &'static str, help: &SharedString) {
        let described = (kind, help.to_string());
        self.0.lock().unwrap().insert(name.as_str().to_owned(), described);
    }
}

impl Recorder for Described {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.add(&name, "counter", &help);
    }
    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.add(&name, "gauge", &help);
    }
    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.add(&name, "histogram", &help);
    }
    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// How often a recorder was told of a metric.
#[derive(Default)]
pub struct Told(AtomicUsize);

impl Told {
    pub fn times(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Recorder for Told {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counter::noop()
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        self.0.fetch_add(1, Ordering::Relaxed);
        Gauge::noop()
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        self.0.fetch_add(1, Ordering::Relaxed);
        Histogram::noop()
    }
}

/// The names and kinds that a table of metrics lists.
pub fn listed(table: &str) -> BTreeMap<String, String> {
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `oneflight_"));
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        (
            format!("oneflight_{}", cells[0].trim_end_matches('`')),
            cells[1].to_owned(),
        )
    })
    .collect()
}

/// A recorder that panics at whatever it is told.
pub struct Broken;

impl Recorder for Broken {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {
        panic!("broken");
    }
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {
        panic!("broken");
    }
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {
        panic!("broken");
    }
    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        panic!("broken");
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        panic!("broken");
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        panic!("broken");
    }
}
