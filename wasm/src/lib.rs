//! What the web page and the npm package do with an adapter: open it, check it, show it, convert it.
//!
//! Text crosses the boundary as JSON and bytes as `Uint8Array`; everything is asked of one of four classes:
//!
//! | class | is |
//! |---|---|
//! | [`Files`] | the files of an adapter, whole or, of large ones, their headers |
//! | [`Opened`] | an adapter that was read: what it is, its modules with what is computed and drawn of them, its tensors |
//! | [`Output`] | the files that a conversion made |
//! | [`Headers`] | a base, of which names and shapes are at hand |
//!
//! Not here: rules, formats and pictures. They are those of the command line, from the same crates.
#![warn(clippy::disallowed_methods, reason = "pure crate: no files, clock, environment or threads")]

mod base;
mod error;
mod files;
mod opened;
mod output;
mod room;
mod said;
mod shown;
mod tensors;

pub use base::Headers;
pub use files::Files;
pub use opened::Opened;
pub use output::Output;
pub use shown::measures;

use fitment_convert::FORMATS;
use fitment_core::container::header_len;
use serde_json::json;
use wasm_bindgen::prelude::wasm_bindgen;

/// Every format: `[{name, title, what, looked_for, reads, writes, one_file}]`.
#[wasm_bindgen]
pub fn formats() -> String {
    let line = |format: &fitment_convert::Format| {
        json!({
            "name": format.name,
            "title": format.title,
            "what": format.what,
            "looked_for": format.looked_for,
            "reads": format.read.is_some(),
            "writes": format.write.is_some(),
            "one_file": format.is_one_file,
        })
    };
    json!(FORMATS.iter().map(line).collect::<Vec<_>>()).to_string()
}

/// How many bytes from its start hold the header of a safetensors file, of which at least 8 are given: 8 and what they say.
/// Nothing for a header that is longer than any reader takes.
#[wasm_bindgen(js_name = headerBytes)]
pub fn header_bytes(prefix: &[u8]) -> Option<f64> {
    let len = header_len(prefix.first_chunk().copied()?);
    (len <= fitment_core::limits::MAX_FOREIGN_HEADER_BYTES).then_some(len as f64 + 8.0)
}
