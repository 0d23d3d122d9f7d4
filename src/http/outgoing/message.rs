//! The requests that can be sent again, and the responses that say whether they are to be.

use http::header::HeaderMap;
use http::{Method, Request, Response, StatusCode};

mod sealed {
    pub trait Sealed {}

    impl<B: Clone> Sealed for http::Request<B> {}
    impl<B> Sealed for http::Response<B> {}

    #[cfg(feature = "reqwest")]
    impl Sealed for reqwest::Request {}
    #[cfg(feature = "reqwest")]
    impl Sealed for reqwest::Response {}
}

/// A request that an [`OutgoingLayer`](super::layer::OutgoingLayer) passes on: `http::Request<B>`, where `B` is `Clone`, and
/// under the feature `reqwest` a `reqwest::Request`. It cannot be implemented elsewhere.
pub trait OutgoingRequest: sealed::Sealed + Sized {
    /// Returns the method.
    fn method(&self) -> &Method;

    /// Returns the headers, to be added to.
    fn headers_mut(&mut self) -> &mut HeaderMap;

    /// Returns the same request again, unless its body can be read only once.
    fn try_clone(&self) -> Option<Self>;
}

/// A response to such a request: `http::Response<B>`, and under the feature `reqwest` a `reqwest::Response`. It cannot be
/// implemented elsewhere.
pub trait OutgoingResponse: sealed::Sealed {
    /// Returns the status.
    fn status(&self) -> StatusCode;

    /// Returns the headers.
    fn headers(&self) -> &HeaderMap;
}

impl<B: Clone> OutgoingRequest for Request<B> {
    fn method(&self) -> &Method {
        self.method()
    }

    fn headers_mut(&mut self) -> &mut HeaderMap {
        self.headers_mut()
    }

    fn try_clone(&self) -> Option<Self> {
        Some(self.clone())
    }
}

impl<B> OutgoingResponse for Response<B> {
    fn status(&self) -> StatusCode {
        self.status()
    }

    fn headers(&self) -> &HeaderMap {
        self.headers()
    }
}

#[cfg(feature = "reqwest")]
impl OutgoingRequest for reqwest::Request {
    fn method(&self) -> &Method {
        self.method()
    }

    fn headers_mut(&mut self) -> &mut HeaderMap {
        self.headers_mut()
    }

    fn try_clone(&self) -> Option<Self> {
        self.try_clone()
    }
}

#[cfg(feature = "reqwest")]
impl OutgoingResponse for reqwest::Response {
    fn status(&self) -> StatusCode {
        self.status()
    }

    fn headers(&self) -> &HeaderMap {
        self.headers()
    }
}
