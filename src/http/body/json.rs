//! The members of a JSON object, each with its text as it was sent.
//!
//! `serde_json` decides what is JSON and what a string says. What it cannot give is the text of a number: as a value, two
//! large integers become one `f64`. So the text, once it is known to be JSON, is cut into its values here.

use std::borrow::Cow;
use std::error::Error;
use std::ops::Range;

use serde::de::IgnoredAny;

/// The maximum depth of lists and objects whose members are sorted, which is that of `serde_json`.
const DEPTH: usize = 128;

/// A text that is JSON (RFC 8259).
#[derive(Clone, Copy)]
pub(crate) struct Json<'a>(&'a str);

/// A member of an object.
pub(crate) struct Member<'a> {
    pub(crate) name: Cow<'a, str>,
    /// The value as it was sent.
    pub(crate) value: &'a str,
}

impl<'a> Json<'a> {
    /// Returns the body if it is JSON. The error says what was expected and where, without the content.
    pub(crate) fn read(body: &'a [u8]) -> Result<Self, Box<dyn Error + Send + Sync>> {
        // The parser looks into texts that it skips for quotes only, and JSON is UTF-8 throughout.
        let text = std::str::from_utf8(body)?;
        serde_json::from_str::<IgnoredAny>(text)?;
        Ok(Self(text))
    }

    /// Returns the members in order if this is an object.
    ///
    /// A name that is no text (it has half a surrogate pair) is an error.
    pub(crate) fn members(self) -> Result<Option<Vec<Member<'a>>>, serde_json::Error> {
        let mut reader = Reader(self.0);
        let mut members = Vec::new();
        if !reader.opens(b'{') {
            return Ok(None);
        }
        while !reader.closes(b'}') {
            let name = text(reader.value())?;
            let value = reader.member_value();
            members.push(Member { name, value });
        }
        Ok(Some(members))
    }

    /// Returns the same JSON with the members of each object sorted by name, without those of the outermost object that
    /// `leave_out` accepts, without white space, and with each string escaped in the same way. Numbers stay as they are.
    ///
    /// Returns `None` if an object has two members of one name, a string is no text, or the nesting is too deep.
    pub(crate) fn sorted(self, leave_out: impl Fn(&str) -> bool) -> Option<Vec<u8>> {
        let mut sorted = Sorted {
            reader: Reader(self.0),
            out: Vec::with_capacity(self.0.len()),
        };
        sorted.value(DEPTH, &leave_out)?;
        Some(sorted.out)
    }
}

/// Returns what a JSON string says.
pub(crate) fn text(raw: &str) -> Result<Cow<'_, str>, serde_json::Error> {
    let plain = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"'));
    match plain.filter(|plain| !plain.contains('\\')) {
        Some(plain) => Ok(Cow::Borrowed(plain)),
        None => serde_json::from_str(raw).map(Cow::Owned),
    }
}

/// What is left of a text that is known to be JSON.
struct Reader<'a>(&'a str);

impl<'a> Reader<'a> {
    fn skip_space(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    fn opens(&mut self, bracket: u8) -> bool {
        self.skip_space();
        self.skip(bracket)
    }

    /// Whether a list or an object ends here; if it does not, the comma before its next item is skipped.
    fn closes(&mut self, bracket: u8) -> bool {
        self.skip_space();
        if self.skip(b',') {
            self.skip_space();
        }
        self.0.is_empty() || self.skip(bracket)
    }

    fn skip(&mut self, byte: u8) -> bool {
        let found = self.0.as_bytes().first() == Some(&byte);
        if found {
            self.0 = &self.0[1..];
        }
        found
    }

    /// Reads the value of a member whose name was read.
    fn member_value(&mut self) -> &'a str {
        self.skip_colon();
        self.value()
    }

    fn skip_colon(&mut self) {
        self.skip_space();
        self.skip(b':');
        self.skip_space();
    }

    /// Reads a value of any kind as it was sent. There is no limit to its depth.
    fn value(&mut self) -> &'a str {
        let bytes = self.0.as_bytes();
        let mut depth = 0_usize;
        let mut at = 0;
        loop {
            match bytes.get(at) {
                None => break,
                Some(b'"') => at = end_of_string(bytes, at),
                Some(b'[' | b'{') => {
                    depth += 1;
                    at += 1;
                }
                Some(b']' | b'}') => {
                    depth = depth.saturating_sub(1);
                    at += 1;
                }
                Some(b',' | b':' | b' ' | b'\t' | b'\n' | b'\r') => at += 1,
                Some(_) => at = end_of_word(bytes, at),
            }
            if depth == 0 {
                break;
            }
        }
        let (value, rest) = self.0.split_at(at);
        self.0 = rest;
        value
    }
}

/// Returns where the string ends that begins at `at`.
fn end_of_string(bytes: &[u8], mut at: usize) -> usize {
    at += 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Returns where the number, or one of `true`, `false` and `null`, ends that begins at `at`.
fn end_of_word(bytes: &[u8], at: usize) -> usize {
    let is_end = |byte: &u8| matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r');
    bytes[at..].iter().position(is_end).map_or(bytes.len(), |end| at + end)
}

struct Sorted<'a> {
    reader: Reader<'a>,
    out: Vec<u8>,
}

impl Sorted<'_> {
    fn value(&mut self, depth: usize, leave_out: &dyn Fn(&str) -> bool) -> Option<()> {
        if self.reader.opens(b'{') {
            self.object(depth.checked_sub(1)?, leave_out)
        } else if self.reader.opens(b'[') {
            self.list(depth.checked_sub(1)?)
        } else {
            let raw = self.reader.value();
            if raw.starts_with('"') {
                serde_json::to_writer(&mut self.out, &text(raw).ok()?).ok()?;
            } else {
                self.out.extend_from_slice(raw.as_bytes());
            }
            Some(())
        }
    }

    fn list(&mut self, depth: usize) -> Option<()> {
        self.out.push(b'[');
        while !self.reader.closes(b']') {
            self.value(depth, &|_| false)?;
            self.out.push(b',');
        }
        self.out.push(b']');
        Some(())
    }

    fn object(&mut self, depth: usize, leave_out: &dyn Fn(&str) -> bool) -> Option<()> {
        self.out.push(b'{');
        let start = self.out.len();
        let mut members: Vec<(Cow<'_, str>, Range<usize>)> = Vec::new();
        while !self.reader.closes(b'}') {
            let name = text(self.reader.value()).ok()?;
            let from = self.out.len();
            if leave_out(&name) {
                self.reader.member_value();
            } else {
                serde_json::to_writer(&mut self.out, &name).ok()?;
                self.out.push(b':');
                self.reader.skip_colon();
                self.value(depth, &|_| false)?;
                self.out.push(b',');
            }
            members.push((name, from - start..self.out.len() - start));
        }
        if !members.is_sorted_by(|(one, _), (other, _)| one < other) {
            members.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
            if members.windows(2).any(|pair| pair[0].0 == pair[1].0) {
                return None;
            }
            let as_sent = self.out.split_off(start);
            for (_, range) in members {
                self.out.extend_from_slice(&as_sent[range]);
            }
        }
        self.out.push(b'}');
        Some(())
    }
}
