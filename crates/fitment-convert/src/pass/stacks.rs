//! Experts of a layer in one tensor: how models store them, and the edits of such stacks as edits of bundles.

use super::experts::{Part, WORDS, Words, each_summed, parts, spread};
use super::gather::gathered;
use super::sum::Product;
use super::values;
use super::whole::whole;
use crate::tying::model_type;
use fitment_core::Adapter;
use fitment_core::checkpoint::Checkpoint;
use fitment_core::limits::MAX_EXPERTS;
use fitment_core::model::{Edit, ExpertRange, IndexRange, Lora, LoraForm, Origin, Target, TensorName};
use fitment_core::tensor::Tensor;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Models whose class says `is_transposed`, and stores `[E, in, out]` (transformers 5.23).
pub(crate) const SAY_TRANSPOSED: &[&str] = &["gpt_oss", "aria", "aria_text", "openai_privacy_filter"];

/// Models that store `[E, in, out]` and do not say it.
pub(crate) const TRANSPOSED: &[&str] = &["llama4", "llama4_text"];

/// Models whose checkpoints have `[E, in, out]`, and whose class turns them when they are loaded.
pub(crate) const TURNED_ON_LOADING: &[&str] = &["qwen3_vl_moe", "qwen3_vl_moe_text"];

/// Models that have gate and up in turn, row by row (`is_concatenated=False`).
const IN_TURN: &[&str] = &["gpt_oss"];

/// Models whose checkpoints call the experts' matrices `w1`, `w2`, `w3` in a `block_sparse_moe`.
const SPARSE_BLOCKS: &[&str] = &["mixtral", "phimoe"];

/// What is known of a model's stacks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stacks {
    /// Those of its class are `[E, in, out]`.
    pub(crate) is_transposed: bool,
    stored_transposed: bool,
    in_turn: bool,
    /// Its checkpoints of transformers 4 have `block_sparse_moe`.
    pub(crate) sparse_blocks: bool,
    hidden: Option<u64>,
}

/// The type of the text model.
pub(crate) fn text_model(config: &Map<String, Value>) -> Option<&str> {
    let text = config.get("text_config").and_then(Value::as_object);
    text.and_then(model_type).or(model_type(config))
}

impl Stacks {
    /// By a model's config, where there is one.
    pub(crate) fn of(config: Option<&Map<String, Value>>) -> Self {
        let Some(config) = config else { return Self::default() };
        let model = text_model(config);
        let is = |models: &[&str]| model.is_some_and(|model| models.contains(&model));
        let hidden = |config: &Map<String, Value>| config.get("hidden_size")?.as_u64();
        let text = config.get("text_config").and_then(Value::as_object);
        let is_transposed = is(SAY_TRANSPOSED) || is(TRANSPOSED);
        Self {
            is_transposed,
            stored_transposed: is_transposed || is(TURNED_ON_LOADING),
            in_turn: is(IN_TURN),
            sparse_blocks: is(SPARSE_BLOCKS),
            hidden: text.and_then(hidden).or(hidden(config)),
        }
    }

    /// Whether a stack on disk is `[E, in, out]`: by the width of the model where that shows it.
    pub(crate) fn is_stored_transposed(&self, is_down: bool, rows: u64, columns: u64) -> bool {
        let Some(hidden) = self.hidden.filter(|hidden| (rows == *hidden) != (columns == *hidden)) else {
            return self.stored_transposed;
        };
        // Of `down`, the model's width is the output.
        (rows == hidden) != is_down
    }

    /// The outputs of one of a stack's parts: first, bound, step.
    pub(crate) fn outputs(&self, at: u64, count: u64, all: u64) -> Option<(u64, u64, u64)> {
        let own = all.checked_div(count).filter(|own| own.checked_mul(count) == Some(all) && at < count)?;
        match self.in_turn {
            true => Some((at, all, count)),
            false => Some((own.checked_mul(at)?, own.checked_mul(at.checked_add(1)?)?, 1)),
        }
    }

