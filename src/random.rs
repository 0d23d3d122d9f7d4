//! Random bytes that differ between processes, and what is named by them. They are no secrets.

use std::hash::{BuildHasher, RandomState};
use std::time::SystemTime;

use crate::backoff::random_u64;

/// Draws 16 bytes from the operating system's random numbers. A process and its copy (after a fork, or from a snapshot of a
/// machine) draw different ones.
pub(crate) fn random_bytes() -> [u8; 16] {
    let mut bytes = [0; 16];
    if getrandom::fill(&mut bytes).is_err() {
        // No system that we know lacks them. The process and the time tell copies apart as well.
        let here_and_now = RandomState::new().hash_one((std::process::id(), SystemTime::now()));
        bytes[..8].copy_from_slice(&here_and_now.to_be_bytes());
        bytes[8..].copy_from_slice(&random_u64().to_be_bytes());
    }
    bytes
}

/// Makes a random UUID (version 4, [RFC 9562, section 5.4](https://www.rfc-editor.org/rfc/rfc9562#section-5.4)) as text.
pub(crate) fn random_uuid() -> String {
    let mut bytes = random_bytes();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let mut text = format!("{:032x}", u128::from_be_bytes(bytes));
    for hyphen in [8, 13, 18, 23] {
        text.insert(hyphen, '-');
    }
    text
}
