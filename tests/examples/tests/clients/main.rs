//! What clients of others make of the layer: a module for each, in one program, so that what they share is linked once.

mod problem;
mod real;
mod shop;
mod stripe;
mod tonic;
