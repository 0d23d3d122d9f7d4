//! What an operator types as the answer of what was done: JSON, or an answer of HTTP. It is recorded as it stands.

use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::problem::Problem;
use crate::desk::answered;

/// An answer of HTTP, as it is sent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Answer {
    status: u16,
    #[serde(default)]
    content_type: String,
    /// Other header lines, `name: value` each.
    #[serde(default)]
    headers: String,
    body: String,
}

impl Answer {
    pub(super) fn read(self) -> Result<Response<String>, Problem> {
        let status = StatusCode::from_u16(self.status);
        let status = status.map_err(|_| Problem::invalid("the status is one of 200 to 599"))?;
        let mut answer = Response::new(self.body);
        *answer.status_mut() = status;
        let content_type = self.content_type.trim();
        if !content_type.is_empty() {
            let value = content_type
                .parse::<HeaderValue>()
                .map_err(|_| Problem::invalid("the content type is a media type, such as application/json"))?;
            answer.headers_mut().insert(header::CONTENT_TYPE, value);
        }
        for (at, line) in self.headers.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let (name, value) = line_of(line)
                .ok_or_else(|| Problem::invalid(format!("line {} of the headers is no `name: value`", at + 1)))?;
            if name == header::CONTENT_TYPE && answer.headers().contains_key(&name) {
                return Err(Problem::invalid(
                    "the content type is said twice: leave one of them out",
                ));
            }
            answer.headers_mut().append(name, value);
        }
        match answered::misfit(&answer) {
            Some(told) => Err(Problem::invalid(told)),
            None => Ok(answer),
        }
    }
}

fn line_of(line: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(':')?;
    Some((name.trim().parse().ok()?, value.trim().parse().ok()?))
}

/// Returns JSON as it was typed: a value would round its numbers and sort its members.
pub(super) fn json(text: &str) -> Result<Vec<u8>, Problem> {
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        Problem::invalid(format!(
            "the value is no JSON: look at line {line}, column {column}; a text stands in quotes"
        ))
    })?;
    Ok(text.trim().as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, content_type: &str, headers: &str) -> Result<Response<String>, String> {
        let answer = Answer {
            status,
            content_type: content_type.to_owned(),
            headers: headers.to_owned(),
            body: "{}".to_owned(),
        };
        answer.read().map_err(|problem| problem.message().to_owned())
    }

    #[test]
    fn an_answer_has_the_lines_that_were_typed() {
        let answer = read(201, "application/json", "Location: /orders/8\r\n\nVary: a\n vary : b\n").unwrap();
        assert_eq!((answer.status(), answer.body().as_str()), (StatusCode::CREATED, "{}"));
        let lines: Vec<_> = answer
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        let expected: [(&str, &[u8]); 4] = [
            ("content-type", b"application/json"),
            ("location", b"/orders/8"),
            ("vary", b"a"),
            ("vary", b"b"),
        ];
        assert_eq!(lines, expected);
        let other = read(203, "", "content-type: text/html").unwrap();
        assert_eq!(other.headers()[header::CONTENT_TYPE], "text/html");
    }

    #[test]
    fn what_is_no_answer_is_told_by_its_place() {
        for (answer, told) in [
            (read(199, "", ""), "200 to 599"),
            (read(600, "", ""), "200 to 599"),
            (read(204, "", ""), "no body"),
            (read(200, "", "Set-Cookie: a=1"), "set-cookie is never replayed"),
            (read(200, "a\nb", ""), "content type"),
            (read(200, "", "Location: /a\nno colon"), "line 2"),
            (read(200, "", "two words: a"), "line 1"),
            (read(200, "", "a: \u{1}"), "line 1"),
            (read(200, "text/html", "Content-Type: text/plain"), "twice"),
        ] {
            let problem = answer.unwrap_err();
            assert!(problem.contains(told), "{problem}");
        }
        assert_eq!(json(" 12345678901234567890.10 ").unwrap(), b"12345678901234567890.10");
        assert!(json("ch_1").unwrap_err().message().contains("column 1"));
    }
}
