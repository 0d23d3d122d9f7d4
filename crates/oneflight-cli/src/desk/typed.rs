//! Answers that a person gives or looks at: JSON as it is typed, and what other codecs have written as it is recorded.

use std::error::Error;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oneflight::idempotency::{Codec, Format};
use serde::de::IgnoredAny;

use crate::exit::{Code, Failure};

/// Writes and reads JSON as it stands, to the digit and the order of its members, and shows what others have written.
pub(crate) struct AsTyped;

impl Format for AsTyped {
    const NAME: &'static str = "json";
}

impl Codec<Vec<u8>> for AsTyped {
    fn encode(&self, text: &Vec<u8>) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
        Ok(text.clone())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
        Ok(bytes.to_vec())
    }

    fn decode_foreign(&self, _: &str, bytes: &[u8]) -> Option<Result<Vec<u8>, Box<dyn Error + Send + Sync>>> {
        Some(Ok(bytes.to_vec()))
    }
}

/// What the work answered, as a person has found out.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "answers", multiple = false)]
pub(super) struct Answer {
    /// It was done, and this is its answer: JSON, as the work would have returned it (null if it returns nothing)
    #[arg(long, value_name = "JSON")]
    answer: Option<String>,
    /// It was done, and its answer is the JSON in this file (- for standard input)
    #[arg(long, value_name = "FILE")]
    answer_file: Option<PathBuf>,
}

impl Answer {
    /// Returns the JSON, if there is any.
    pub(super) fn json(&self) -> Result<Option<Vec<u8>>, Failure> {
        let text = match (&self.answer, &self.answer_file) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(path)) => read(path)?,
            (None, None) => return Ok(None),
        };
        // Not as a value, which would round numbers and sort members.
        serde_json::from_slice::<IgnoredAny>(&text).map_err(|error| {
            Failure::new(
                Code::Data,
                format!("the answer is no JSON: {error}; a text stands in quotes"),
            )
        })?;
        Ok(Some(text.trim_ascii().to_vec()))
    }
}

/// Reads how long something is kept. What is kept for no time is not kept, and its work would run again.
pub(super) fn lasting(text: &str) -> Result<Duration, String> {
    let kept = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match kept.is_zero() {
        false => Ok(kept),
        true => Err("what is kept for no time is forgotten at once, and the next call runs the work again; say how long, as in 24h".to_owned()),
    }
}

/// Reads a file, or standard input.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = match path.as_os_str() == "-" {
        true => std::io::stdin().lock().read_to_end(&mut bytes).map(drop),
        false => std::fs::read(path).map(|read| bytes = read),
    };
    let failed = |error| Failure::new(Code::NoInput, format!("{} cannot be read: {error}", path.display()));
    read.map_err(failed)?;
    Ok(bytes)
}
