//! Errors of the server as they are shown: without the line of PostgreSQL's own source that they come from.
//!
//! `sqlx` shows that line as if it were one of the statement's (`… at line 3312`). What is shown here is the server's message; for
//! programs, everything is there as before: it is an `sqlx::Error`, with its code and all that can be asked of it.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use sqlx::error::{DatabaseError, ErrorKind};

/// Returns the same error, which shows no line of PostgreSQL's source.
pub(super) fn quiet(error: sqlx::Error) -> sqlx::Error {
    match error {
        sqlx::Error::Database(error) => sqlx::Error::Database(Box::new(Quiet(error))),
        error => error,
    }
}

struct Quiet(Box<dyn DatabaseError>);

impl fmt::Display for Quiet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.message())
    }
}

/// What a server says in detail may have values of a row in it, so it is left out.
impl fmt::Debug for Quiet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseError")
            .field("code", &self.0.code())
            .field("message", &self.0.message())
            .field("table", &self.0.table())
            .field("constraint", &self.0.constraint())
            .finish_non_exhaustive()
    }
}

impl Error for Quiet {}

impl DatabaseError for Quiet {
    fn message(&self) -> &str {
        self.0.message()
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        self.0.code()
    }

    fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
        self.0.as_error()
    }

    fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
        self.0.as_error_mut()
    }

    fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
        self.0.into_error()
    }

    fn is_transient_in_connect_phase(&self) -> bool {
        self.0.is_transient_in_connect_phase()
    }

    fn constraint(&self) -> Option<&str> {
        self.0.constraint()
    }

    fn table(&self) -> Option<&str> {
        self.0.table()
    }

    fn kind(&self) -> ErrorKind {
        self.0.kind()
    }
}
