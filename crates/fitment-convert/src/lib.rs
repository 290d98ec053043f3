//! Foreign adapter formats to the Fitment model and back: exactly, or with a list of what is lost or assumed.
#![warn(clippy::disallowed_methods, reason = "pure crate: no files, clock, environment or threads")]
#![forbid(unsafe_code)]

mod bind;
mod error;
mod files;
mod fitment;
mod formats;
mod loss;
pub mod peft;
mod read;
pub mod tying;
mod write;

pub use bind::bind;
pub use error::{Clash, Error, Unmapped};
pub use files::{Content, Files, OutputFile};
pub use formats::{FORMATS, Format, FormatId, NoSuchFormat, Reader, Writer, detect};
pub use loss::Loss;
pub use read::{Converted, ReadOptions, read};
pub use write::{WriteOptions, Written, write};
