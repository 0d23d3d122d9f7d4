//! What the requests do: leave a mark of their execution, in the store's transaction or in the world outside, with pauses in
//! between in which something can happen.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oneflight::Message;
use oneflight::idempotency::{Context, Rollback, StepContext, StepError, Stopped};
use serde::{Deserialize, Serialize};

use crate::messages::{Key, Known, Sabotage, Said};
use crate::notes::{Note, is_declined};
use crate::worker::say;
use crate::world::{self, Deed, Step};

/// The executions that one call began.
pub type Marks = Arc<Mutex<Vec<String>>>;

/// Work of one call, wherever it does what it does.
pub struct Work {
    pub key: Key,
    pub marks: Marks,
    /// How often it is done: once, unless a reader is to find out.
    pub times: usize,
    /// Before the effect, and after it.
    pub pauses: [Duration; 2],
}

/// Work in a transaction, whose effect is a row that the backend writes.
pub type InTransaction = Work;

/// Work in a transaction, whose effects are a row and the messages that it sends.
pub struct Sending {
    pub work: Work,
    /// The transaction is rolled back at its end.
    pub fails: bool,
    pub sabotage: Option<Sabotage>,
}

impl Sending {
    pub fn key(&self) -> &Key {
        &self.work.key
    }

    pub async fn begin(&self, context: &Context) -> String {
        self.work.begin(context).await
    }

    /// What is to be sent, without numbers.
    pub fn notes(&self, mark: &str) -> Vec<Note> {
        match self.sabotage {
            Some(Sabotage::Astray) => Note::of(&self.work.key, &format!("not {mark}")),
            _ => Note::of(&self.work.key, mark),
        }
    }

    pub fn messages(&self, notes: &[Note]) -> Vec<Message> {
        let all = (0..self.work.times).flat_map(|_| notes);
        all.map(|note| match self.sabotage {
            Some(Sabotage::Disorder) => Message::new(note.topic.word(), note).expect("a note can be written"),
            _ => note.message(),
        })
        .collect()
    }

    /// Pauses after the effects, and decides what becomes of them.
    pub async fn end(&self, mark: String) -> Result<String, Rollback<String>> {
        self.work.end().await;
        if self.fails {
            return Err(Rollback::failed("it changed its mind"));
        }
        match is_declined(&self.work.key) {
            true => Err(Rollback::Declined(mark)),
            false => Ok(mark),
        }
    }
}

/// What a completer is given of work in steps.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recorded {
    pub key: Key,
    pub times: usize,
    pub pauses: [Duration; 2],
}

impl From<Recorded> for Work {
    fn from(recorded: Recorded) -> Self {
        let Recorded { key, times, pauses } = recorded;
        let marks = Marks::default();
        Self {
            key,
            marks,
            times,
            pauses,
        }
    }
}

impl Work {
    /// Says that it runs, and pauses. Answers with the mark of this execution.
    pub async fn begin(&self, context: &Context) -> String {
        let mark = self.mark();
        self.tell(context, &mark);
        tokio::time::sleep(self.pauses[0]).await;
        mark
    }

    /// Pauses after the effect.
    pub async fn end(&self) {
        tokio::time::sleep(self.pauses[1]).await;
    }

    /// Does it in the world outside.
    pub async fn outside(self, world: PathBuf, context: Context) -> String {
        let mark = self.mark();
        let deed = |step| Deed {
            key: self.key.clone(),
            attempt: context.attempt(),
            mark: mark.clone(),
            name: String::new(),
            downstream: context.downstream_key("effect"),
            step,
        };
        world::write(&world, &deed(Step::Begun));
        self.tell(&context, &mark);
        tokio::time::sleep(self.pauses[0]).await;
        for _ in 0..self.times {
            world::write(&world, &deed(Step::Done));
        }
        self.end().await;
        mark
    }

    /// Does one of several steps in the world outside.
    pub async fn step(&self, world: &Path, step: StepContext) -> Result<String, Infallible> {
        let mark = self.mark();
        let deed = |at| Deed {
            key: self.key.clone(),
            attempt: step.context().attempt(),
            mark: mark.clone(),
            name: step.id().name().to_owned(),
            downstream: step.downstream_key(),
            step: at,
        };
        world::write(world, &deed(Step::Begun));
        self.tell(step.context(), &mark);
        tokio::time::sleep(self.pauses[0]).await;
        for _ in 0..self.times {
            world::write(world, &deed(Step::Done));
        }
        self.end().await;
        Ok(mark)
    }

    /// Says of a step that it was done and may not be recorded.
    pub fn told<T>(&self, ended: Result<T, Stopped>) -> Result<T, Stopped> {
        ended.inspect_err(|stopped| {
            if let StepError::Unrecorded { .. } | StepError::LeaseLost = stopped.reason() {
                say(&Said::Failed {
                    key: self.key.clone(),
                    known: Known::Unknown,
                    marks: self.marks.lock().unwrap().clone(),
                    unrecorded: true,
                    why: stopped.to_string(),
                });
            }
        })
    }

    fn mark(&self) -> String {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let mark = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        self.marks.lock().unwrap().push(mark.clone());
        mark
    }

    fn tell(&self, context: &Context, mark: &str) {
        say(&Said::Begun {
            key: self.key.clone(),
            attempt: context.attempt(),
            mark: mark.to_owned(),
        });
    }
}