    /// The bundle of a part, by the stack's name.
    pub(crate) fn bundle(&self, stack: &str, part: Part) -> Option<String> {
        let (module, _) = stack.rsplit_once('.')?;
        let words: &Words = if self.sparse_blocks { &WORDS[1] } else { &WORDS[0] };
        let module = match module.strip_suffix(".mlp.experts").filter(|_| self.sparse_blocks) {
            Some(block) => format!("{block}.block_sparse_moe.experts"),
            None => module.to_owned(),
        };
        Some(format!("{module}.{{e}}.{}.weight", words.of(part)))
    }
}

impl Stacks {
    /// The part that an edit is of, where it is of one exactly.
    fn part_of(&self, lora: &Lora<'_>, parts: &[Part], dims: &[u64]) -> Option<Part> {
        let [slice] = &lora.target.slice[..] else { return None };
        let axis = if lora.transposed { 2 } else { 1 };
        let [range] = &slice.ranges[..] else { return None };
        let all = *dims.get(axis).filter(|_| slice.axis == axis as u64)?;
        self.part_at(range, parts, all)
    }

    /// The part whose outputs a range of all is.
    pub(super) fn part_at(&self, range: &IndexRange, parts: &[Part], all: u64) -> Option<Part> {
        let is = |at: usize| {
            let outputs = self.outputs(at as u64, parts.len() as u64, all);
            outputs.is_some_and(|(start, end, step)| {
                range.indices().eq(IndexRange { start, end, step }.indices())
            })
        };
        parts.iter().enumerate().find(|(at, _)| is(*at)).map(|(_, part)| *part)
    }

    /// An edit of a stack's part as one of the bundle.
    fn as_bundle<'a>(
        &self,
        lora: &Lora<'a>,
        part: Part,
        up: Tensor<'a>,
        down: Tensor<'a>,
    ) -> Option<Edit<'a>> {
        let experts = Some(ExpertRange { start: 0, end: *up.dims().first()? });
        let name = TensorName::new(self.bundle(lora.target.name.as_str(), part)?).ok()?;
        let target = Target { name, experts, slice: Vec::new(), ..lora.target.clone() };
        Some(Edit::Lora(Lora { target, form: LoraForm::Matrix, transposed: false, up, down, ..lora.clone() }))
    }
}

/// Edits with low-rank ones and values of stacks as one of a bundle for each part, as models of transformers 4 store experts. What cannot
/// be taken apart stays as it is.
pub(crate) fn unstacked<'a>(adapter: &Adapter<'a>, base: Option<&dyn Checkpoint>) -> Vec<Edit<'a>> {
    let config = base.and_then(|base| base.config()).unwrap_or(&adapter.base.config);
    let stacks = Stacks::of(Some(config));
    let each = |edit: &Edit<'a>| match edit {
        Edit::Lora(lora) if lora.form == LoraForm::Stacked => {
            bundles(lora, &stacks, adapter, base).unwrap_or_else(|| vec![edit.clone()])
        }
        Edit::Set(set) => {
            let dims = extents(set.target.name.as_str(), adapter, base);
            let bundles = dims.and_then(|dims| values::bundles(set, &stacks, &dims));
            bundles.unwrap_or_else(|| vec![edit.clone()])
        }
        _ => vec![edit.clone()],
    };
    adapter.edits.iter().flat_map(each).collect()
}

/// A tensor's extents, by the base or by what is recorded of it.
fn extents(name: &str, adapter: &Adapter<'_>, base: Option<&dyn Checkpoint>) -> Option<Vec<u64>> {
    let at_hand = base.and_then(|base| base.tensors().get(name)).map(|info| &info.shape);
    let recorded = || adapter.base.find(None, name)?.0.shape.as_ref();
    Some(at_hand.or_else(recorded)?.dims().to_vec())
}

