//! How a call of a [procedure](super::procedures) goes to the server, with its values.
//!
//! Usually the call is prepared once in each session, and its values are bound. Where a pooler shares sessions, nothing
//! that was prepared is certain to exist later. There the values stand in the text, and it is one message of the
//! *simple protocol*, which leaves nothing behind. It is one round trip either way. What stands in such a text is kept out of the
//! application's own log.
//!
//! What such a text says must not depend on the session, whatever was set in it. So it is all ASCII, which means the
//! same in every encoding that a client may have. Texts and bytes stand there in hexadecimal digits, in strings with
//! escapes (`E'…'`), which mean the same whatever `standard_conforming_strings` says. Every type is named.

use std::fmt::{self, Write};
use std::pin::Pin;

use sqlx::postgres::{PgArguments, PgConnection, PgRow, Postgres};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use super::names::Names;
use super::procedures::Procedure;
use super::sql::{LEAVE, PATH, PLAIN};
use super::unheard::Unheard;

/// A value that a statement is given.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Text(&'a str),
    Bytes(Option<&'a [u8]>),
    Number(i64),
    /// A number, or null.
    Maybe(Option<i64>),
    Flag(bool),
    Texts(&'a [&'a str]),
    ManyBytes(&'a [Option<&'a [u8]>]),
    Numbers(&'a [i64]),
}

/// The value as a literal.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Value::Text(text) => {
                let bytes = Value::Bytes(Some(text.as_bytes()));
                write!(f, "pg_catalog.convert_from({bytes}, 'UTF8')")
            }
            Value::Bytes(Some(bytes)) => {
                f.write_str(r"E'\\x")?;
                for byte in bytes {
                    for digit in [byte >> 4, byte & 15] {
                        f.write_char(char::from(b"0123456789abcdef"[usize::from(digit)]))?;
                    }
                }
                f.write_str("'::pg_catalog.bytea")
            }
            Value::Bytes(None) => f.write_str("NULL::pg_catalog.bytea"),
            Value::Number(number) | Value::Maybe(Some(number)) => write!(f, "'{number}'::pg_catalog.int8"),
            Value::Maybe(None) => f.write_str("NULL::pg_catalog.int8"),
            Value::Flag(flag) => write!(f, "'{flag}'::pg_catalog.bool"),
            Value::Texts(texts) => array(f, texts.iter().copied().map(Value::Text), "text"),
            Value::ManyBytes(all) => array(f, all.iter().copied().map(Value::Bytes), "bytea"),
            Value::Numbers(numbers) => array(f, numbers.iter().copied().map(Value::Number), "int8"),
        }
    }
}

fn array<'a>(f: &mut fmt::Formatter<'_>, values: impl Iterator<Item = Value<'a>>, of: &str) -> fmt::Result {
    f.write_str("ARRAY[")?;
    for (place, value) in values.enumerate() {
        let comma = if place > 0 { ", " } else { "" };
        write!(f, "{comma}{value}")?;
    }
    write!(f, "]::pg_catalog.{of}[]")
}

/// The calls of one procedure.
#[derive(Debug)]
pub(super) struct Calls {
    name: String,
    answers: usize,
    prepared: SqlStr,
}

impl Calls {
    pub(super) fn of(procedure: &Procedure, names: &Names) -> Self {
        let (name, answers) = (names.of(procedure.name), procedure.answers.len());
        let parameters = (1..=procedure.takes.len()).map(|number| format!("${number}"));
        Self {
            prepared: AssertSqlSafe(text(&name, parameters, answers)).into_sql_str(),
            name,
            answers,
        }
    }

