//! An answer that goes to its own client while it is collected for the record and for the others.
//!
//! ```text
//!              ┌─ends──────────▶ whole ───────────┐
//! collecting ──┼─meets a limit─▶ the rest ─ends───┼──▶ the record's outcome is known ──▶ the client sees the end
//!              └─breaks off────▶ broken ──────────┘
//! ```
//!
//! The bytes are held once. The client takes them from where they are collected, as fast as it can, and never holds that up. What
//! comes behind a limit is not collected, and is read by the client alone.
//!
//! The end of the body waits until it is known what became of the record: a client that has seen an answer to its end finds it
//! replayed. If it was not recorded, the body ends with an error. What shows a client the end is that of the body, and with a
//! `Content-Length` its last byte.

use std::error::Error;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;

use super::body::{self, Collect, Ended, FromBody, Part, Pieces, Read, Whole};

type BoxError = Box<dyn Error + Send + Sync>;

/// As much is copied for the client at a time.
const PIECE: usize = 64 * 1024;

/// What the reading of an answer came to.
pub(super) enum Sent<A: Body> {
    /// It did not have to be waited for, so that nothing was sent.
    Kept(Read<A>),
    /// All of it was sent, or will be.
    Whole(Whole),
    /// It met a limit: its client reads the rest.
    Part,
    Broken,
}

/// Reads an answer within limits. If that has to wait, `begin` is called once, with a body of what comes.
pub(super) async fn read<A: FromBody>(
    mut body: A,
    length: Option<&HeaderValue>,
    limit: usize,
    time: Duration,
    begin: impl FnOnce(Through<A>),
) -> Sent<A> {
    let hint = body.size_hint();
    let declared = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let shared = Shared {
        read: Collected::Pieces(Pieces::default()),
        length: hint.exact().or(declared),
        state: State::Collecting,
        outcome: None,
        client: None,
    };
    let mut collector = Collector(Arc::new(Mutex::new(shared)));
    let client = Arc::clone(&collector.0);
    let mut begin = Some(begin);
    let ended = {
        let mut collecting = pin!(body::collect(&mut body, &mut collector, limit, time));
        poll_fn(|cx| {
            let polled = collecting.as_mut().poll(cx);
            if polled.is_pending()
                && let Some(begin) = begin.take()
            {
                begin(Through::new(Arc::clone(&client), hint));
            }
            polled
        })
        .await
    };
    match (ended, begin) {
        (Ended::End(trailers), Some(_)) => {
            let bytes = collector.taken().joined();
            Sent::Kept(Read::Whole(Whole { bytes, trailers }))
        }
        (Ended::Limit, Some(_)) => Sent::Kept(Read::Part(Part::new(collector.taken(), body))),
        (Ended::Broken(error), Some(_)) => Sent::Kept(Read::Broken(error)),
        (Ended::End(trailers), None) => {
            let bytes = collector.joined();
            collector.ends(State::Whole(trailers.clone()));
            Sent::Whole(Whole { bytes, trailers })
        }
        (Ended::Limit, None) => {
            collector.ends(State::Rest(body));
            Sent::Part
        }
        (Ended::Broken(error), None) => {
            collector.ends(State::Broken(error));
            Sent::Broken
        }
    }
}

/// What the reading of an answer and its client share.
struct Shared<A: Body> {
    read: Collected,
    /// How long the body is, if that is known.
    length: Option<u64>,
    state: State<A>,
    outcome: Option<Result<(), BoxError>>,
    client: Option<Waker>,
}

enum Collected {
    Pieces(Pieces),
    Joined(Bytes),
}

enum State<A: Body> {
    Collecting,
    Whole(Option<HeaderMap>),
    /// The client has not taken it yet.
    Rest(A),
    /// The client reads the rest.
    Taken,
    Broken(A::Error),
}

impl Collected {
    fn size(&self) -> usize {
        match self {
            Self::Pieces(pieces) => pieces.size(),
            Self::Joined(bytes) => bytes.len(),
        }
    }

