//! Why a backend gave no answer, and what may have reached it.

use std::fmt;

use super::super::body::BoxError;

/// An exchange without an answer.
#[derive(Debug)]
pub(in super::super) struct Failure {
    pub(in super::super) reason: Reason,
    pub(in super::super) sent: Sent,
    pub(in super::super) source: Option<BoxError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Reason {
    /// No connection could be made.
    Connect,
    /// The connection is not one over which it is certain who is at the other end.
    Untrusted(Untrusted),
    /// The connection ended, or what came over it was no HTTP.
    Broken,
    /// No answer came in time.
    TimedOut,
}

/// What is wrong with a connection over TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "tls"),
    expect(dead_code, reason = "there is no TLS without the feature")
)]
pub(in super::super) enum Untrusted {
    /// The certificate is of another name.
    Name,
    /// Nobody who is trusted has signed it.
    Issuer,
    /// It has expired, or is not valid yet.
    Time,
    /// It is not understood, or is no TLS at all.
    Other,
}

/// What the backend may know of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Sent {
    /// Not a byte of it left.
    Nothing,
    /// Some of it left: whether it was read, nobody knows.
    Something,
}

impl Reason {
    /// Returns its name, as it is counted.
    pub(in super::super) fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Untrusted(_) => "tls",
            Self::Broken => "broken",
            Self::TimedOut => "timed_out",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.reason {
            Reason::Connect => "the backend cannot be reached",
            Reason::Untrusted(_) => "no secure connection to the backend can be made",
            Reason::Broken => "the backend ended the connection without an answer",
            Reason::TimedOut => "the backend did not answer in time",
        })?;
        if self.sent == Sent::Something {
            f.write_str(" after the request was sent")?;
        }
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}
