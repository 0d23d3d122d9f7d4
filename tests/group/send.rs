//! Calls compile, and run, wherever a future has to be `Send`: in spawned blocks, in `async fn`s that hold references, joined,
//! boxed and through generic helpers, for keys and results of any type that a [`Group`] takes. The compiler forgets lifetimes
//! when it looks into a block whether it is `Send`, so a bound that holds for `'static` alone shows here and nowhere else.
#![allow(
    clippy::manual_async_fn,
    clippy::ptr_arg,
    reason = "each form of a call is written out, whether there is a shorter one or not"
)]

use futures::future::{BoxFuture, join_all, try_join};
use futures::stream::{FuturesUnordered, StreamExt};
use oneflight::idempotency::{Error as IdempotencyError, Idempotency, NotDone};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::{MemoryStore, Store};
use oneflight::{Drive, Fingerprint, FlightError, Group, OnAbandon, Outcome, TryError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::any::Any;
use std::borrow::{Borrow, Cow};
use std::cell::Cell;
use std::error::Error;
use std::future::{Future, Ready, ready};
use std::hash::{BuildHasher, Hash};
use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{JoinHandle, JoinSet, yield_now};

fn seven() -> Fingerprint {
    Fingerprint::from_digest([7; 32])
}

// Generic helpers ask for what `Group` itself asks for, and for no more.

async fn generic<K, T, S>(group: &Group<K, T, S>, key: K, value: T) -> Result<T, FlightError>
where
    K: Hash + Eq + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    let outcome = group.run(key, || async { value }).await?;
    Ok(outcome.value)
}

fn generic_boxed<K, T>(group: &Group<K, T>, key: K, value: T) -> BoxFuture<'_, Result<T, FlightError>>
where
    K: Hash + Eq + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
{
    Box::pin(async move {
        let run = group.run(key, || async { value }).fingerprint(seven());
        Ok(run.await?.value)
    })
}

fn generic_spawned<K, T>(group: &Group<K, T>, key: K, value: T) -> JoinHandle<Result<T, FlightError>>
where
    K: Hash + Eq + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
{
    let group = group.clone();
    tokio::spawn(async move { generic(&group, key, value).await })
}

fn generic_work<'g, K, T, F, W>(
    group: &'g Group<K, T>,
    key: K,
    work: F,
) -> impl Future<Output = Result<Outcome<T>, FlightError>> + Send + 'g
where
    K: Hash + Eq + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
    F: FnOnce() -> W + Send + 'g,
    W: Future<Output = T> + Send + 'static,
{
    async move { group.run(key, work).on_abandon(OnAbandon::Finish).await }
}

/// What a service's handlers look like behind a trait object.
trait Handler: Send + Sync {
    fn handle<'a>(&'a self, request: &'a str) -> Pin<Box<dyn Future<Output = usize> + Send + 'a>>;
}

