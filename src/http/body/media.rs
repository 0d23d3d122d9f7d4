//! The media type of a body, in a form in which two that say the same are equal.

use http::HeaderMap;
use http::header::CONTENT_TYPE;

/// What the `Content-Type` header says (RFC 9110, section 8.3).
pub(crate) enum MediaType {
    /// One type, in lower case, with its parameters sorted by name.
    Known {
        essence: String,
        parameters: Vec<(String, String)>,
    },
    /// Anything else: no type, several, or one that cannot be parsed. These are its values as they were sent.
    AsSent(Vec<Vec<u8>>),
}

impl MediaType {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let values = headers.get_all(CONTENT_TYPE);
        let mut all = values.iter();
        let parsed = match (all.next(), all.next()) {
            (Some(value), None) => value.to_str().ok().and_then(|text| text.parse::<mime::Mime>().ok()),
            _ => None,
        };
        let Some(media_type) = parsed else {
            return Self::AsSent(values.iter().map(|value| value.as_bytes().to_vec()).collect());
        };
        let mut parameters: Vec<_> = media_type
            .params()
            .map(|(name, value)| parameter(name.as_str(), value.as_str()))
            // What is the default of JSON and forms says nothing.
            .filter(|(name, value)| !(name == "charset" && value == "utf-8"))
            .collect();
        parameters.sort_unstable();
        Self::Known {
            essence: media_type.essence_str().to_ascii_lowercase(),
            parameters,
        }
    }
}

fn parameter(name: &str, value: &str) -> (String, String) {
    let name = name.to_ascii_lowercase();
    let value = match &*name {
        "charset" => value.to_ascii_lowercase(),
        _ => value.to_owned(),
    };
    (name, value)
}
