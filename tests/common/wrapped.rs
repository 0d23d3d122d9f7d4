//! Errors of `sqlx` inside of others, as applications have them.

use std::error::Error;
use std::fmt;

/// How work passes an error on.
#[derive(Clone, Copy, Debug)]
pub enum Wrapped {
    /// As it is.
    Bare,
    /// In a variant with `#[error(transparent)]` and `#[from]`.
    Transparent,
    /// As `anyhow::Error` that was made a `Box<dyn Error>`, which hides the type of what is in it.
    Boxed,
    /// One in the other.
    Both,
}

impl Wrapped {
    pub const ALL: [Self; 4] = [Self::Bare, Self::Transparent, Self::Boxed, Self::Both];

    pub fn wrap(self, error: sqlx::Error) -> Box<dyn Error + Send + Sync> {
        match self {
            Self::Bare => Box::new(error),
            Self::Transparent => Box::new(Transparent::Db(error)),
            Self::Boxed => Box::new(Opaque(Box::new(error))),
            Self::Both => Box::new(Opaque(Box::new(Transparent::Db(error)))),
        }
    }
}

#[derive(Debug)]
enum Transparent {
    Db(sqlx::Error),
}

impl fmt::Display for Transparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Db(error) = self;
        error.fmt(f)
    }
}

impl Error for Transparent {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        let Self::Db(error) = self;
        error.source()
    }
}

#[derive(Debug)]
struct Opaque(Box<dyn Error + Send + Sync>);

impl fmt::Display for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Opaque {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}
