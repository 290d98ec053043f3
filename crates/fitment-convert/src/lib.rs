//! Adapter formats in and out of the Fitment model: exactly, or with a list of what is lost or assumed.
//!
//! A reader takes the bytes of an adapter's files and, where there is one, the base; it gives the model, the losses and what
//! the files bend. A writer gives files, which are written in one pass and never held as a whole:
//!
//! ```
//! use fitment_convert::{Error, Files, FormatId, ReadOptions, WriteOptions, read, write};
//! use fitment_core::container::write_container;
//! use fitment_core::tensor::{Dtype, Shape, Tensor};
//! use std::collections::BTreeMap;
//!
//! // What PEFT saves for one linear layer, 4 to 6, rank 2.
//! let config = br#"{"peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": ["up_proj"]}"#;
//! let zeros = |dims: [u64; 2]| Tensor::owned(Dtype::BF16, Shape::new(&dims)?, vec![63; 2 * (dims[0] * dims[1]) as usize]);
//! let tensors = [("lora_A", zeros([2, 4])?), ("lora_B", zeros([6, 2])?)];
//! let name = |part: &str| format!("base_model.model.layers.0.up_proj.{part}.weight");
//! let mut weights = Vec::new();
//! write_container(&BTreeMap::new(), tensors.iter().map(|(part, tensor)| (name(part), tensor)), &mut weights)?;
//!
//! let files: Files =
//!     [("adapter_config.json", &config[..]), ("adapter_model.safetensors", &weights)].into_iter().collect();
//! let converted = read(&files, &ReadOptions::default())?;
//! let fitment_core::model::Edit::Lora(lora) = &converted.adapter.edits[0] else { panic!() };
//! assert_eq!((lora.target.label().as_str(), lora.scale), ("layers.0.up_proj.weight", 1.5));
//! println!("{}", converted.losses[0]); // assumed, for want of a base: …
//!
//! // There is no way to lose anything in silence: what came from PEFT goes back as it was.
//! let written = write(&converted.adapter, FormatId::Peft, &WriteOptions::default())?;
//! assert!(written.losses.is_empty());
//! let mut back = Vec::new();
//! written.files[0].write_to(&mut back)?;
//! assert_eq!(back, config);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`FORMATS`] | every format: name, reader, writer, how it is recognised |
//! | [`read()`], [`write()`] | the front doors |
//! | [`bind()`] | an adapter and the base it touches |
//! | [`fold`] | interventions into weights, where that is exact |
//! | [`architectures`] | where the sites of interventions lie in each family of models |
//! | [`sites`] | whether a base has the sites of interventions |
//! | [`each`] | passes over tensors, on all cores with the feature `parallel` |
//! | [`Loss`] | everything that a conversion drops or takes for granted |
//! | [`peft`] | Hugging Face PEFT, with its rules as codes |
//! | [`pyreft`] | pyreft's interventions, with their rules |
//! | [`adapters`] | AdapterHub's library, with its rules as codes |
//! | [`gguf`] | llama.cpp's LoRA and control vectors, with their rules |
//! | [`trl`] | TRL's sparse weight patches, with their rules |
//! | [`fastchat`] | FastChat's folders of differences, with their rules |
//! | [`slime`] | slime's disk deltas, with their rules as codes |
//! | [`mlx`] | MLX-LM's adapters, with their rules as codes |
//! | [`litgpt`] | litgpt's LoRA, with its rules as codes |
//! | [`tinker`] | Tinker's adapters, with their rules as codes |
//! | [`torchtune`] | torchtune's adapters, with their rules as codes |
//! | [`torch`] | PyTorch weight files, which some formats hold, with their rules as codes |
//!
//! Three kinds of bad news, three types: an [`Error`] ends the conversion and says who must act; a
//! [`Finding`](fitment_core::Finding) is what the files break or bend, with a code; a [`Loss`] is what the result lacks or assumes.
//!
//! Not here: files and folders (`fitment-io`), kernels (`fitment-math`), applying (`fitment-apply`). There is no
//! thread, clock or environment in this crate, but for the feature `parallel`: it hashes the base's tensors on all cores.
//! The feature `zstd` compresses, by the C library, what slime's deltas become and are made of; all else is read without it.
#![warn(clippy::disallowed_methods, reason = "pure crate: no files, clock, environment or threads")]
#![forbid(unsafe_code)]

pub mod adapters;
mod alpha;
pub mod architectures;
mod bind;
mod checkpoints;
mod conv1d;
pub mod each;
mod error;
mod factors;
pub mod fastchat;
mod files;
mod finite;
pub mod fitment;
mod formats;
pub mod gguf;
pub mod litgpt;

mod lora_keys;
mod loss;
pub mod mlx;
mod model_config;
mod names;
mod numbers;
mod orthogonal;
mod pairs;
mod pass;
pub mod peft;
mod pickles;
pub mod pyreft;
mod read;
mod several;
pub mod sites;
pub mod slime;
mod states;
pub mod tinker;
pub mod torchtune;
pub mod trl;
pub mod tying;
mod wants;
mod weights;
mod wrapped;
mod write;
mod yaml;

pub use bind::{bind, record_config};
pub use error::{Clash, Error, Unmapped};
pub use files::{Content, Files, OutputFile};
pub use formats::{Ask, Checker, Checks, FORMATS, Format, FormatId, NoSuchFormat, Reader, Writer, detect};
pub use loss::Loss;
pub use pass::fold;
pub use pass::refit::{NoSuchRows, QkvRows};
pub use pickles::torch_findings;
pub use read::{Converted, ReadOptions, check_options, read, verify};
pub use write::{Preset, WriteOptions, Written, write};

/// PyTorch weight files, which some formats hold.
pub use fitment_torch as torch;