fn bundles<'a>(
    lora: &Lora<'a>,
    stacks: &Stacks,
    adapter: &Adapter<'_>,
    base: Option<&dyn Checkpoint>,
) -> Option<Vec<Edit<'a>>> {
    let name = lora.target.name.as_str();
    let parts = parts(name.rsplit('.').next()?);
    let is_whole = lora.target.slice.is_empty();
    let (up, down) = match is_whole {
        true => (lora.up.clone(), lora.down.clone()),
        false => {
            let dims = extents(name, adapter, base)?;
            if let Some(part) = stacks.part_of(lora, parts, &dims) {
                return Some(vec![stacks.as_bundle(lora, part, lora.up.clone(), lora.down.clone())?]);
            }
            whole(lora, &dims)?
        }
    };
    let &[_, rows, _] = up.dims() else { return None };
    let one = |(at, part): (usize, &Part)| -> Option<Option<Edit<'a>>> {
        let (start, end, step) = stacks.outputs(at as u64, parts.len() as u64, rows)?;
        let sources: Option<Vec<_>> = (start..end)
            .step_by(usize::try_from(step).ok()?)
            .map(|row| usize::try_from(row).ok().map(Some))
            .collect();
        let own = if parts.len() == 1 { up.clone() } else { gathered(&up, 1, &sources?)? };
        if !is_whole && own.bytes().iter().all(|byte| *byte == 0) {
            return Some(None);
        }
        stacks.as_bundle(lora, *part, own, down.clone()).map(Some)
    };
    let edits = parts.iter().enumerate().map(one).collect::<Option<Vec<_>>>()?;
    (!parts.is_empty()).then(|| edits.into_iter().flatten().collect())
}

/// Where an edit of experts belongs: the bundle's name, and of which expert on.
struct Piece<'e, 'a> {
    lora: &'e Lora<'a>,
    name: String,
    first: u64,
}

fn piece<'e, 'a>(edit: &'e Edit<'a>) -> Option<Piece<'e, 'a>> {
    let Edit::Lora(lora) = edit else { return None };
    let Target { component, name, experts, slice, uses, when } = &lora.target;
    let is_plain = component.is_none() && slice.is_empty() && uses.is_empty() && when.is_none();
    let is_matrix = lora.form == LoraForm::Matrix && lora.magnitude.is_none() && !lora.transposed;
    if !is_plain || !is_matrix {
        return None;
    }
    if let Some(range) = experts {
        return Some(Piece { lora, name: name.to_string(), first: range.start });
    }
    let (name, first) = numbered(name.as_str())?;
    Some(Piece { lora, name, first })
}

/// The bundle that a tensor of one expert belongs to, and the expert's number.
pub(crate) fn numbered(name: &str) -> Option<(String, u64)> {
    let (module, rest) = name.rsplit_once(".experts.")?;
    let (number, rest) = rest.split_once('.')?;
    let first =
        number.parse::<u64>().ok().filter(|first| *first < MAX_EXPERTS && first.to_string() == number)?;
    Some((format!("{module}.experts.{{e}}.{rest}"), first))
}

/// Edits with those of single experts, and of ranges of them, as one of all experts: missing low-rank updates are zeros, and values come so
/// where none is missing. Without knowing how many there are, only whole bundles of updates come so. Gives besides, for each that was
/// rounded, its name and how many elements.
pub(crate) fn bundled<'a>(
    edits: Vec<Edit<'a>>,
    base: Option<&dyn Checkpoint>,
    config: &Map<String, Value>,
) -> (Vec<Edit<'a>>, Vec<(String, u64)>) {
    let mut pieces = BTreeMap::<String, Vec<usize>>::new();
    for (at, edit) in edits.iter().enumerate() {
        if let Some(piece) = piece(edit) {
            pieces.entry(piece.name).or_default().push(at);
        }
    }
    let (mut joined, mut gone, mut rounded) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
    for (name, places) in pieces {
        let own: Vec<Piece<'_, 'a>> = places.iter().filter_map(|at| piece(edits.get(*at)?)).collect();
        let Some((lora, elements)) = together(&name, &own, count(&name, base, config)) else { continue };
        if elements > 0 {
            rounded.push((name, elements));
        }
        if let Some((first, rest)) = places.split_first() {
            joined.insert(*first, Edit::Lora(lora));
            gone.extend(rest.iter().copied());
        }
    }
    let kept = edits.into_iter().enumerate().filter(|(at, _)| !gone.contains(at));
    let edits = kept.map(|(at, edit)| joined.remove(&at).unwrap_or(edit)).collect();
    (values::bundled(edits, |bundle| count(bundle, base, config)), rounded)
}

