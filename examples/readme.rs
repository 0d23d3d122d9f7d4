//! The README's programs, as tests.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
