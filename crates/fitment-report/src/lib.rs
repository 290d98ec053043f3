//! What an adapter is and what it does, for people: a sentence, numbers, pictures, a page.
//!
//! ```
//! use fitment_core::model::{Adapter, Edit, Lora, LoraForm, Origin, Target, TensorName};
//! use fitment_core::tensor::{Dtype, Shape, Tensor};
//! use fitment_report::{Measure, Summary, analyse, modules, picture};
//!
//! // An update of one linear layer, 2 to 2: 2 · (3, 4)ᵀ · (1, 0).
//! let tensor = |dims: [u64; 2], numbers: [f32; 2]| {
//!     let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
//!     Tensor::owned(Dtype::F32, Shape::new(&dims)?, bytes)
//! };
//! let edit = Edit::Lora(Lora {
//!     target: Target::whole(TensorName::new("model.layers.3.mlp.up_proj.weight")?),
//!     form: LoraForm::Matrix,
//!     transposed: false,
//!     scale: 2.0,
//!     up: tensor([2, 1], [3.0, 4.0])?,
//!     down: tensor([1, 2], [1.0, 0.0])?,
//!     mid: None,
//!     magnitude: None,
//!     origin: Origin::default(),
//! });
//! let adapter = Adapter { edits: vec![edit], ..Adapter::default() };
//!
//! let analysis = analyse(&adapter.edits[0])?;
//! assert_eq!((analysis.norm, analysis.stable_rank), (Some(10.0), Some(1.0)));
//! let modules = modules(&adapter);
//! assert_eq!((modules[0].row.as_str(), modules[0].column.as_str()), ("model.layers.3", "mlp.up_proj"));
//! let svg = picture::heat_map(&modules, &[Some(analysis)], Measure::Norm);
//! assert!(svg.starts_with("<svg"));
//! let summary = Summary::of(&adapter, "a", "fitment", None);
//! assert_eq!(summary.sentence(), "A LoRA of rank 1 (scale 2) on 1 module in 1 layer, for a base that is not named: 4 parameters in F32.");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`Summary`] | what is in an adapter: the JSON contract of `fitment inspect` |
//! | [`modules()`] | its edits as a table of layers × modules |
//! | [`analyse()`] | norm, stable rank, spectrum of one edit |
//! | [`compare()`] | how near the updates of two adapters are |
//! | [`picture`] | heat maps and spectra as SVG |
//! | [`Report`] | all of it as one HTML page, or as Markdown |
//!
//! Not here: files, threads, applying; whether an adapter is right (`fitment-validate` says that, and a report shows it).
#![warn(clippy::disallowed_methods, reason = "pure crate: no files, clock, environment or threads")]
#![forbid(unsafe_code)]

mod analysis;
mod compare;
mod error;
mod modules;
pub mod picture;
mod report;
mod summary;
pub mod text;

pub use analysis::{Analysis, analyse};
pub use compare::{Comparison, Pair, compare};
pub use error::Error;
pub use modules::{Measure, Module, modules};
pub use report::Report;
pub use summary::{
    AboutSummary, BaseSummary, Effect, Fold, Group, Reason, SourceSummary, Summary, TensorLine,
};