/// How many experts there are.
pub(crate) fn count(name: &str, base: Option<&dyn Checkpoint>, config: &Map<String, Value>) -> Option<u64> {
    let on_disk = base.map(|base| {
        let is_there =
            |expert: &u64| base.tensors().contains_key(&name.replacen("{e}", &expert.to_string(), 1));
        (0..MAX_EXPERTS).take_while(is_there).count() as u64
    });
    let keys = ["num_local_experts", "num_experts", "n_routed_experts"];
    let config = base.and_then(|base| base.config()).unwrap_or(config);
    let text = config.get("text_config").and_then(Value::as_object);
    let said =
        || keys.iter().find_map(|key| text.and_then(|text| text.get(*key)).or(config.get(*key))?.as_u64());
    on_disk.filter(|count| *count > 0).or_else(said).filter(|count| *count <= MAX_EXPERTS)
}

fn together<'a>(name: &str, pieces: &[Piece<'_, 'a>], count: Option<u64>) -> Option<(Lora<'a>, u64)> {
    let first = pieces.first()?;
    let range = |piece: &Piece<'_, 'a>| piece.lora.target.experts.map(|range| (range.start, range.end));
    let whole = range(first).filter(|(start, end)| *start == 0 && count.is_none_or(|count| count == *end));
    let (product, rounded, end) = match whole.filter(|_| pieces.iter().all(|piece| range(piece) == whole)) {
        Some((_, end)) => {
            let product = |piece: &Piece<'_, 'a>| {
                let Lora { up, down, scale, .. } = piece.lora;
                Product { up: up.clone(), down: down.clone(), scale: *scale }
            };
            let (product, rounded) = each_summed(&pieces.iter().map(product).collect::<Vec<_>>())?;
            (product, rounded, end)
        }
        None => {
            let count = count?;
            let product = |piece: &Piece<'_, 'a>| {
                let Lora { up, down, scale, .. } = piece.lora;
                (piece.first, Product { up: up.clone(), down: down.clone(), scale: *scale })
            };
            let products: Vec<(u64, Product<'a>)> = pieces.iter().map(product).collect();
            let products: Vec<_> = products.iter().map(|(first, product)| (*first, product)).collect();
            let (product, rounded) = spread(&products, count)?;
            (product, rounded, count)
        }
    };
    let target =
        Target { experts: Some(ExpertRange { start: 0, end }), ..Target::whole(TensorName::new(name).ok()?) };
    let Product { up, down, scale } = product;
    let origin = match pieces {
        [one] => one.lora.origin.clone(),
        _ => Origin::default(),
    };
    Some((Lora { target, up, down, scale, origin, ..first.lora.clone() }, rounded))
}

#[cfg(test)]
mod tests {
    use super::Stacks;

    #[test]
    fn the_width_of_the_model_shows_how_a_stack_is_stored() {
        let stacks = Stacks { hidden: Some(16), stored_transposed: true, ..Stacks::default() };
        assert!(stacks.is_stored_transposed(false, 16, 24) && !stacks.is_stored_transposed(false, 24, 16));
        assert!(stacks.is_stored_transposed(true, 24, 16) && !stacks.is_stored_transposed(true, 16, 24));
        assert!(stacks.is_stored_transposed(true, 16, 16));
    }

    #[test]
    fn parts_are_halves_or_stand_in_turn() {
        let (halves, in_turn) = (Stacks::default(), Stacks { in_turn: true, ..Stacks::default() });
        assert_eq!(halves.outputs(1, 2, 12), Some((6, 12, 1)));
        assert_eq!(in_turn.outputs(1, 2, 12), Some((1, 12, 2)));
        assert_eq!((halves.outputs(0, 2, 11), halves.outputs(2, 2, 12)), (None, None));
    }
}