    /// A call: prepared, or with its values in the text.
    pub(super) fn message(&self, prepares: bool, values: &[Value<'_>]) -> Message {
        match prepares {
            true => self.bound(values),
            false => self.written(values),
        }
    }

    /// A call whose values are bound.
    pub(super) fn bound(&self, values: &[Value<'_>]) -> Message {
        let call = sqlx::query(self.prepared.clone());
        Message::Bound(values.iter().fold(call, |call, value| match *value {
            Value::Text(text) => call.bind(text),
            Value::Bytes(bytes) => call.bind(bytes),
            Value::Number(number) => call.bind(number),
            Value::Maybe(number) => call.bind(number),
            Value::Flag(flag) => call.bind(flag),
            Value::Texts(texts) => call.bind(texts),
            Value::ManyBytes(all) => call.bind(all),
            Value::Numbers(numbers) => call.bind(numbers),
        }))
    }

    /// A call whose values stand in its text.
    pub(super) fn written(&self, values: &[Value<'_>]) -> Message {
        Message::Written(text(&self.name, values.iter().map(ToString::to_string), self.answers))
    }
}

fn text(procedure: &str, values: impl Iterator<Item = String>, answers: usize) -> String {
    let answers = (0..answers).map(|_| "NULL".to_owned());
    let arguments: Vec<String> = values.chain(answers).collect();
    format!("CALL {procedure}({})", arguments.join(", "))
}

/// A call of a function of ours whose values stand in its text.
pub(super) fn function(name: &str, values: &[Value<'_>]) -> String {
    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
    format!("SELECT {name}({})", values.join(", "))
}

/// The server's answer.
pub(super) type Answer<'c> = Pin<Box<dyn Future<Output = sqlx::Result<Vec<PgRow>>> + Send + 'c>>;

/// What is put to the server in one round trip.
pub(super) enum Message {
    Bound(Query<'static, Postgres, PgArguments>),
    Written(String),
}

impl Message {
    /// A plain statement, outside of any transaction that was left open.
    pub(super) fn outside(statement: &str) -> Self {
        Self::Written(format!("{LEAVE}; {PLAIN}; {PATH}; {statement}"))
    }

    /// Puts it to the server, and returns the answer. Boxed: the compiler limits how deep the futures of a user's handler are
    /// nested, and those of `sqlx` are deep.
    pub(super) fn put_to(self, connection: &mut PgConnection) -> Answer<'_> {
        Box::pin(async move {
            match self {
                Self::Bound(query) => query.fetch_all(connection).await,
                Self::Written(text) => Unheard::new(sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(connection)).await,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_say_the_same_whatever_is_in_them() {
        let expected = [
            (
                Value::Text("a7"),
                r"pg_catalog.convert_from(E'\\x6137'::pg_catalog.bytea, 'UTF8')",
            ),
            (
                Value::Text(""),
                r"pg_catalog.convert_from(E'\\x'::pg_catalog.bytea, 'UTF8')",
            ),
            (Value::Bytes(Some(b"\x00\x7f\xff")), r"E'\\x007fff'::pg_catalog.bytea"),
            (Value::Bytes(Some(b"")), r"E'\\x'::pg_catalog.bytea"),
            (Value::Bytes(None), "NULL::pg_catalog.bytea"),
            (Value::Number(-1), "'-1'::pg_catalog.int8"),
            (Value::Number(i64::MIN), "'-9223372036854775808'::pg_catalog.int8"),
            (Value::Maybe(Some(7)), "'7'::pg_catalog.int8"),
            (Value::Maybe(None), "NULL::pg_catalog.int8"),
            (Value::Flag(true), "'true'::pg_catalog.bool"),
            (
                Value::Texts(&["a7", ""]),
                r"ARRAY[pg_catalog.convert_from(E'\\x6137'::pg_catalog.bytea, 'UTF8'), pg_catalog.convert_from(E'\\x'::pg_catalog.bytea, 'UTF8')]::pg_catalog.text[]",
            ),
            (Value::Texts(&[]), "ARRAY[]::pg_catalog.text[]"),
            (
                Value::ManyBytes(&[None, Some(b"\x00")]),
                r"ARRAY[NULL::pg_catalog.bytea, E'\\x00'::pg_catalog.bytea]::pg_catalog.bytea[]",
            ),
            (
                Value::Numbers(&[-1, 7]),
                "ARRAY['-1'::pg_catalog.int8, '7'::pg_catalog.int8]::pg_catalog.int8[]",
            ),
            (Value::Numbers(&[]), "ARRAY[]::pg_catalog.int8[]"),
        ];
        for (value, literal) in expected {
            assert_eq!(value.to_string(), literal);
        }
    }

    #[test]
    fn nothing_in_a_text_or_in_bytes_gets_out_of_its_literal() {
        let nasty = [
            "'",
            "''",
            r"\",
            r"\'",
            r"'\''",
            "'); DROP TABLE orders; --",
            "$$",
            "/*",
            "--",
            "\n",
            "\0",
            r"\x41",
            "E'",
            "é\\",
            "表'",
            "\u{10FFFF}",
            "\u{2019}",
            "::",
            ";",
            "%",
            "{}",
            "$1",
        ];
        for text in nasty {
            for value in [Value::Text(text), Value::Bytes(Some(text.as_bytes()))] {
                let literal = value.to_string();
                let (_, digits) = literal.split_once(r"E'\\x").unwrap();
                let (digits, _) = digits.split_once('\'').unwrap();
                let read: Vec<u8> = (0..digits.len())
                    .step_by(2)
                    .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
                    .collect();
                assert_eq!(read, text.as_bytes(), "{literal}");
                // Nothing else in it comes from the value.
                let frame = literal.replace(digits, "");
                assert!(
                    [Value::Text("").to_string(), Value::Bytes(Some(b"")).to_string()].contains(&frame),
                    "{literal}"
                );
            }
        }
    }
}
