//! The `Retry-After` header of [RFC 9110, section 10.2.3](https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3), as a
//! client reads it.

use std::time::{Duration, SystemTime};

use http::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};
use httpdate::parse_http_date;

/// Returns how long the server wants to be left alone, if it says so and can be understood.
///
/// A date is compared with the response's own `Date`, so that it does not matter how the server's clock is set; without
/// one, with the clock of this machine.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name)?.to_str().ok().map(str::trim);
    let value = text(RETRY_AFTER)?;
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number that is too large to be read is longer than anybody waits.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let at = parse_http_date(value).ok()?;
    let now = text(DATE).and_then(|date| parse_http_date(date).ok());
    let left = at.duration_since(now.unwrap_or_else(SystemTime::now));
    // A date that is over asks for no time.
    Some(left.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(headers: &[(&'static str, &str)]) -> Option<Duration> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        retry_after(&map)
    }

    #[test]
    fn seconds_and_dates_are_read() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let date = ("date", "Fri, 31 Dec 1999 23:58:00 GMT");
        assert_eq!(read(&[("retry-after", "120")]), seconds(120));
        assert_eq!(read(&[("retry-after", "0")]), seconds(0));
        assert_eq!(read(&[("retry-after", "99999999999999999999999")]), seconds(u64::MAX));
        // The examples of the RFC.
        assert_eq!(
            read(&[date, ("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT")]),
            seconds(119)
        );
        assert_eq!(
            read(&[date, ("retry-after", "Fri, 31 Dec 1999 23:57:00 GMT")]),
            seconds(0)
        );
        // The obsolete formats, which a recipient has to accept (section 5.6.7).
        assert_eq!(
            read(&[date, ("retry-after", "Friday, 31-Dec-99 23:59:00 GMT")]),
            seconds(60)
        );
        assert_eq!(read(&[date, ("retry-after", "Fri Dec 31 23:59:00 1999")]), seconds(60));
    }

    #[test]
    fn a_date_without_the_servers_own_is_compared_with_our_clock() {
        let at = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3600));
        let left = read(&[("retry-after", &at)]).unwrap();
        assert!((3500..=3600).contains(&left.as_secs()), "{left:?}");
    }

    #[test]
    fn anything_else_is_nothing() {
        for value in ["", "soon", "-1", "1.5", "+1", "Fri, 31 Foo 1999 23:59:59 GMT"] {
            assert_eq!(read(&[("retry-after", value)]), None, "{value}");
        }
        assert_eq!(read(&[]), None);
    }
}