    fn piece(&self, from: usize) -> Bytes {
        match self {
            Self::Pieces(pieces) => pieces.piece(from, PIECE),
            Self::Joined(bytes) => bytes.slice(from..),
        }
    }
}

/// Changes what is shared, and wakes the client. No lock is held then.
fn tell<A: Body, R>(shared: &Mutex<Shared<A>>, change: impl FnOnce(&mut Shared<A>) -> R) -> R {
    let mut shared = shared.lock();
    let result = change(&mut shared);
    let client = shared.client.take();
    drop(shared);
    if let Some(client) = client {
        client.wake();
    }
    result
}

/// The side that reads the handler's answer.
struct Collector<A: Body>(Arc<Mutex<Shared<A>>>);

impl<A: Body> Collector<A> {
    /// Returns what was collected of an answer that did not begin.
    fn taken(&self) -> Pieces {
        let empty = Collected::Pieces(Pieces::default());
        match std::mem::replace(&mut self.0.lock().read, empty) {
            Collected::Pieces(pieces) => pieces,
            // It is joined only where it has begun.
            Collected::Joined(_) => Pieces::default(),
        }
    }

    /// Joins what was collected, for the client as well.
    fn joined(&self) -> Bytes {
        let bytes = self.taken().joined();
        self.0.lock().read = Collected::Joined(bytes.clone());
        bytes
    }

    fn ends(&self, state: State<A>) {
        tell(&self.0, |shared| shared.state = state);
    }
}

impl<A: Body> Collect for Collector<A> {
    fn push(&mut self, data: Bytes) {
        tell(&self.0, |shared| {
            if let Collected::Pieces(pieces) = &mut shared.read {
                pieces.push(data);
            }
        });
    }

    fn size(&self) -> usize {
        self.0.lock().read.size()
    }
}

/// Tells the client what became of the record. Dropped without that, it tells that nobody knows.
pub(super) struct Ending<A: Body>(Arc<Mutex<Shared<A>>>);

impl<A: Body> Ending<A> {
    pub(super) fn tell(self, outcome: Result<(), BoxError>) {
        tell(&self.0, |shared| shared.outcome = Some(outcome));
    }
}

impl<A: Body> Drop for Ending<A> {
    fn drop(&mut self) {
        tell(&self.0, |shared| {
            let abandoned = || Err("the answer was given up before its end".into());
            shared.outcome.get_or_insert_with(abandoned);
        });
    }
}

/// The body of the client whose request is executed.
pub(super) struct Through<A: Body> {
    shared: Arc<Mutex<Shared<A>>>,
    /// So much of what was collected was given.
    taken: usize,
    /// So much was given in all.
    given: u64,
    /// What is not collected.
    rest: Option<A>,
    /// What was read of the rest and shows the end, until it is known what became of the record.
    held: Option<Piece>,
    is_over: bool,
    /// Of the handler's body, before it was read.
    hint: SizeHint,
}

impl<A: FromBody> Through<A> {
    fn new(shared: Arc<Mutex<Shared<A>>>, hint: SizeHint) -> Self {
        Self {
            shared,
            taken: 0,
            given: 0,
            rest: None,
            held: None,
            is_over: false,
            hint,
        }
    }

    /// Returns what tells this body of the record. There is one for each.
    pub(super) fn ending(&self) -> Ending<A> {
        Ending(Arc::clone(&self.shared))
    }

    /// Waits for what became of the record.
    fn poll_outcome(shared: &mut Shared<A>, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match &mut shared.outcome {
            None => {
                shared.client = Some(cx.waker().clone());
                Poll::Pending
            }
            Some(Ok(())) => Poll::Ready(Ok(())),
            Some(Err(reason)) => Poll::Ready(Err(std::mem::replace(reason, "the answer was not recorded".into()))),
        }
    }

