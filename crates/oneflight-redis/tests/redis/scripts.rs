//! What scripts do where a clock or a key is not as they expect it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use redis::cmd;

use crate::server::{prefix, server};

const CLAIM: &str = concat!(
    // The script believes that this is the server's clock: some seconds before there were ten digits of them.
    "local server = redis\n",
    "local redis = { pcall = server.pcall, call = function(name, ...)\n",
    "    if name == 'TIME' then return { '999999999', '7' } end\n",
    "    return server.call(name, ...)\n",
    "end }\n",
    include_str!("../../src/scripts/prelude.lua"),
    include_str!("../../src/scripts/rewrite.lua"),
    include_str!("../../src/scripts/claim.lua"),
);

#[tokio::test]
async fn a_token_has_all_its_digits_whatever_the_clock_says() {
    let mut connection = server().connection().await;
    let prefix = prefix();
    let mut claim = cmd("EVAL");
    claim.arg(CLAIM).arg(3);
    for key in ["{1}:k", "{1}.token", "{1}.open"] {
        claim.arg(format!("{prefix}{key}"));
    }
    claim.arg(&["0", "1000", "never", "0000000000000000", "holder-of-16-by.0000"]);
    let token: String = claim.query_async(&mut connection).await.unwrap();
    assert_eq!(token, "0999999999000007");
}
