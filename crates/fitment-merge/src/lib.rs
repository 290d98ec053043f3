//! Several adapters into one.
//!
//! Without a rank the result is exact: applied to any base it gives what applying the list of adapters with their weights
//! gives, `W' = W + Σ wᵢ·(Fᵢ(W) − W)` (spec section 10). With a rank, or a largest error, the low-rank updates of each
//! target become the nearest product of that rank, and how far it is stands in the result.
//!
//! ```
//! use fitment_core::model::{Adapter, Edit, Lora, LoraForm, Origin, Target, TensorName};
//! use fitment_core::tensor::{Dtype, Shape, Tensor};
//! use fitment_merge::{Input, Options, merge};
//!
//! let floats = |dims: [u64; 2], values: &[f32]| {
//!     let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
//!     Tensor::owned(Dtype::F32, Shape::new(&dims)?, bytes)
//! };
//! let adapter = |up: &[f32], down: &[f32], scale| {
//!     let lora = Lora {
//!         target: Target::whole(TensorName::new("up_proj.weight")?),
//!         form: LoraForm::Matrix,
//!         transposed: false,
//!         scale,
//!         up: floats([2, 1], up)?,
//!         down: floats([1, 2], down)?,
//!         mid: None,
//!         magnitude: None,
//!         origin: Origin::default(),
//!     };
//!     Ok::<_, Box<dyn std::error::Error>>(Adapter { edits: vec![Edit::Lora(lora)], ..Adapter::default() })
//! };
//! let (a, b) = (adapter(&[1.0, 0.0], &[1.0, 2.0], 2.0)?, adapter(&[0.0, 1.0], &[3.0, 4.0], 1.0)?);
//! let input = |adapter, weight, name: &str| Input { adapter, weight, name: name.to_owned(), id: None };
//!
//! let merged = merge(&[input(&a, 0.5, "a"), input(&b, 1.0, "b")], &Options::default())?;
//! let Edit::Lora(lora) = &merged.adapter.edits[0] else { panic!() };
//! // 0.5 · 2 = 1 for both: the factors stand side by side, bit for bit.
//! assert_eq!((lora.up.dims(), lora.down.dims(), lora.scale), (&[2, 2][..], &[2, 2][..], 1.0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | edits of a target | become |
//! |---|---|
//! | `lora` without magnitude | one `lora` with the factors side by side; the multipliers go into `up`, which is F32 where they cannot go in exactly |
//! | `add`, `sparse_add`, `lora` with a core | themselves, multiplied by the weight |
//! | whatever one adapter with weight 1 does alone | itself |
//! | `set`, also of rows, and `sparse_set` | the weighted mean where the weights add up to 1, else what the base makes of it |
//! | `lora` with magnitude (DoRA), `bits`, `add` with exceptions, of several adapters or with a weight | what the base makes of it |
//! | `intervention` | themselves in the order of the adapters, multiplied by the weight; linear ones at one site and the same tokens one |
//!
//! What cannot be told exactly is refused by name, all of it at once.
//!
//! [`METHODS`] lists the methods by name, which are no exact sums: [`Options::method`].
//!
//! Not here: files (`fitment-io`), foreign formats (`fitment-convert`), applying (`fitment-apply`).
#![warn(
    clippy::disallowed_methods,
    reason = "pure crate: no files, clock, environment or threads of its own"
)]
#![forbid(unsafe_code)]

use fitment_core::model::Edit;

mod base;
mod culprit;
mod error;
mod exact;
mod factors;
mod gather;
mod input;
mod level;
mod methods;
mod numbers;
mod parallel;
mod record;
mod room;
mod truncate;
mod weights;

pub use culprit::Culprit;
pub use error::Error;
pub use input::{DYNAMIC, Dynamic, Input, Limit, Merged, Note, Options, SiteRule, Truncated};
pub use level::level;
pub use methods::{METHODS, Method, Param, Params, method};
pub use room::{MemoryRoom, Room};
pub use weights::{Values, WeightRule, Weights};

/// Merges adapters. Where one has a bundle of experts and another the same experts by their own names, [`level()`] comes first.
///
/// # Errors
/// [`Error::Refused`] with everything that cannot be merged; [`Error::Base`] when the base cannot be read;
/// [`Error::Core`] when an adapter breaks a rule of the format; [`Error::Math`] when a decomposition fails.
pub fn merge<'a>(inputs: &[Input<'a>], options: &Options<'_>) -> Result<Merged<'a>, Error> {
    merge_into(inputs, options, &MemoryRoom)
}

/// As [`merge()`]; dense results are put aside as they are made, so that memory does not grow with the model.
///
/// # Errors
/// As [`merge()`]; [`Error::Room`] when there is no room.
pub fn merge_into<'a>(
    inputs: &[Input<'a>],
    options: &Options<'_>,
    room: &'a dyn Room,
) -> Result<Merged<'a>, Error> {
    if let Some(name) = options.of_interventions()
        && !inputs
            .iter()
            .flat_map(|input| &input.adapter.edits)
            .any(|edit| matches!(edit, Edit::Intervention(_)))
    {
        let reason = format!("{name} is for interventions, and no adapter has any");
        return Err(Error::Params { reason });
    }
    let mut merged = match options.method {
        None => {
            if let Some(name) = options.unheard() {
                let reason =
                    format!("{name} is for a method, and none is named: without one the sum is exact");
                return Err(Error::Params { reason });
            }
            exact::merge(inputs, options)?
        }
        Some(method) => methods::merge(inputs, options, (method, room))?,
    };
    // What is computed element by element, or at a rank, has it already.
    let is_at_rank = |method: &Method| method.is_ranked() && matches!(options.limit, Some(Limit::Rank(_)));
    let is_cut = options.method.is_some_and(|method| method.is_dense() || is_at_rank(method));
    let limit = options.limit.or_else(|| options.method?.limit(inputs));
    match limit {
        Some(limit) if is_cut => truncate::reached(&merged.truncated, limit)?,
        Some(limit) => truncate::truncate(&mut merged, limit)?,
        None => {}
    }
    base::keep_touched(&mut merged.adapter);
    record::record(&mut merged, inputs, &Options { limit, ..*options })?;
    Ok(merged)
}
