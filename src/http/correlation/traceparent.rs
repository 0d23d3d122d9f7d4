//! The `traceparent` header of
//! [W3C Trace Context, level 1, section 3.2](https://www.w3.org/TR/trace-context-1/#traceparent-header).
//!
//! Only its trace id is of interest here. Spans and sampling are for those that trace.

/// Returns the trace id of a `traceparent`, or `None` if that is not well formed.
///
/// A version that is not known is read as far as version `00` goes, as section 3.2.4 wants it.
pub(super) fn trace_id(value: &str) -> Option<&str> {
    const LENGTH: usize = 55;

    if value.len() > LENGTH && (value.starts_with("00") || value.as_bytes()[LENGTH] != b'-') {
        return None;
    }
    let mut fields = value.get(..LENGTH)?.split('-');
    let mut field = |length: usize| {
        let field = fields.next()?;
        let is_hex = field.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (field.len() == length && is_hex).then_some(field)
    };
    let (version, trace, parent, _flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
    let is_zero = |field: &str| field.bytes().all(|byte| byte == b'0');
    (version != "ff" && !is_zero(trace) && !is_zero(parent)).then_some(trace)
}

#[cfg(test)]
mod tests {
    use super::trace_id;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn what_is_well_formed_has_a_trace_id() {
        for rest in ["", "-what-comes-in-later-versions", "-"] {
            let version = if rest.is_empty() { "00" } else { "cc" };
            let value = format!("{version}-{TRACE}-00f067aa0ba902b7-01{rest}");
            assert_eq!(trace_id(&value), Some(TRACE), "{value}");
        }
        let unknown_flags = format!("00-{TRACE}-00f067aa0ba902b7-ff");
        assert_eq!(trace_id(&unknown_flags), Some(TRACE));
    }

    #[test]
    fn anything_else_has_none() {
        let zeros = "0".repeat(32);
        for value in [
            String::new(),
            TRACE.to_owned(),
            format!("00-{TRACE}-00f067aa0ba902b7"),
            format!("00-{TRACE}-00f067aa0ba902b7-0"),
            format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            format!("cc-{TRACE}-00f067aa0ba902b7-01more"),
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{zeros}-00f067aa0ba902b7-01"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
            format!("00_{TRACE}_00f067aa0ba902b7_01"),
            format!("0-0{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{TRACE}-00f067aa0ba902b7-0é"),
        ] {
            assert_eq!(trace_id(&value), None, "{value}");
        }
    }
}
