//! Tells the linker that Node has what this library calls.

fn main() {
    napi_build::setup();
}
