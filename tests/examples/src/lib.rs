//! The programs of the README and of the page about HTTP, as tests.

#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../../../docs/http.md")]
struct Http;
