//! What clients of others make of the layer, and of a relay's deliveries: a module for each, in one program, so that what they
//! share is linked once.

mod mail;
mod problem;
mod real;
mod shop;
mod stripe;
mod tonic;
