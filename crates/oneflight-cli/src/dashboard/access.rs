//! Who may look and change: the token that lets in, and the sessions of those who gave it.
//!
//! Sessions are in memory, and end with the process. Of a token and of a session's id only the digest is kept, so that to compare
//! takes the same time whatever is given, and a dump of the memory lets nobody in.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use oneflight::Fingerprint;
use parking_lot::Mutex;
use subtle::ConstantTimeEq;

use super::attempts::Attempts;

/// The fewest bytes of a token.
const SHORTEST: usize = 16;
/// How long a session lasts.
pub(super) const SESSION: Duration = Duration::from_secs(8 * 60 * 60);
/// How many sessions there are at most. The oldest makes room.
const SESSIONS: usize = 64;

/// A token of so many bytes cannot be guessed, however often that is tried. So nobody is locked out for trying: behind a reverse proxy,
/// all who come share an address.
const NOT_GUESSED: usize = 32;

/// What lets in.
pub(super) struct Token {
    digest: Fingerprint,
    guessing: Guessing,
}

/// Whether a token could be found by trying.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Guessing {
    Hopeless,
    Possible,
}

impl Token {
    pub(super) fn new(text: &str) -> Result<Self, String> {
        match text.len() {
            ..SHORTEST => Err(format!(
                "the token has {} bytes, and takes at least {SHORTEST}; make one by: openssl rand -hex 32",
                text.len()
            )),
            length => Ok(Self {
                digest: Fingerprint::of(text),
                guessing: match length {
                    ..NOT_GUESSED => Guessing::Possible,
                    _ => Guessing::Hopeless,
                },
            }),
        }
    }
}

/// What somebody may do.
pub(super) enum Permission {
    /// There is no token: everybody who can reach the page may look.
    ReadOnly,
    /// There is one, and nobody is logged in here.
    Nothing,
    /// Somebody who gave the token.
    Everything(Session),
}

/// Somebody who gave the token.
#[derive(Clone)]
pub(super) struct Session {
    /// What each change has to carry.
    pub(super) csrf: String,
    /// What the log calls the session: no part of its id.
    pub(super) name: String,
    ends: Instant,
}

/// A session that was begun.
pub(super) struct Begun {
    /// What the browser keeps.
    pub(super) id: String,
    pub(super) session: Session,
}

/// Why nobody is let in.
pub(super) enum Denied {
    /// It is another token.
    Wrong,
    /// It was tried too often.
    TooOften(Duration),
    /// The system gave no random numbers.
    NoRandomness,
}

pub(super) struct Access {
    token: Option<Token>,
    sessions: Mutex<HashMap<[u8; 32], Session>>,
    attempts: Mutex<Attempts>,
}

impl Access {
    pub(super) fn new(token: Option<Token>) -> Self {
        Self {
            token,
            sessions: Mutex::default(),
            attempts: Mutex::default(),
        }
    }

    /// Returns what may be done with this session id, if any was sent.
    pub(super) fn of(&self, id: Option<&str>) -> Permission {
        if self.token.is_none() {
            return Permission::ReadOnly;
        }
        let session = id.and_then(|id| {
            let sessions = self.sessions.lock();
            sessions.get(Fingerprint::of(id).as_bytes()).cloned()
        });
        match session.filter(|session| session.ends > Instant::now()) {
            Some(session) => Permission::Everything(session),
            None => Permission::Nothing,
        }
    }

    /// Begins a session for who gives the token.
    pub(super) fn log_in(&self, given: &str, from: IpAddr) -> Result<Begun, Denied> {
        let now = Instant::now();
        let is_counted = self
            .token
            .as_ref()
            .is_some_and(|token| token.guessing == Guessing::Possible);
        if is_counted || self.token.is_none() {
            self.attempts.lock().ask(from, now).map_err(Denied::TooOften)?;
        }
        let is_right = self
            .token
            .as_ref()
            .is_some_and(|token| bool::from(Fingerprint::of(given).as_bytes().ct_eq(token.digest.as_bytes())));
        if !is_right {
            return Err(Denied::Wrong);
        }
        self.attempts.lock().succeeded(from);
        let random = || random().ok_or(Denied::NoRandomness);
        let (id, csrf, name) = (random()?, random()?, random()?);
        let session = Session {
            csrf,
            name: name.chars().take(8).collect(),
            ends: now + SESSION,
        };
        let mut sessions = self.sessions.lock();
        sessions.retain(|_, session| session.ends > now);
        if sessions.len() >= SESSIONS
            && let Some(oldest) = sessions
                .iter()
                .min_by_key(|(_, session)| session.ends)
                .map(|(digest, _)| *digest)
        {
            sessions.remove(&oldest);
        }
        sessions.insert(*Fingerprint::of(&id).as_bytes(), session.clone());
        Ok(Begun { id, session })
    }

    pub(super) fn log_out(&self, id: &str) {
        self.sessions.lock().remove(Fingerprint::of(id).as_bytes());
    }
}

impl Session {
    /// Returns whether this is what a change of this session carries.
    pub(super) fn has_csrf(&self, given: &str) -> bool {
        self.csrf.as_bytes().ct_eq(given.as_bytes()).into()
    }
}

/// 32 random bytes of the operating system's.
fn random() -> Option<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).ok()?;
    Some(Fingerprint::from_digest(bytes).to_string())
}
