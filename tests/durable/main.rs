//! The promises of the durable layer, over the store in memory: a module for each, in one program, so that what they share is
//! linked once.

#[path = "../common/lines.rs"]
mod lines;
#[path = "../common/recorder.rs"]
mod recorder;
#[path = "../common/scripted.rs"]
mod scripted;

mod cancel;
mod claim;
mod codec;
mod codecs;
mod completer;
mod completer_in_trouble;
mod correlation;
mod deadline;
mod dyn_store;
mod identity;
mod idle;
mod late_claim;
mod lease;
mod metrics;
mod paused;
mod purge;
mod recovery;
mod renewal;
mod renewals;
mod renewals_apart;
mod replay;
mod silence;
mod stack;
mod steps;
mod steps_that_fail;
mod telling;
