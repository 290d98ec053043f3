//! LoRA in the one form that servers agree on: each linear layer by two matrices of one rank, with a scale of 1.

use super::experts::apart;
use super::pad::padded;
use super::scale::scaled_wider;
use super::stacks::{text_model, unstacked};
use super::sum::{Product, alike, sum};
use super::whole::whole;
use crate::error::Error;
use crate::loss::Loss;
use crate::tying::is_embedding_or_head;
use fitment_core::Adapter;
use fitment_core::checkpoint::Checkpoint;
use fitment_core::model::{Edit, Lora, LoraForm, Origin, Target};
use fitment_core::tensor::{Dtype, Tensor};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The ranks that vLLM (0.33.0) has buffers for, up to the largest that mistral.rs (August 2026) takes.
const RANKS: [u64; 7] = [1, 8, 16, 32, 64, 128, 256];

/// The updates of one tensor, and whether it is stored transposed.
struct Updates<'a> {
    target: Target,
    transposed: bool,
    products: Vec<Product<'a>>,
}

/// The adapter as servers load it, and what of it they do not.
///
/// Updates of one tensor become their sum, those of a part of a tensor get zeros around them, bundles and stacks of experts come apart
/// into each expert's matrices, but for models whose experts servers have as stacks. The
/// scale goes into `up` (to F32 where its own dtype would round), and all ranks are padded with zeros to the smallest of [`RANKS`] that
/// holds them: what is computed stays the same.
///
/// # Errors
/// [`Error::Unsupported`] when nothing is left, or when a rank is larger than any server takes.
pub(crate) fn servable<'a>(
    adapter: &Adapter<'a>,
    base: Option<&dyn Checkpoint>,
) -> Result<(Adapter<'a>, Vec<Loss>), Error> {
    let (mut updates, mut losses) = (BTreeMap::<String, Updates<'a>>::new(), Vec::new());
    let config = base.and_then(|base| base.config()).unwrap_or(&adapter.base.config);
    let stack = why_stacked(config);
    let edits = if stack.is_some() { adapter.edits.clone() } else { unstacked(adapter, base) };
    for edit in &apart(&edits) {
        match update(edit, adapter, base) {
            Ok((lora, product)) => {
                let start = || Updates {
                    target: Target::whole(lora.target.name.clone()),
                    transposed: lora.transposed,
                    products: Vec::new(),
                };
                let updates = updates.entry(lora.target.name.to_string()).or_insert_with(start);
                updates.products.push(product);
            }
            Err(STACK) => losses.push(Loss::not_held(edit, stack.unwrap_or(STACK))),
            Err(reason) => losses.push(Loss::not_held(edit, reason)),
        }
    }
    if updates.is_empty() {
        let reason = losses.first().map_or("it has none".to_owned(), Loss::to_string);
        return Err(Error::Unsupported {
            what: "a servable adapter".to_owned(),
            reason: format!("servers load LoRA of linear layers, and this adapter has none ({reason})"),
            hint: "`fitment apply` it, and serve the result".to_owned(),
        });
    }
    let mut folded = Folded::default();
    let mut products = Vec::with_capacity(updates.len());
    for (name, updates) in updates {
        let product = folded.one(&name, &updates.products).ok_or_else(|| unfit(&name))?;
        products.push((name, updates, product));
    }
    let largest = products.iter().max_by_key(|(.., (up, _))| up.dims().get(1).copied());
    let (name, rank) = largest.map_or(("", 0), |(name, _, (up, _))| (name, up.dims()[1]));
    let rank = RANKS.into_iter().find(|known| *known >= rank).ok_or_else(|| too_large(name, rank))?;
    let mut edits = Vec::with_capacity(products.len());
    for (name, Updates { target, transposed, .. }, (up, down)) in products {
        let (up, down) = padded(&up, &down, rank).ok_or_else(|| unfit(&name))?;
        let (form, scale, mid, magnitude) = (LoraForm::Matrix, 1.0, None, None);
        let origin = Origin::default();
        edits.push(Edit::Lora(Lora { target, form, transposed, scale, up, down, mid, magnitude, origin }));
    }
    losses.extend(folded.loss());
    Ok((Adapter { edits, source: None, ..adapter.clone() }, losses))
}

fn unfit(name: &str) -> Error {
    Error::Unsupported {
        what: name.to_owned(),
        reason: "its factors are no matrices of numbers that go together".to_owned(),
        hint: "`fitment apply` it, and serve the result".to_owned(),
    }
}

fn too_large(name: &str, rank: u64) -> Error {
    let largest = RANKS[RANKS.len() - 1];
    Error::Unsupported {
        what: name.to_owned(),
        reason: format!("its rank is {rank}, and servers take {largest} at most"),
        hint: format!("`fitment merge ADAPTER --rank {largest}` makes the nearest of that rank"),
    }
}

/// Models whose experts vLLM (0.33.0) takes as stacks alone (`is_3d_moe_weight`): by the beginning of their type.
const STACKS: &[&str] = &["gpt_oss", "qwen3_vl_moe", "qwen3_5", "qwen3_omni", "interns1_pro"];

/// Why stacks of experts stay stacks, where they do.
fn why_stacked(config: &Map<String, Value>) -> Option<&'static str> {
    match text_model(config) {
        None => Some("nothing says how the model has its stacks of experts: name the base with --base"),
        Some(model) if STACKS.iter().any(|known| model.starts_with(known)) => Some(
            "vLLM loads this model's experts as stacks, and others the matrices of each, so that no form is for all: for vLLM write it without --preset, else `fitment apply` it and serve the result",
        ),
        Some(_) => None,
    }
}

