//! Rules about adapters and their bases, as findings: for a person, a program, a pull request.
//!
//! [`validate()`] takes the files of an adapter, of Fitment's own format or of another tool's, and a base when there is one;
//! it collects every breach instead of stopping at the first:
//!
//! ```
//! use fitment_convert::{Files, ReadOptions};
//! use fitment_core::Severity;
//! use fitment_validate::{Input, Options, Verdict, output, validate};
//!
//! let files: Files = [("adapter_config.json", &br#"{"peft_type": "LORA", "r": 8}"#[..])].into_iter().collect();
//! let input = Input { name: "my-lora", files: &files, options: ReadOptions::default() };
//! let outcome = validate(&input, None, &Options::default())?;
//!
//! assert_eq!(outcome.verdict(Severity::Error), Verdict::Findings);
//! print!("{}", output::text(&[outcome], &output::Style::default()));
//! // error[P011] my-lora: no adapter_model.safetensors beside the config …
//! # Ok::<(), fitment_validate::Error>(())
//! ```
//!
//! | group | codes | asks |
//! |---|---|---|
//! | container, manifest, edits | `C…`, `M…`, `E…` | whether a Fitment file keeps its spec (rules of `fitment-core`) |
//! | foreign formats | `P…`, `S…`, `T…` … | whether the files of an adapter of PEFT, slime … agree (rules of `fitment-convert`), and whether torch files are sound and harmless (rules of `fitment-torch`) |
//! | base | `B…` | whether the adapter does anything, and fits the base ([`rules`]) |
//! | servers | `V…` | whether a program that serves adapters makes of it what it says ([`servers`]) |
//!
//! | module | holds |
//! |---|---|
//! | [`codes`] | one table of all rules, and what `--explain` says |
//! | [`rules`] | the rules about effect, base and servers |
//! | [`servers`] | the servers, and what each makes of what an adapter may have |
//! | [`coverage`] | names as module kinds × layers |
//! | [`output`] | text, JSON, GitHub workflow commands, SARIF 2.1.0 |
//!
//! Not here: files, exit codes and colours (the command line); whether an adapter is *safe* or *good*: findings are facts
//! about structure. The crate has no thread of its own but with the feature `parallel`, which hashes and scans tensors on
//! all cores; it builds for wasm32.
#![warn(clippy::disallowed_methods, reason = "pure crate: no files, clock, environment or threads")]
#![forbid(unsafe_code)]

mod base;
pub mod codes;
pub mod coverage;
mod effect;
mod error;
mod file;
mod foreign;
mod outcome;
pub mod output;
pub mod rules;
pub mod servers;
mod validate;

pub use error::Error;
pub use outcome::{Checked, Options, Outcome, Refusal, Verdict};
pub use validate::{Input, validate};