    /// Takes the next of what is shared.
    fn poll_shared(&self, cx: &mut Context<'_>) -> Poll<Next<A>> {
        let mut shared = self.shared.lock();
        let size = shared.read.size();
        if self.taken < size {
            // With its last byte, a client of HTTP/1 that knows the length has seen the end.
            if shared.length.is_some_and(|length| size as u64 >= length)
                && let Err(reason) = ready!(Self::poll_outcome(&mut shared, cx))
            {
                return Poll::Ready(Next::NotRecorded(reason));
            }
            return Poll::Ready(Next::Piece(Piece::Data(shared.read.piece(self.taken))));
        }
        if let State::Rest(_) = shared.state
            && let State::Rest(rest) = std::mem::replace(&mut shared.state, State::Taken)
        {
            return Poll::Ready(Next::Rest(rest));
        }
        let outcome = ready!(Self::poll_outcome(&mut shared, cx));
        let state = std::mem::replace(&mut shared.state, State::Taken);
        Poll::Ready(match (state, outcome) {
            (State::Broken(error), _) => Next::Broken(error),
            (_, Err(reason)) => Next::NotRecorded(reason),
            // The work was dropped.
            (State::Collecting, Ok(())) => Next::NotRecorded("the answer broke off".into()),
            (State::Whole(Some(trailers)), Ok(())) => Next::Piece(Piece::Trailers(trailers)),
            (State::Whole(None) | State::Rest(_) | State::Taken, Ok(())) => Next::Piece(Piece::Over),
        })
    }

    /// Whether the body is as long as it says with these bytes.
    fn ends_with(&self, data: &Bytes) -> bool {
        let size = self.given.saturating_add(data.len() as u64);
        self.shared.lock().length.is_some_and(|length| size >= length)
    }

    /// Reads what was not collected.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Next<A>> {
        let held = match (self.held.take(), &mut self.rest) {
            (Some(held), _) => held,
            (None, None) => Piece::Over,
            (None, Some(rest)) => match ready!(Pin::new(rest).poll_frame(cx)).map(|read| read.map(Frame::into_data)) {
                Some(Err(error)) => return Poll::Ready(Next::Broken(error)),
                Some(Ok(Ok(data))) if !self.ends_with(&data) => return Poll::Ready(Next::Piece(Piece::Data(data))),
                Some(Ok(Ok(data))) => Piece::Data(data),
                Some(Ok(Err(frame))) => frame.into_trailers().map_or(Piece::Over, Piece::Trailers),
                None => Piece::Over,
            },
        };
        let outcome = Self::poll_outcome(&mut self.shared.lock(), cx);
        match outcome {
            Poll::Ready(Ok(())) => Poll::Ready(Next::Piece(held)),
            Poll::Ready(Err(reason)) => Poll::Ready(Next::NotRecorded(reason)),
            Poll::Pending => {
                self.held = Some(held);
                Poll::Pending
            }
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next<A>> {
        if self.rest.is_none() {
            match ready!(self.poll_shared(cx)) {
                Next::Rest(rest) => self.rest = Some(rest),
                next => {
                    if let Next::Piece(Piece::Data(data)) = &next {
                        self.taken += data.len();
                    }
                    return Poll::Ready(next);
                }
            }
        }
        self.poll_rest(cx)
    }
}

/// What comes next.
enum Next<A: Body> {
    Piece(Piece),
    Rest(A),
    Broken(A::Error),
    NotRecorded(BoxError),
}

enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    Over,
}

impl<A: FromBody> Body for Through<A> {
    type Data = Bytes;
    type Error = A::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, A::Error>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let next = match ready!(self.poll_next(cx)) {
            Next::Piece(Piece::Data(data)) => {
                self.given = self.given.saturating_add(data.len() as u64);
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            Next::Piece(Piece::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Next::Broken(error) => Some(Err(error)),
            Next::NotRecorded(reason) => A::broken(reason).map(Err),
            Next::Rest(_) | Next::Piece(Piece::Over) => None,
        };
        self.is_over = true;
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::new();
        hint.set_lower(self.hint.lower().saturating_sub(self.given));
        if let Some(upper) = self.hint.upper() {
            hint.set_upper(upper.saturating_sub(self.given).max(hint.lower()));
        }
        hint
    }
}
