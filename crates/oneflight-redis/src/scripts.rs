//! The scripts that run inside the server: one a step, each all there is to one round trip.
//!
//! They stand in files of their own, behind a prelude that reads a record. The server knows a script by its digest
//! once it has seen it. If it has forgotten the script (a restart, `SCRIPT FLUSH`, a failover), it is sent it again.

use std::sync::LazyLock;

/// A script and its digest.
pub(super) struct Script {
    pub(super) text: &'static str,
    pub(super) digest: String,
    /// It may be given what several steps need, one after the other.
    pub(super) takes_several: bool,
}

impl Script {
    fn new(text: &'static str) -> Self {
        let digest = redis::Script::new(text).get_hash().to_owned();
        Self {
            text,
            digest,
            takes_several: false,
        }
    }

    fn of_several(text: &'static str) -> Self {
        Self {
            takes_several: true,
            ..Self::new(text)
        }
    }
}

macro_rules! scripts {
    ($($make:ident $name:ident: $($file:literal)+,)*) => {$(
        pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::$make(concat!($(include_str!(concat!("scripts/", $file))),+)));
    )*};
}

// A function that a script does not need is not made for it: that is done anew at each call.
scripts! {
    of_several CLAIM: "prelude.lua" "rewrite.lua" "claim.lua",
    new RENEW: "prelude.lua" "rewrite.lua" "renew.lua",
    new END_LEASE: "prelude.lua" "rewrite.lua" "end_lease.lua",
    of_several COMPLETE: "prelude.lua" "complete.lua",
    new RELEASE: "prelude.lua" "release.lua",
    new LOAD: "prelude.lua" "load.lua",
    new IN_PROGRESS: "in_progress.lua",
    new HOLD: "prelude.lua" "rewrite.lua" "hold.lua",
    new ERASE: "prelude.lua" "erase.lua",
    new SCAN: "scan.lua",
}
