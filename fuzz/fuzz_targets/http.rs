//! Whole requests through the layer, from any bytes: never a 5xx that the handler did not answer, never a panic, and the same status
//! for the same request. `tests/http/fuzz.rs` has the same property, from pieces.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};

#[path = "../../tests/common/any_request.rs"]
mod any_request;

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
}

fuzz_target!(|input: &[u8]| {
    RUNTIME.with(|runtime| runtime.block_on(any_request::check(input)));
});
