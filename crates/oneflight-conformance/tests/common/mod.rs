//! The frame in which a store with a defect is held to a suite.
#![allow(dead_code, reason = "each test uses its part")]

use std::fmt::Debug;

use oneflight_conformance::Failure;

/// Said of a defect that another check may come upon first.
pub const ANY: &str = "";

/// Fails unless each defect has the suite fail, at the check that is named beside it.
pub async fn each_is_found<D: Copy + Debug>(
    defects: impl IntoIterator<Item = (D, &'static str)>,
    suite: impl AsyncFn(D) -> Result<(), Failure>,
) {
    for (defect, check) in defects {
        let Err(failure) = suite(defect).await else {
            panic!("{defect:?} passes")
        };
        println!("{defect:?}: {failure}");
        assert!(
            check == ANY || failure.check() == check,
            "{defect:?} is to be found by {check}: {failure}"
        );
    }
}
