//! The answer as the one who asks can read it.
//!
//! A script of Next's reads a payload of React's, a redirect by `x-action-redirect`, or a text of 400 and above, with which the
//! action's promise rejects. To all else it says that the response was unexpected. A browser that has sent a form reads a page, and
//! follows a `Location`.
//!
//! | answered when called by | asked now by | what it gets |
//! | --- | --- | --- |
//! | either | the same | the recorded answer |
//! | a script: a redirect | a form | 303 to where it led |
//! | a script: a payload | a form | 303 to the page, which shows what is |
//! | a script: an error | a form | a page that says so |
//! | a form: a redirect | a script | `x-action-redirect` to where it led |
//! | a form: a page | a script | `x-action-redirect` to the page |
//! | a form: an error | a script | a text that says so |

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use oneflight::http::layer::{IDEMPOTENCY_ORIGIN, IDEMPOTENCY_ORIGINAL_DATE, IDEMPOTENCY_REPLAYED};
use oneflight::http::{Problem, X_CORRELATION_ID, kind};
use serde_json::Value;

use super::super::body::Body;
use super::super::forward::NOT_SENT;
use super::called::{ACTION_REDIRECT, CALLED_BY, redirect};
use super::intent::Call;
use super::page::{self, Words};

const PROBLEM: &str = "application/problem+json";

/// How the browser is led on by a script.
enum Led {
    Push,
    Replace,
}

/// Returns an answer in the form that `call` can read. `page` is where it was sent to.
pub(super) async fn readable(call: Call, page: &str, mut answer: Response<Body>) -> Response<Body> {
    let recorded = Call::recorded(answer.headers());
    let to = match recorded {
        Some(Call::Fetch) => redirect(answer.headers()).map(str::to_owned),
        _ => location(answer.headers()),
    };
    answer.headers_mut().remove(CALLED_BY);
    if is_problem(answer.headers()) {
        return of_problem(call, page, to, answer).await;
    }
    let Some(recorded) = recorded else { return answer };
    if recorded == Call::Fetch {
        // It was added for an outcome without a body, and a script would follow it.
        answer.headers_mut().remove(LOCATION);
    }
    let status = answer.status();
    match (recorded, call) {
        (Call::Fetch, Call::Fetch) | (Call::Form, Call::Form) => answer,
        _ if status.as_u16() >= 400 => say(call, page, status, &page::FAILED_BEFORE, &answer),
        (_, Call::Form) => see_other(to.as_deref().unwrap_or(page), &answer),
        (_, Call::Fetch) => match to {
            Some(to) => lead(&to, Led::Push, &answer),
            None => lead(page, Led::Replace, &answer),
        },
    }
}

/// Says in words what went wrong before the layer was asked.
pub(super) fn told(call: Call, page: &str, problem: Problem) -> Response<Body> {
    let head: Response<String> = problem.clone().into_response();
    let words = page::words(problem.type_uri(), problem.detail());
    say(call, page, problem.status(), &words, &head)
}

fn is_problem(lines: &HeaderMap) -> bool {
    lines
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes() == PROBLEM.as_bytes())
}

fn location(lines: &HeaderMap) -> Option<String> {
    lines.get(LOCATION)?.to_str().ok().map(str::to_owned)
}

/// Says in words what the layer answers by itself.
async fn of_problem(call: Call, page: &str, to: Option<String>, answer: Response<Body>) -> Response<Body> {
    let (parts, body) = answer.into_parts();
    let bytes = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let problem: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let member = |name| problem.get(name).and_then(Value::as_str);
    let uri = member("type").unwrap_or_default();
    let head = Response::from_parts(parts, ());
    // It was done, and what it answered is not known any more.
    if uri == kind::OUTCOME_ONLY && head.status().as_u16() < 400 {
        return match (call, to) {
            (Call::Form, to) => see_other(to.as_deref().unwrap_or(page), &head),
            (Call::Fetch, Some(to)) => lead(&to, Led::Push, &head),
            (Call::Fetch, None) => lead(page, Led::Replace, &head),
        };
    }
    let words = page::words(uri, member("detail"));
    say(call, page, head.status(), &words, &head)
}

/// Makes an answer in words: a page, or the text with which the action's promise rejects.
fn say<B>(call: Call, page: &str, status: StatusCode, words: &Words<'_>, of: &Response<B>) -> Response<Body> {
    let (body, media_type) = match call {
        Call::Form => (page::html(words, page), "text/html; charset=utf-8"),
        // Next compares it with this, and with nothing behind.
        Call::Fetch => (words.text.to_owned(), "text/plain"),
    };
    made(status, body, &[(CONTENT_TYPE, media_type)], of)
}

fn see_other<B>(to: &str, of: &Response<B>) -> Response<Body> {
    made(StatusCode::SEE_OTHER, String::new(), &[(LOCATION, to)], of)
}

/// Leads on a browser whose script asked. Without a payload it loads what it is led to.
fn lead<B>(to: &str, how: Led, of: &Response<B>) -> Response<Body> {
    let to = match how {
        Led::Push => format!("{to};push"),
        Led::Replace => format!("{to};replace"),
    };
    let lines = [(ACTION_REDIRECT, to.as_str()), (CONTENT_TYPE, "text/plain")];
    made(StatusCode::OK, String::new(), &lines, of)
}

/// Makes an answer in place of another one, of which it keeps what is not of the form.
fn made<B>(status: StatusCode, body: String, lines: &[(HeaderName, &str)], of: &Response<B>) -> Response<Body> {
    const KEPT: [HeaderName; 6] = [
        RETRY_AFTER,
        X_CORRELATION_ID,
        IDEMPOTENCY_ORIGIN,
        IDEMPOTENCY_REPLAYED,
        IDEMPOTENCY_ORIGINAL_DATE,
        NOT_SENT,
    ];
    let mut answer = Response::new(Body::from(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    for (name, value) in lines {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name.clone(), value);
        }
    }
    headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.remove(CONTENT_LENGTH);
    for name in KEPT {
        if let Some(value) = of.headers().get(&name) {
            headers.insert(name, value.clone());
        }
    }
    answer
}
