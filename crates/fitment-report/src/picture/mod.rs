//! Pictures as SVG: crisp at any size, in the text colour of where they stand, with a title for those who do not see them.
//!
//! A picture is never alone: whoever shows one shows its numbers as a table beside it.

mod heat;
mod ramp;
mod spectrum;

pub use heat::heat_map;
pub use ramp::colour;
pub use spectrum::{spark, spectrum};
