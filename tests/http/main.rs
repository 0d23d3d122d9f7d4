//! The promises of the HTTP layer: a module for each, in one program, so that what they share is linked once.

#[path = "../common/forms.rs"]
mod forms;
#[path = "../common/http.rs"]
mod http;
#[path = "../common/lines.rs"]
mod lines;
#[path = "../common/recorder.rs"]
mod recorder;
#[path = "../common/scripted.rs"]
mod scripted;

mod bounds;
mod clients_page;
mod correlation;
mod dashboard;
mod dialect;
mod field_reports;
mod fingerprint;
mod fingerprint_meaning;
mod fuzz;
mod key;
mod key_source;
mod layer;
mod layer_draft;
mod layer_honest;
mod layer_problems;
mod layer_replay;
mod layer_rfc9110;
mod layer_security;
mod mapping;
mod metrics;
mod neighbours;
mod outbox;
mod outgoing;
mod problem;
mod stream_through;
mod telemetry;
mod telling;
mod tenants;
