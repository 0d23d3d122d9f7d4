//! A message on its way to a closure of JavaScript.
//!
//! ```text
//! taken ──queued──▶ begun: the delivery is JavaScript's ──settle──▶ told
//!   │                 ├── collected, or its thread ended ──▶ failed
//!   │                 ├── its time is over ──▶ failed, and `aborted` is queued
//!   │                 └── given up: the relay's end, another relay ──▶ `aborted` is queued
//!   └── its thread ended ──▶ failed
//! ```
//!
//! The time of an attempt begins with it. How long an event loop is busy before says nothing of the target.
//!
//! A thread that ends counts as an attempt, as a process that is killed does: a message that has its thread ended again and
//! again becomes a dead letter.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use napi::bindgen_prelude::{Buffer, Function};
use napi::threadsafe_function::UnknownReturnValue;
use napi_derive::napi;
use oneflight::outbox::{self, DeliveryError, Message, Target};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::callback::Callback;
use crate::options::duration;
use crate::outbox::Letter;

/// What JavaScript is told: one of these.
#[napi(object, object_from_js = false)]
pub struct Event {
    pub delivery: Option<Delivery>,
    /// The number of a delivery for which nobody waits any more.
    pub aborted: Option<u32>,
    pub dead: Option<Letter>,
    /// That nothing comes after this.
    pub has_ended: Option<bool>,
}

impl Event {
    fn none() -> Self {
        Self {
            delivery: None,
            aborted: None,
            dead: None,
            has_ended: None,
        }
    }
}

/// A message. `index.d.ts` documents each part.
#[napi(object, object_from_js = false)]
pub struct Incoming {
    /// In decimal digits: it has 64 bits.
    pub id: String,
    pub topic: String,
    pub payload: Buffer,
    pub content_type: String,
    pub key: String,
    pub ordering_key: Option<String>,
    /// Names and values by turns.
    pub headers: Vec<String>,
    pub correlation_id: Option<String>,
    pub trace_parent: Option<String>,
    pub attempt: u32,
}

/// A message on its way to a closure, which says by this what became of it.
#[napi]
pub struct Delivery {
    number: u32,
    target: u32,
    message: outbox::Delivery,
    begun: Option<oneshot::Sender<()>>,
    told: Option<oneshot::Sender<Result<(), DeliveryError>>>,
}

#[napi]
impl Delivery {
    /// Returns the number by which it is aborted.
    #[napi(getter, catch_unwind)]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Returns the place of its closure in the list of targets.
    #[napi(getter, catch_unwind)]
    pub fn target(&self) -> u32 {
        self.target
    }

    /// Returns whether nobody waits for it any more.
    #[napi(getter, catch_unwind)]
    pub fn is_over(&self) -> bool {
        self.told.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    /// Begins the attempt. Returns the message.
    #[napi(catch_unwind)]
    pub fn begin(&mut self) -> Incoming {
        if let Some(begun) = self.begun.take() {
            // If nobody waits any more, it was given up.
            let _ = begun.send(());
        }
        let message = &self.message;
        let headers = message.headers().iter();
        Incoming {
            id: message.id().to_string(),
            topic: message.topic().to_owned(),
            payload: message.payload().to_vec().into(),
            content_type: message.content_type().to_owned(),
            key: message.key().to_owned(),
            ordering_key: message.ordering_key().map(str::to_owned),
            headers: headers
                .flat_map(|(name, value)| [name.clone(), value.clone()])
                .collect(),
            correlation_id: message.correlation_id().map(ToString::to_string),
            trace_parent: message.trace_parent().map(|it| it.as_str().to_owned()),
            attempt: message.attempt(),
        }
    }

    /// Says what became of it: `delivered`, `retry` or `rejected`, and why. The first time counts.
    #[napi(catch_unwind)]
    pub fn settle(&mut self, how: String, why: String, retry_after_ms: Option<f64>) {
        let answer = match how.as_str() {
            "delivered" => Ok(()),
            "rejected" => Err(DeliveryError::rejected(why)),
            _ => Err(match retry_after_ms {
                Some(pause) => DeliveryError::retry(why).after(duration(pause).min(Message::MAX_DELAY)),
                None => DeliveryError::retry(why),
            }),
        };
        if let Some(told) = self.told.take() {
            // If nobody waits any more, it was given up.
            let _ = told.send(answer);
        }
    }
}

/// The function of JavaScript that is told everything.
pub(crate) struct Events {
    function: Callback<Event, false>,
    deliveries: AtomicU32,
}

impl Events {
    /// Makes the function callable from any thread.
    pub(crate) fn new(function: &Function<'_, Event, UnknownReturnValue>) -> napi::Result<Self> {
        Ok(Self {
            function: Callback::new(function)?,
            deliveries: AtomicU32::new(0),
        })
    }

    /// Tells that the relay has ended.
    pub(crate) fn end(&self) {
        self.function.call(Event {
            has_ended: Some(true),
            ..Event::none()
        });
    }

    /// Tells of a dead letter.
    pub(crate) fn bury(&self, letter: Letter) {
        self.function.call(Event {
            dead: Some(letter),
            ..Event::none()
        });
    }
}

/// Has the signal of a delivery given, unless the closure has told what became of it.
struct Aborts<'a> {
    events: &'a Events,
    number: u32,
    is_told: bool,
}

impl Drop for Aborts<'_> {
    fn drop(&mut self) {
        if !self.is_told {
            self.events.function.call(Event {
                aborted: Some(self.number),
                ..Event::none()
            });
        }
    }
}

/// A closure, by its place in the list of targets.
pub(crate) struct Closure {
    pub(crate) events: Arc<Events>,
    pub(crate) target: u32,
    /// How long an attempt may take.
    pub(crate) limit: Duration,
}

impl Closure {
    /// Waits for what the closure tells. The outer error is that it tells nothing.
    async fn told(
        &self,
        begun: oneshot::Receiver<()>,
        answer: oneshot::Receiver<Result<(), DeliveryError>>,
    ) -> Result<Result<(), DeliveryError>, DeliveryError> {
        let never = || {
            DeliveryError::retry(
                "its closure will never tell: its thread ended, or the promise that it waits for is out of reach",
            )
        };
        let function = &self.events.function;
        function.answer(begun).await.ok_or_else(never)?;
        match timeout(self.limit, function.answer(answer)).await {
            Ok(told) => told.ok_or_else(never),
            Err(_) => Err(DeliveryError::retry(format!(
                "the target has not answered within {:?}",
                self.limit
            ))),
        }
    }
}

impl Target for Closure {
    async fn deliver(&self, message: outbox::Delivery) -> Result<(), DeliveryError> {
        let number = self.events.deliveries.fetch_add(1, Relaxed);
        let (begun, has_begun) = oneshot::channel();
        let (told, answer) = oneshot::channel();
        let delivery = Delivery {
            number,
            target: self.target,
            message,
            begun: Some(begun),
            told: Some(told),
        };
        let is_queued = self.events.function.call(Event {
            delivery: Some(delivery),
            ..Event::none()
        });
        if !is_queued {
            return Err(DeliveryError::retry("the thread of its closure has ended"));
        }
        let mut aborts = Aborts {
            events: &self.events,
            number,
            is_told: false,
        };
        let answer = self.told(has_begun, answer).await;
        aborts.is_told = answer.is_ok();
        answer?
    }
}
