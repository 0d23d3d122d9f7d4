//! Which of many renewals go together, where one may be at fault for all.

use std::mem;

use super::renewal::Renewal;

/// How often a message may fail before what is left goes alone: as often as some six of a thousand are at fault.
const FAILURES: usize = 64;

/// Finds those among many renewals that make a message fail: what has failed is halved, and halved again.
///
/// One of a thousand costs some 20 messages, and the others are renewed together all the same. If many are at fault, what is
/// left goes alone.
///
/// A store whose server rejects a message for what one record is puts its messages together with this.
///
/// ```
/// use oneflight::store::{Renewal, RenewalParts, StoreError};
///
/// # async fn ask(_renewals: &[Renewal]) -> Result<(), StoreError> { Ok(()) }
/// /// Renews many, of which one may be at fault. `ask` sends a message.
/// async fn renew(renewals: Vec<Renewal>) {
///     let mut parts = RenewalParts::of(renewals);
///     while let Some(part) = parts.next() {
///         match ask(&part).await {
///             Err(_) if part.len() > 1 => parts.failed(part),
///             renewed => part.into_iter().for_each(|it| it.answer(renewed.clone())),
///         }
///     }
/// }
/// ```
#[derive(Debug)]
pub struct RenewalParts {
    /// The last is the next.
    parts: Vec<Vec<Renewal>>,
    failures: usize,
}

impl RenewalParts {
    /// Begins with one message for all.
    #[must_use]
    pub fn of(renewals: Vec<Renewal>) -> Self {
        Self {
            parts: vec![renewals],
            failures: 0,
        }
    }

    /// Has renewals whose message has failed, so that nothing was changed, go in smaller ones.
    pub fn failed(&mut self, mut renewals: Vec<Renewal>) {
        self.failures += 1;
        let half = renewals.split_off(renewals.len() / 2);
        self.parts.extend([half, renewals]);
        if self.failures >= FAILURES {
            self.part();
        }
    }

    /// Has all that is left go alone.
    pub fn part(&mut self) {
        let left = mem::take(&mut self.parts).into_iter().flatten();
        self.parts = left.map(|renewal| vec![renewal]).collect();
    }
}

/// The renewals of the next message. One alone is not given back: nobody else is at fault.
impl Iterator for RenewalParts {
    type Item = Vec<Renewal>;

    fn next(&mut self) -> Option<Vec<Renewal>> {
        loop {
            let mut next = self.parts.pop()?;
            next.retain(Renewal::is_wanted);
            if !next.is_empty() {
                return Some(next);
            }
        }
    }
}
