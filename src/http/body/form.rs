//! The fields of a URL-encoded form.

use std::borrow::Cow;

/// A field of a form.
pub(crate) struct Field<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) value: Cow<'a, str>,
    /// The field as it was sent. What is not UTF-8 cannot be told apart in `name` and `value`.
    pub(crate) raw: &'a [u8],
}

impl Field<'_> {
    /// Whether name and value may have lost bytes that are not UTF-8.
    pub(crate) fn is_lossy(&self) -> bool {
        let replaced = |text: &str| text.contains(char::REPLACEMENT_CHARACTER);
        replaced(&self.name) || replaced(&self.value)
    }
}

/// Returns the fields in order.
pub(crate) fn fields(body: &[u8]) -> impl Iterator<Item = Field<'_>> {
    // The parser splits at the same places, and skips what is empty.
    body.split(|byte| *byte == b'&').filter_map(|raw| {
        let (name, value) = form_urlencoded::parse(raw).next()?;
        Some(Field { name, value, raw })
    })
}
