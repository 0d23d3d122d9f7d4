//! What a person may say that a job came to: what the next call can end with.

use oneflight::correlation::CorrelationId;

use super::recording::Recorded;

/// The scope of a job that has none of its own.
pub(super) const SCOPE: &str = "exec";

/// What to say in place of what is none.
const SAY: &str = "say what it ended with, such as --answer '{\"exit\": 0}'";

/// Whether a request is a job of `oneflight exec`, as far as its scope or the correlation id of its run tells.
pub(crate) fn is_one(scope: &str, correlation_id: Option<&CorrelationId>) -> bool {
    scope == SCOPE || correlation_id.is_some_and(|id| is_a_run(id.as_str()))
}

/// Whether this is what a run is called that was given no other correlation id: `exec-<machine>-<process>-<8 digits>`.
fn is_a_run(id: &str) -> bool {
    let Some((rest, part)) = id.strip_prefix("exec-").and_then(|rest| rest.rsplit_once('-')) else {
        return false;
    };
    let process = rest.rsplit_once('-').map_or("", |(_, process)| process);
    let is_process = !process.is_empty() && process.bytes().all(|byte| byte.is_ascii_digit());
    is_process && part.len() == 8 && part.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Says why the next call could not end with this, which is JSON, or an answer of HTTP.
pub(crate) fn misfit(json: Option<&[u8]>) -> Option<String> {
    let why = match json.map(serde_json::from_slice::<Recorded>) {
        Some(Ok(recorded)) => match recorded.is_sound() {
            true => return None,
            false => "its output is no base64".to_owned(),
        },
        Some(Err(error)) => error.to_string(),
        None => "that is an answer of HTTP".to_owned(),
    };
    Some(format!(
        "It is a job of oneflight exec, which could not end with this ({why}): {SAY}."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_known_by_its_scope_or_by_its_run() {
        let is_one = |scope, id: &str| is_one(scope, Some(&CorrelationId::new(id).unwrap()));
        assert!(is_one("exec", "nightly") && is_one("backup", "exec-web-1-4711-5f2c7a01"));
        for other in [
            "exec-4711-5f2c7a01",
            "exec-web1-5f2c7a01",
            "exec-web1-4711-5f2c",
            "web1-4711-5f2c7a01",
        ] {
            assert!(!is_one("backup", other), "{other}");
        }
        assert!(!super::is_one("tenant-7|route=POST /orders", None));
    }

    #[test]
    fn what_a_job_can_end_with_has_a_status() {
        for sound in [r#"{"exit":0}"#, r#"{"exit":3,"output":[{"stdout":"a"}]}"#] {
            assert_eq!(misfit(Some(sound.as_bytes())), None, "{sound}");
        }
        for wrong in [
            "0",
            "null",
            r#"{"exit":"x"}"#,
            r#"{"exit":300}"#,
            r#"{"exit":0,"output":[{"stdout_base64":"?"}]}"#,
        ] {
            let told = misfit(Some(wrong.as_bytes())).unwrap();
            assert!(told.contains("--answer '{\"exit\": 0}'"), "{wrong}: {told}");
        }
        assert!(misfit(None).unwrap().contains("HTTP"));
    }
}
