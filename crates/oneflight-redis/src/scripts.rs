//! The scripts that run inside the server: one a step, each all there is to one round trip.
//!
//! They stand in files of their own, behind one prelude that reads a record. The server knows a script by its digest
//! once it has seen it. If it has forgotten the script (a restart, `SCRIPT FLUSH`, a failover), it is sent it again.

use std::sync::LazyLock;

/// A script and its digest.
pub(super) struct Script {
    pub(super) text: &'static str,
    pub(super) digest: String,
}

impl Script {
    fn new(text: &'static str) -> Self {
        let digest = redis::Script::new(text).get_hash().to_owned();
        Self { text, digest }
    }
}

macro_rules! scripts {
    ($($name:ident: $file:literal,)*) => {$(
        pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(concat!(include_str!("scripts/prelude.lua"), include_str!($file))));
    )*};
}

scripts! {
    CLAIM: "scripts/claim.lua",
    RENEW: "scripts/renew.lua",
    END_LEASE: "scripts/end_lease.lua",
    COMPLETE: "scripts/complete.lua",
    RELEASE: "scripts/release.lua",
    LOAD: "scripts/load.lua",
    IN_PROGRESS: "scripts/in_progress.lua",
    HOLD: "scripts/hold.lua",
    ENTRY: "scripts/entry.lua",
    ERASE: "scripts/erase.lua",
    SCAN: "scripts/scan.lua",
}
