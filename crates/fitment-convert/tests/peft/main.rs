//! PEFT's adapters, both ways, held against files that PEFT itself wrote.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod computes;
mod damaged;
mod experts;
mod experts_back;
mod exports;
mod fixture;
mod formula;
mod hostile;
mod pickles;
mod returns;
mod unbound;
