//! What a server says of itself, when it is asked by `INFO`.

/// What a server says of itself: lines of a name, a colon and a value.
pub(super) struct Info(pub(super) String);

impl Info {
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        let mut lines = self.0.lines();
        lines.find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))
    }

    pub(super) fn number(&self, name: &str) -> u64 {
        self.text(name).and_then(|number| number.parse().ok()).unwrap_or(0)
    }
}