/// All call forms for one type of key and one of result.
macro_rules! all_forms {
    ($($name:ident: $key:ty = $make_key:expr, $value:ty = $make_value:expr;)*) => {$(
        #[tokio::test]
        async fn $name() {
            fn key() -> $key {
                $make_key
            }

            fn value() -> $value {
                $make_value
            }

            struct Service {
                group: Group<$key, $value>,
            }

            impl Service {
                async fn hold(&self, asked: &$key) -> Option<Result<Outcome<$value>, FlightError>> {
                    let run = self.group.run(key(), || async { value() });
                    assert!(run.await.is_ok());
                    self.group.join(asked).await
                }
            }

            impl Handler for Service {
                fn handle<'a>(&'a self, request: &'a str) -> Pin<Box<dyn Future<Output = usize> + Send + 'a>> {
                    Box::pin(async move {
                        let outcome = self.group.run(key(), || async { value() }).await;
                        usize::from(outcome.is_ok()) + request.len()
                    })
                }
            }

            let group: Group<$key, $value> = Group::new();

            let g = group.clone();
            tokio::spawn(async move { g.run(key(), || async { value() }).await.is_ok() }).await.unwrap();

            let g = group.clone();
            tokio::spawn(async move {
                let run = g.run(key(), || async {
                    yield_now().await;
                    value()
                });
                let run = run.fingerprint(seven()).on_abandon(OnAbandon::Cancel).drive(Drive::Spawned);
                assert!(run.await.is_ok());
                let own = key();
                assert!(g.join(&own).await.is_none());
                assert!(g.join(&own).fingerprint(seven()).await.is_none());
                g.drain().await;
            })
            .await
            .unwrap();

            let g = group.clone();
            tokio::spawn(async move {
                let call = || g.run(key(), || async { value() });
                assert!(join_all((0..3).map(|_| call())).await.iter().all(Result::is_ok));
                assert!(try_join(call(), call()).await.is_ok());
                assert!(tokio::join!(call(), call()).0.is_ok());
                let mut unordered: FuturesUnordered<_> = (0..3).map(|_| call()).collect();
                while let Some(outcome) = unordered.next().await {
                    assert!(outcome.is_ok());
                }
                tokio::select! {
                    outcome = call() => assert!(outcome.is_ok()),
                    () = std::future::pending() => {}
                }
                assert!(tokio::time::timeout(Duration::from_secs(60), call()).await.is_ok());
            })
            .await
            .unwrap();

            let g = group.clone();
            let boxed: Pin<Box<dyn Future<Output = bool> + Send>> =
                Box::pin(async move { g.run(key(), || async { value() }).await.is_ok() });
            assert!(tokio::spawn(boxed).await.unwrap());
            let boxed: Pin<Box<dyn Future<Output = _> + Send + '_>> =
                Box::pin(group.run(key(), || async { value() }));
            assert!(boxed.await.is_ok());

            let g = group.clone();
            tokio::spawn(async move {
                assert!(generic(&g, key(), value()).await.is_ok());
                assert!(generic_boxed(&g, key(), value()).await.is_ok());
                assert!(generic_spawned(&g, key(), value()).await.unwrap().is_ok());
                assert!(generic_work(&g, key(), || async { value() }).await.is_ok());
            })
            .await
            .unwrap();

            let service = Service { group: group.clone() };
            tokio::spawn(async move {
                let own = key();
                assert!(service.hold(&own).await.is_none());
                let handler: &dyn Handler = &service;
                assert_eq!(handler.handle("four").await, 5);
            })
            .await
            .unwrap();

            let mut tasks = JoinSet::new();
            tasks.spawn(async move {
                // Call and outcome are both held while something else is awaited.
                let run = group.run(key(), || async { value() });
                yield_now().await;
                let outcome = run.await;
                yield_now().await;
                drop(outcome);
            });
            tasks.join_all().await;

            let hasher = std::hash::RandomState::new();
            let hashed: Group<$key, $value, std::hash::RandomState> = Group::builder().hasher(hasher).build();
            tokio::spawn(async move { generic(&hashed, key(), value()).await.is_ok() }).await.unwrap();
        }
    )*};
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Route {
    method: &'static str,
    path: &'static [&'static str],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Tenant<T>(Cow<'static, str>, PhantomData<T>);

type DynError = dyn Error + Send + Sync;

all_forms! {
    plain: u8 = 1, u8 = 1;
    strings: String = "key".to_owned(), Vec<String> = vec![];
    static_str: &'static str = "key", &'static str = "value";
    static_slices: &'static [u8] = b"key", &'static [&'static str] = &["value"];
    cows: Cow<'static, str> = Cow::Borrowed("key"), Cow<'static, [u8]> = Cow::Borrowed(b"value");
    tuples: (&'static str, u64, Option<&'static str>) = ("key", 1, None), (u8, &'static str) = (1, "value");
    structs: Route = Route { method: "PUT", path: &["orders"] }, Option<Route> = None;
    generics: Tenant<&'static str> = Tenant("key".into(), PhantomData), Tenant<fn(&str) -> &str> = Tenant("value".into(), PhantomData);
    shared_errors: u8 = 1, Result<u8, Arc<DynError>> = Ok(1);
    shared_trait_objects: Arc<str> = "key".into(), Arc<dyn Any + Send + Sync> = Arc::new(1);
    callbacks: Box<str> = "key".into(), Arc<dyn for<'a> Fn(&'a str) -> &'a str + Send + Sync> = Arc::new(|text| text);
    function_pointers: fn(&str) -> usize = str::len, fn(&str) -> usize = str::len;
    arcs_of_boxes: Vec<&'static str> = vec!["key"], Arc<Box<DynError>> = Arc::new("value".into());
    io_results: Box<[u8]> = Box::new([]), Result<&'static str, Arc<io::Error>> = Ok("value");
}

/// Work that can fail: all forms of `try_run`, and of calls by reference.
macro_rules! fallible {
    ($($name:ident: $error:ty, $value:ty = $make_value:expr;)*) => {$(
        #[tokio::test]
        async fn $name() {
            fn value() -> $value {
                $make_value
            }

            let group: Group<&'static str, Result<$value, Arc<$error>>> = Group::new();
            let g = group.clone();
            tokio::spawn(async move {
                let work = || async { Ok::<_, $error>(value()) };
                assert!(g.try_run("key", work).await.is_ok());
                assert!(g.try_run("key", work).fingerprint(seven()).on_abandon(OnAbandon::Cancel).await.is_ok());
                assert!(join_all((0..3).map(|_| g.try_run("key", work))).await.iter().all(Result::is_ok));
                assert!(try_helper(&g, "key", value()).await.is_ok());
                let boxed: BoxFuture<'_, Result<_, TryError<$error>>> = Box::pin(g.try_run("key", work));
                assert!(boxed.await.is_ok());
                assert!(g.join(&"key").await.is_none());
            })
            .await
            .unwrap();

            let owned: Group<String, Result<$value, Arc<$error>>> = Group::new();
            tokio::spawn(async move {
                let key = "key".to_owned();
                let work = || async { Ok::<_, $error>(value()) };
                assert!(owned.try_run_by_ref("key", work).drive(Drive::Spawned).await.is_ok());
                assert!(owned.try_run_by_ref(key.as_str(), work).fingerprint(seven()).await.is_ok());
                assert!(owned.run_by_ref(&key, || async { Ok(value()) }).await.is_ok());
                assert!(owned.join("key").await.is_none());
            })
            .await
            .unwrap();
        }
    )*};
}

async fn try_helper<K, V, E>(group: &Group<K, Result<V, Arc<E>>>, key: K, value: V) -> Result<V, TryError<E>>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    Ok(group.try_run(key, || async { Ok(value) }).await?.value)
}

fallible! {
    io_errors: io::Error, u64 = 1;
    boxed_errors: Box<DynError>, &'static str = "value";
    static_errors: &'static str, Cow<'static, str> = Cow::Borrowed("value");
    nested_errors: TryError<Box<DynError>>, Arc<dyn Any + Send + Sync> = Arc::new(1);
}

fn request(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant").route("POST /orders"), key).unwrap()
}

async fn durable<S: Store, T>(idem: &Idempotency<S>, key: &str, value: T) -> Result<T, IdempotencyError>
where
    T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
{
    let reply = idem.run(request(key), |_| async { value }).await?;
    Ok((*reply).clone())
}

fn durable_spawned<S: Store>(idem: &Idempotency<S>) -> JoinHandle<Result<String, IdempotencyError>> {
    let idem = idem.clone();
    tokio::spawn(async move { durable(&idem, "spawned", String::from("value")).await })
}

#[tokio::test]
async fn durable_calls() {
    let idem = Idempotency::builder(MemoryStore::new()).build();
    tokio::spawn(async move {
        let words: &'static [&'static str] = &["four", "five"];
        let reply = idem.run(request("run"), move |_| async move { words.concat() }).await;
        assert_eq!(*reply.unwrap(), "fourfive");
        let failing = |_| async { Err::<Cow<'static, str>, _>(NotDone::because("not today").into()) };
        assert!(idem.try_run(request("try"), failing).await.is_err());
        assert_eq!(
            durable(&idem, "generic", Cow::Borrowed("value")).await.unwrap(),
            "value"
        );
        assert_eq!(durable_spawned(&idem).await.unwrap().unwrap(), "value");
        let many = (0..3).map(|n| {
            let idem = &idem;
            async move { idem.run(request(&n.to_string()), move |_| async move { n }).await }
        });
        assert!(join_all(many).await.iter().all(Result::is_ok));
        let boxed: Pin<Box<dyn Future<Output = Result<Option<u8>, IdempotencyError>> + Send + '_>> =
            Box::pin(async { Ok(*idem.run(request("boxed"), |_| async { Some(1) }).await?) });
        assert_eq!(boxed.await.unwrap(), Some(1));
        assert!(idem.status(&request("run")).await.unwrap().is_some());
        assert!(idem.in_doubt(10, None).await.unwrap().is_empty());
        idem.drain().await;
    })
    .await
    .unwrap();
}

/// Looks what a type is, without asking for it.
struct Probe<T>(PhantomData<T>);

impl<T> Probe<T> {
    fn of(_: &T) -> Self {
        Self(PhantomData)
    }
}

trait Otherwise {
    fn is_send(&self) -> bool {
        false
    }

    fn is_sync(&self) -> bool {
        false
    }
}

impl<T> Otherwise for Probe<T> {}

impl<T: Send> Probe<T> {
    fn is_send(&self) -> bool {
        true
    }
}

impl<T: Sync> Probe<T> {
    fn is_sync(&self) -> bool {
        true
    }
}

/// A key that is found by a part of it that no two threads may look at.
#[derive(PartialEq, Eq, Hash)]
struct Found(u8);

#[derive(PartialEq, Eq)]
struct By(Cell<u8>);

impl Hash for By {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.get().hash(state);
    }
}

impl Borrow<By> for Found {
    fn borrow(&self) -> &By {
        unreachable!("nothing is looked up here")
    }
}

#[derive(Default)]
struct LocalHasher(Rc<std::hash::RandomState>);

impl BuildHasher for LocalHasher {
    type Hasher = <std::hash::RandomState as BuildHasher>::Hasher;

    fn build_hasher(&self) -> Self::Hasher {
        self.0.build_hasher()
    }
}

/// A closure that cannot be sent, for work that can.
fn bound_here<T: Copy>(value: T) -> impl FnOnce() -> Ready<T> {
    let value = Rc::new(value);
    move || ready(*value)
}

#[test]
fn what_is_bound_to_a_thread_stays_there() {
    let group: Group<u8, u8> = Group::new();
    let work = || ready(1);
    assert!(Probe::of(&group).is_send() && Probe::of(&group).is_sync());
    let run = group.run(1, work);
    assert!(Probe::of(&run).is_send() && !Probe::of(&run).is_sync());
    let run = group.run(1, work).fingerprint(seven());
    assert!(Probe::of(&run).is_send() && !Probe::of(&run).is_sync());
    let run = group.run(1, bound_here(1));
    assert!(!Probe::of(&run).is_send());
    let run = group.run(1, bound_here(1)).fingerprint(seven()).drive(Drive::Spawned);
    assert!(!Probe::of(&run).is_send());
    let run = group.run_by_ref(&1, bound_here(1));
    assert!(!Probe::of(&run).is_send());
    let join = group.join(&1);
    assert!(Probe::of(&join).is_send() && !Probe::of(&join).is_sync());
    let drain = group.drain();
    assert!(Probe::of(&drain).is_send());

    let results: Group<u8, Result<u8, Arc<u8>>> = Group::new();
    let run = results.try_run(1, || ready(Ok(1)));
    assert!(Probe::of(&run).is_send() && !Probe::of(&run).is_sync());
    let run = results.try_run(1, bound_here(Ok(1)));
    assert!(!Probe::of(&run).is_send());

    let found: Group<Found, u8> = Group::new();
    let by = By(Cell::new(1));
    let join = found.join(&by);
    assert!(!Probe::of(&join).is_send());

    // Such groups are of no use, but can be made.
    let group: Group<Rc<u8>, u8> = Group::new();
    assert!(!Probe::of(&group).is_send() && !Probe::of(&group).is_sync());
    let group: Group<u8, Rc<u8>> = Group::new();
    assert!(!Probe::of(&group).is_send() && !Probe::of(&group).is_sync());
    let group: Group<Cell<u8>, u8> = Group::new();
    assert!(!Probe::of(&group).is_send() && !Probe::of(&group).is_sync());
    let group: Group<u8, Cell<u8>> = Group::new();
    assert!(!Probe::of(&group).is_send() && !Probe::of(&group).is_sync());
    let group: Group<u8, std::sync::MutexGuard<'static, u8>> = Group::new();
    assert!(!Probe::of(&group).is_send() && !Probe::of(&group).is_sync());
    let group: Group<u8, u8, _> = Group::builder().hasher(LocalHasher::default()).build();
    assert!(!Probe::of(&group).is_send() && !Probe::of(&group).is_sync());
}
