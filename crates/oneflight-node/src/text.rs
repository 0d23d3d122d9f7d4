//! What is recorded: JSON that JavaScript has written, as it is.

use std::error::Error;
use std::fmt;

use oneflight::idempotency::{Codec, Format};

/// What the work of a JavaScript closure answers.
#[derive(Clone)]
pub(crate) enum Answer {
    /// JSON.
    Text(String),
    /// The closure answered something that JSON cannot keep. The text says what and where, not the value.
    NotJson(String),
}

/// Writes JSON that is there already. It has the name of the crate's own JSON, so that either reads what the other wrote.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text;

/// Why an answer cannot be encoded.
#[derive(Debug)]
pub(crate) struct NotJson(pub(crate) String);

impl fmt::Display for NotJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for NotJson {}

impl Format for Text {
    const NAME: &'static str = "json";
}

impl Codec<Answer> for Text {
    fn encode(&self, value: &Answer) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
        match value {
            Answer::Text(json) => Ok(json.as_bytes().to_vec()),
            Answer::NotJson(why) => Err(NotJson(why.clone()).into()),
        }
    }

    fn decode(&self, bytes: &[u8]) -> Result<Answer, Box<dyn Error + Send + Sync>> {
        match str::from_utf8(bytes) {
            Ok(json) => Ok(Answer::Text(json.to_owned())),
            Err(_) => Err("it is not UTF-8".into()),
        }
    }
}
