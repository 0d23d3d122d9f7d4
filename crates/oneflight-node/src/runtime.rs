//! The runtime on which everything that takes time runs, and the promises that it settles.
//!
//! It is made when it is first needed and lives as long as the process. Its threads renew leases while JavaScript is busy.

use std::future::Future;
use std::sync::OnceLock;

use napi::bindgen_prelude::{Object, ToNapiValue};
use napi::{Env, Error, Result};
use tokio::runtime::{Builder, Handle, Runtime};

/// How many threads wait for stores and renew leases. None of them computes much.
const THREADS: usize = 2;

/// Returns the runtime.
pub(crate) fn handle() -> Result<Handle> {
    static RUNTIME: OnceLock<std::io::Result<Runtime>> = OnceLock::new();
    let made = RUNTIME.get_or_init(|| {
        Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("oneflight")
            .enable_all()
            .build()
    });
    match made {
        Ok(runtime) => Ok(runtime.handle().clone()),
        Err(error) => Err(Error::from_reason(format!("the threads cannot be started: {error}"))),
    }
}

/// Returns a promise that resolves to what the future returns. A panic of the future rejects it.
pub(crate) fn promise<'env, T, F>(env: &'env Env, future: F) -> Result<Object<'env>>
where
    T: ToNapiValue + Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let handle = handle()?;
    let (deferred, promise) = env.create_deferred()?;
    let done = handle.spawn(future);
    handle.spawn(async move {
        match done.await {
            Ok(value) => deferred.resolve(move |_| Ok(value)),
            Err(_) => deferred.reject(Error::from_reason(
                "a defect of oneflight: its code panicked; please report it",
            )),
        }
    });
    Ok(promise)
}
