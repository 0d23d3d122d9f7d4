//! Server Actions of Next, versions 15 and 16: each happens once, whether a script or a plain form sends it.
//!
//! ```text
//! POST with Next-Action ───────────▶ fetch ─┐
//!      multipart with $ACTION_… ───▶ form ──┤
//!      anything else ─▶ the route's layer   │
//!                                           ▼
//!                intent (which action, key, fingerprint of the user's fields)
//!                                           │
//!                                           ▼
//!                layer (executed once) ─▶ called (what the answer says of the action) ─▶ backend
//!                                           │
//!                                           ▼
//!                answer (as the one who asks can read it) ◀── page (what went wrong, in words)
//! ```
//!
//! How actions are sent is React's affair (`encodeReply`, `decodeAction`), and how they are answered is Next's (its
//! `action-handler` and `server-action-reducer`). Only this folder knows either.

mod answer;
mod called;
mod intent;
mod page;
mod parts;
mod read;
mod service;
#[cfg(test)]
mod tests;

pub(super) use service::{ActionsLayer, ActionsService};
