//! The dashboard.
#[test]
fn nothing() {}
