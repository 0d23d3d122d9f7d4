//! A function of JavaScript that is called from any thread, and the end of the thread that it belongs to.
//!
//! What is still queued when that thread ends is never dropped: Node hands the queue back without an environment, and the
//! binding leaks it. So what waits for an answer also waits for the end of the function itself, after which nothing of its
//! thread is called or told.

use napi::Status;
use napi::bindgen_prelude::{Function, JsValuesTupleIntoVec};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode, UnknownReturnValue};
use tokio::sync::{oneshot, watch};

/// A function of JavaScript that is called with a `T`. `WEAK` ones do not keep their thread alive.
pub(crate) struct Callback<T: JsValuesTupleIntoVec + 'static, const WEAK: bool> {
    function: ThreadsafeFunction<T, UnknownReturnValue, T, Status, false, WEAK>,
    /// Its sender goes with the function, and so with the thread.
    end: watch::Receiver<()>,
}

impl<T: JsValuesTupleIntoVec + 'static, const WEAK: bool> Callback<T, WEAK> {
    /// Makes a function callable from any thread.
    pub(crate) fn new(function: &Function<'_, T, UnknownReturnValue>) -> napi::Result<Self> {
        let (until_the_end, end) = watch::channel(());
        let builder = function.build_threadsafe_function::<T>().weak::<WEAK>();
        let function = builder.build_callback(move |call| {
            let _ = &until_the_end;
            Ok(call.value)
        })?;
        Ok(Self { function, end })
    }

    /// Queues a call. Returns whether the thread is there.
    pub(crate) fn call(&self, value: T) -> bool {
        self.function.call(value, ThreadsafeFunctionCallMode::NonBlocking) == Status::Ok
    }

    /// Waits for the answer to a call. Returns `None` once there can be none.
    pub(crate) async fn answer<A>(&self, mut answer: oneshot::Receiver<A>) -> Option<A> {
        let mut end = self.end.clone();
        tokio::select! {
            biased;
            told = &mut answer => told.ok(),
            // Nothing is sent by it.
            _ = end.changed() => answer.try_recv().ok(),
        }
    }
}
