//! Promise: what went wrong is told as a response of the framework.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use axum::http::header::CONTENT_TYPE;
use axum::http::{Response, StatusCode};
use oneflight::http::Problem;
use serde_json::Value;

fn body(problem: Problem) -> Value {
    let response: Response<String> = problem.into_response();
    serde_json::from_str(response.body()).unwrap()
}

#[test]
fn the_response_fits_the_framework() {
    let problem = || Problem::body_too_large(16);
    let text: Response<String> = problem().into_response();
    let bytes: Response<Vec<u8>> = problem().into();
    // What a handler of axum does with its error.
    let axum = axum::response::IntoResponse::into_response(problem());
    let hyper: Response<http_body_util::Full<axum::body::Bytes>> = problem().into_response();
    assert_eq!(text.body().as_bytes(), bytes.body());
    for headers in [text.headers(), axum.headers(), hyper.headers()] {
        assert_eq!(headers[CONTENT_TYPE], "application/problem+json");
        assert_eq!(headers["cache-control"], "no-store");
    }
    assert_eq!(text.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(body(problem())["limit"], 16);
}
