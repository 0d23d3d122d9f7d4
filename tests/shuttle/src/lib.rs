//! The scenarios stand in `tests/`; run them with `bin/shuttle`.
