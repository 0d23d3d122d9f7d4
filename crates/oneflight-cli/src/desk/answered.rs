//! Answers of HTTP that a person gives, as far as they cannot be replayed as they were given.

use http::header::{CONNECTION, HeaderMap, HeaderName};
use http::{Response, StatusCode};

/// What the HTTP layer makes anew for each answer, or keeps for the client whose request was executed: it records none of these.
const NEVER: [&str; 29] = [
    // Of a connection.
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-authentication-info",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "alt-svc",
    // Of a message.
    "date",
    "age",
    "content-length",
    "server-timing",
    "x-request-id",
    "x-correlation-id",
    "traceparent",
    "tracestate",
    "traceresponse",
    "idempotency-origin",
    "idempotency-replayed",
    "idempotent-replayed",
    "idempotency-original-date",
    // Of a session or a user agent.
    "set-cookie",
    "set-cookie2",
    "authentication-info",
    "clear-site-data",
    "accept-ch",
];

/// Says why requests could not be answered with this as it stands.
pub(crate) fn misfit<B: AsRef<[u8]>>(answer: &Response<B>) -> Option<String> {
    let status = answer.status();
    // An answer below 200 only announces one, and a client would wait for that.
    if !(200..=599).contains(&status.as_u16()) {
        return Some(format!(
            "the status {} ends no request: say one of 200 to 599",
            status.as_u16()
        ));
    }
    let has_no_body = matches!(
        status,
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
    );
    if has_no_body && !answer.body().as_ref().is_empty() {
        return Some(format!(
            "an answer of the status {} has no body: leave it out",
            status.as_u16()
        ));
    }
    let mut never: Vec<&str> = Vec::new();
    for name in answer
        .headers()
        .keys()
        .filter(|name| is_never_replayed(name, answer.headers()))
    {
        never.push(name.as_str());
    }
    match &*never {
        [] => None,
        [one] => Some(format!("the header {one} is never replayed: leave it out")),
        several => Some(format!(
            "the headers {} are never replayed: leave them out",
            several.join(", ")
        )),
    }
}

fn is_never_replayed(name: &HeaderName, all: &HeaderMap) -> bool {
    let named = all.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let is_named = || {
        named
            .flat_map(|value| value.split(','))
            .any(|it| it.trim().eq_ignore_ascii_case(name.as_str()))
    };
    NEVER.contains(&name.as_str()) || name.as_str().starts_with("access-control-") || is_named()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use oneflight::http::layer::RecordedAnswer;
    use oneflight::idempotency::Unknown;
    use oneflight::store::Store;
    use oneflight::{Idempotency, MemoryStore, RequestIdentity, Scope};

    use super::*;

    fn answer(status: u16, lines: &[(&str, &str)], body: &'static str) -> Response<&'static str> {
        let answer = Response::builder().status(status);
        let lines = lines
            .iter()
            .fold(answer, |answer, (name, value)| answer.header(*name, *value));
        lines.body(body).unwrap()
    }

    /// Returns the lines that are recorded of an answer.
    async fn recorded(given: Response<&'static str>) -> HeaderMap {
        let store = MemoryStore::new();
        let idem = Idempotency::builder(store.clone()).settle(Duration::ZERO).build();
        let id = RequestIdentity::new(Scope::new("tenant-7"), "a7f3").unwrap();
        let work = |_| async { Err::<(), _>(Unknown::because("the line broke off").into()) };
        idem.try_run(id.clone(), work).await.unwrap_err();
        idem.resolve_answered(&id, given).await.unwrap();
        let record = store.load(&id).await.unwrap().unwrap();
        RecordedAnswer::read(record.result().unwrap()).unwrap().unwrap().headers
    }

    #[tokio::test]
    async fn what_is_turned_away_is_what_the_layer_does_not_record() {
        let mut lines: Vec<_> = NEVER.iter().map(|name| (*name, "x-hop")).collect();
        lines.extend([
            ("access-control-max-age", "1"),
            ("x-hop", "1"),
            ("location", "/a"),
            ("x-own", "1"),
        ]);
        let kept = recorded(answer(200, &lines, "")).await;
        for (name, _) in lines {
            let alone = answer(200, &[("connection", "x-hop"), (name, "1")], "");
            let told = misfit(&alone).unwrap();
            assert_eq!(told.contains(name), !kept.contains_key(name), "{name}: {told}");
        }
        assert_eq!(kept.len(), 2, "{kept:?}");
    }

    #[test]
    fn what_can_be_replayed_has_nothing_wrong() {
        assert_eq!(misfit(&answer(201, &[("location", "/a"), ("x-own", "1")], "{}")), None);
        assert_eq!(misfit(&answer(204, &[], "")), None);
        assert!(misfit(&answer(204, &[], "x")).unwrap().contains("no body"));
        assert!(misfit(&answer(700, &[], "")).unwrap().contains("200 to 599"));
        let told = misfit(&answer(200, &[("set-cookie", "a=1"), ("date", "x")], "")).unwrap();
        assert_eq!(told, "the headers set-cookie, date are never replayed: leave them out");
    }
}