const STACK: &str = "servers look for the factors of each expert's own matrices, and this is a stack that does not come apart";

/// The update of a whole linear layer, or why servers have none such.
fn update<'a, 'e>(
    edit: &'e Edit<'a>,
    adapter: &Adapter<'_>,
    base: Option<&dyn Checkpoint>,
) -> Result<(&'e Lora<'a>, Product<'a>), &'static str> {
    let Edit::Lora(lora) = edit else { return Err("servers add LoRA to linear layers, and nothing else") };
    let name = lora.target.name.as_str();
    if lora.target.component.is_some() {
        return Err("servers load adapters of a single model");
    }
    if lora.target.when.is_some() {
        return Err("servers add LoRA at every token");
    }
    if lora.magnitude.is_some() {
        return Err("servers have no DoRA");
    }
    if lora.form == LoraForm::Stacked {
        return Err(STACK);
    }
    if lora.form == LoraForm::Conv || lora.mid.is_some() {
        return Err("servers have LoRA of linear layers, not of convolutions");
    }
    let module = name.strip_suffix(".weight").ok_or("servers adapt the `weight` of modules")?;
    if !lora.target.uses.is_empty() || is_embedding_or_head(module) {
        return Err("not all servers have LoRA of embeddings and heads");
    }
    let dims = || {
        let at_hand = base.and_then(|base| base.tensors().get(name)).map(|info| info.shape.dims().to_vec());
        let recorded = || Some(adapter.base.find(None, name)?.0.shape.as_ref()?.dims().to_vec());
        at_hand.or_else(recorded)
    };
    let dims = match lora.target.slice.is_empty() {
        true => Vec::new(),
        false => {
            dims().ok_or("it is of a part of a tensor whose shape nothing says: name the base with --base")?
        }
    };
    let (up, down) = whole(lora, &dims).ok_or("its slice does not fit the tensor")?;
    Ok((lora, Product { up, down, scale: lora.scale }))
}

/// Scales that went into factors.
#[derive(Default)]
struct Folded {
    first: Option<String>,
    targets: usize,
}

impl Folded {
    /// Both factors of the sum, which has a scale of 1.
    fn one<'a>(&mut self, name: &str, products: &[Product<'a>]) -> Option<(Tensor<'a>, Tensor<'a>)> {
        let (product, mut rounded) = sum(products)?;
        let (mut up, down) = (product.up, product.down);
        if product.scale != 1.0 {
            let (scaled, elements) = scaled_wider(&up, product.scale, Dtype::F32)?;
            rounded += elements;
            up = scaled;
        }
        if rounded > 0 {
            self.first.get_or_insert_with(|| name.to_owned());
            self.targets += 1;
        }
        let [up, down] = <[Tensor<'a>; 2]>::try_from(alike(vec![up, down])?).ok()?;
        (up.dims().len() == 2).then_some((up, down))
    }

    fn loss(self) -> Option<Loss> {
        let Self { first, targets } = self;
        first.map(|target| Loss::ScaleFolded { target, targets })
    }
}
