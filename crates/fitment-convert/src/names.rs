//! From the names of the model's class, which the keys of PEFT and of AdapterHub follow, to those of the checkpoint on disk.
//!
//! | adapter made on | keys | checkpoint | bridged by |
//! |---|---|---|---|
//! | the class that wrote the checkpoint | equal | equal | nothing |
//! | a bare `AutoModel` | `layers.0…` | `model.layers.0…` | the one prefix that fits all |
//! | a class with a head | `transformer.h.0…` | `h.0…` (GPT-2 on the hub) | the same, the other way |
//! | a multimodal class of transformers 5 | `model.language_model.layers.0…` | `language_model.model.layers.0…` | a family of renames |
//!
//! A way is taken only if every module is found by it, in a tensor of fitting shape, and no other way of the same kind
//! leads to other tensors. Renames are those of transformers 5.23, `conversion_mapping.py`.

use crate::bind::unmapped;
use crate::error::{Clash, Error};
use crate::loss::Loss;
use crate::tying::{Tied, find_tied};
pub(crate) use crate::wants::{Creates, Fit, Want};
use fitment_core::checkpoint::{Checkpoint, TensorInfo};
use fitment_core::model::TensorName;
use std::collections::{BTreeMap, BTreeSet};

/// Where every wanted tensor is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    /// Class name → name on disk, for all tensors of the base.
    index: BTreeMap<String, String>,
    /// Tensors that are one when the model is loaded.
    pub(crate) tied: Vec<Tied>,
}

impl Names {
    /// The name on disk, if the tensor is there under a name of its own.
    pub(crate) fn on_disk(&self, name: &str) -> Option<&str> {
        self.index.get(name).map(String::as_str)
    }

    /// Every tensor of the base: its names in the class, with its name on disk.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.index.iter().map(|(name, disk)| (name.as_str(), disk.as_str()))
    }

    /// The tied tensors that a name belongs to.
    pub(crate) fn tied_with(&self, name: &str) -> Option<&Tied> {
        self.tied.iter().find(|tied| tied.holds(name))
    }

    /// Of tied tensors, those that are among these names on disk: with the names of their other uses.
    ///
    /// # Errors
    /// A name that no tensor can have.
    pub(crate) fn other_uses<'n>(
        &self,
        targets: impl Iterator<Item = &'n str> + Clone,
    ) -> Result<BTreeMap<TensorName, Vec<TensorName>>, Error> {
        let mut uses = BTreeMap::new();
        for tied in self.tied.iter().filter(|tied| !tied.absent.is_empty()) {
            let Some(disk) = self.on_disk(&tied.owner) else { continue };
            if targets.clone().any(|target| target == disk) {
                let others = tied.absent.iter().map(TensorName::new).collect::<Result<_, _>>()?;
                uses.insert(TensorName::new(disk)?, others);
            }
        }
        Ok(uses)
    }

    fn of_index(index: BTreeMap<String, String>, base: &dyn Checkpoint) -> Self {
        let tied = find_tied(&index, base.config());
        Self { index, tied }
    }

    /// The base tensor that a wanted name is loaded from.
    fn source<'b>(&self, name: &str, base: &'b dyn Checkpoint) -> Option<(&str, &'b TensorInfo)> {
        let owner = || self.on_disk(&self.tied_with(name)?.owner);
        let disk = self.on_disk(name).or_else(owner)?;
        Some((disk, base.tensors().get(disk)?))
    }
}

/// What stands against a way of naming.
#[derive(Debug, Default)]
struct Misses {
    missing: Vec<String>,
    clashes: Vec<Clash>,
    refusal: Option<Error>,
}

impl Misses {
    fn none(&self) -> bool {
        self.missing.is_empty() && self.clashes.is_empty()
    }
}

/// Finds every wanted tensor in the base.
///
/// # Errors
/// [`Error::Unmapped`], [`Error::Mismatch`] when no way of naming finds all; [`Error::Ambiguous`] when two ways find
/// different tensors; [`Error::Unsupported`] for a convolution with groups.
pub(crate) fn resolve(wants: &[Want], base: &dyn Checkpoint) -> Result<Names, Error> {
    let plain: BTreeMap<String, String> =
        base.tensors().keys().map(|name| (name.clone(), name.clone())).collect();
    let identity = Names::of_index(plain.clone(), base);
    let misses = misses(&identity, wants, base);
    if misses.none() {
        return Ok(identity);
    }
    let prefixed = |index: &BTreeMap<String, String>| -> Vec<Names> {
        prefixes(wants, index).into_iter().map(|way| Names::of_index(way.index(index), base)).collect()
    };
    let families = || FAMILIES.iter().filter_map(|family| index_of(family, &plain));
    let steps: [&dyn Fn() -> Vec<Names>; 3] =
        [&|| prefixed(&plain), &|| families().map(|index| Names::of_index(index, base)).collect(), &|| {
            families().flat_map(|index| prefixed(&index)).collect()
        }];
    for step in steps {
        if let Some(names) = only(step(), wants, base)? {
            return Ok(names);
        }
    }
    Err(failure(misses, base))
}

/// The one way among these that finds everything; all that do must lead to the same tensors.
fn only(ways: Vec<Names>, wants: &[Want], base: &dyn Checkpoint) -> Result<Option<Names>, Error> {
    let mut good = ways.into_iter().filter(|names| misses(names, wants, base).none());
    let Some(first) = good.next() else { return Ok(None) };
    let places = |names: &Names| -> Vec<Option<String>> {
        wants.iter().map(|want| names.source(&want.name, base).map(|(disk, _)| disk.to_owned())).collect()
    };
    let expected = places(&first);
    for other in good {
        let found = places(&other);
        if let Some(at) = expected.iter().zip(&found).position(|(a, b)| a != b) {
            let show = |place: &Option<String>| place.clone().unwrap_or_else(|| "a new tensor".to_owned());
            return Err(Error::Ambiguous {
                what: format!("which base tensor {} is", wants[at].name),
                reason: format!("both {} and {} fit all modules", show(&expected[at]), show(&found[at])),
                hint: "give the part of the model that the adapter was trained on as --base".to_owned(),
            });
        }
    }
    Ok(Some(first))
}

fn misses(names: &Names, wants: &[Want], base: &dyn Checkpoint) -> Misses {
    let mut misses = Misses::default();
    for want in wants {
        match names.source(&want.name, base) {
            None if want.creates == Creates::Anything => {}
            None if want.creates == Creates::Heads && !is_of_layer(&want.name, base) => {}
            None => misses.missing.push(want.name.clone()),
            Some((_, info)) if want.fit.takes(info.shape.dims()) => {}
            Some((disk, info)) => {
                if let (Fit::Conv(wanted), dims) = (&want.fit, info.shape.dims()) {
                    misses.refusal = misses.refusal.take().or_else(|| grouped(disk, wanted, dims));
                }
                let (expected, found) = (want.fit.to_string(), format!("{} {}", info.dtype, info.shape));
                misses.clashes.push(Clash { target: disk.to_owned(), expected, found });
            }
        }
    }
    misses
}

/// Whether a tensor belongs to a layer that the base has, under whatever prefix: `layers.7` and the like.
fn is_of_layer(name: &str, base: &dyn Checkpoint) -> bool {
    let parts: Vec<&str> = name.split('.').collect();
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let Some(at) = parts.iter().position(is_number).filter(|at| *at > 0) else { return false };
    let layer = format!("{}.{}.", parts[at - 1], parts[at]);
    let inner = format!(".{layer}");
    base.tensors().keys().any(|name| name.starts_with(&layer) || name.contains(&inner))
}

fn grouped(disk: &str, wanted: &[u64], dims: &[u64]) -> Option<Error> {
    let (&[out, input, ..], &[base_out, base_in, ..]) = (wanted, dims) else { return None };
    let same_kernel = wanted.get(2..) == dims.get(2..);
    let groups =
        out == base_out && same_kernel && 0 < base_in && base_in < input && input.is_multiple_of(base_in);
    groups.then(|| Error::Unsupported {
        what: format!("{disk} (groups > 1)"),
        reason: "in a convolution with groups, lora_A sees all inputs: no grouped weight holds the product"
            .to_owned(),
        hint: "serve it unmerged with PEFT, which refuses to merge it too".to_owned(),
    })
}

fn failure(misses: Misses, base: &dyn Checkpoint) -> Error {
    if let Some(refusal) = misses.refusal {
        return refusal;
    }
    if let Some(first) = misses.missing.first() {
        let module = first.rsplit_once('.').map_or(first.as_str(), |(module, _)| module);
        let packed = ["qweight", "weight_packed", "weight_blocks"].map(|part| format!("{module}.{part}"));
        if let Some(packed) = packed.iter().find(|name| base.tensors().contains_key(*name)) {
            return Error::Unsupported {
                what: packed.clone(),
                reason: "the base is quantised".to_owned(),
                hint: "use the 16-bit checkpoint that it was quantised from".to_owned(),
            };
        }
        let has_weight = |module: &str| base.tensors().contains_key(&format!("{module}.weight"));
        if first.strip_suffix(".bias").is_some_and(has_weight) {
            return Error::Unsupported {
                what: first.clone(),
                reason: "the adapter changes a bias that this layer of the base does not have".to_owned(),
                hint: "serve it unmerged with PEFT, which refuses to merge it too".to_owned(),
            };
        }
        return Error::Unmapped { culprits: unmapped(misses.missing, base) };
    }
    Error::Mismatch { culprits: misses.clashes }
}

/// A prefix that one side has and the other lacks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// The adapter's names lack this prefix of the base's.
    Lacking(String),
    /// The adapter's names have this prefix, the base's have not.
    Having(String),
}

/// Every prefix that would make one wanted tensor, which must be on disk, found.
fn prefixes(wants: &[Want], index: &BTreeMap<String, String>) -> BTreeSet<Way> {
    let Some(want) =
        wants.iter().find(|want| want.creates == Creates::Nothing && !want.is_vocabulary).or(wants.first())
    else {
        return BTreeSet::new();
    };
    let behind = |name: &String| {
        name.strip_suffix(&want.name).filter(|prefix| prefix.ends_with('.')).map(str::to_owned)
    };
    let lacking = index.keys().filter_map(behind).map(Way::Lacking);
    let dots = want.name.match_indices('.').map(|(at, _)| want.name.split_at(at + 1));
    let having =
        dots.filter(|(_, rest)| index.contains_key(*rest)).map(|(prefix, _)| Way::Having(prefix.to_owned()));
    lacking.chain(having).collect()
}

impl Way {
    fn index(&self, index: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let moved = index.iter().filter_map(|(name, disk)| {
            let name = match self {
                Way::Lacking(prefix) => name.strip_prefix(prefix)?.to_owned(),
                Way::Having(prefix) => format!("{prefix}{name}"),
            };
            Some((name, disk.clone()))
        });
        let mut named = index.clone();
        named.extend(moved.collect::<Vec<_>>());
        named
    }
}

/// How the names of one generation of classes come from those on disk.
type Family = [Rename];

enum Rename {
    /// At the beginning of a name, unless it begins with one of the last; the first that fits is the only one.
    Start(&'static str, &'static str, &'static [&'static str]),
    /// Anywhere in a name.
    Inside(&'static str, &'static str),
}

use Rename::{Inside, Start};

const FAMILIES: &[&Family] = &[
    // LLaVA and its kin in transformers 5; checkpoints keep the older names.
    &[
        Start("language_model.lm_head.", "lm_head.", &[]),
        Start("language_model.model.", "model.language_model.", &[]),
        Start("vision_tower.", "model.vision_tower.", &[]),
        Start("vision_model.", "model.vision_model.", &[]),
        Start("audio_tower.", "model.audio_tower.", &[]),
        Start("image_tower.", "model.image_tower.", &[]),
        Start("video_tower.", "model.video_tower.", &[]),
        Start("multi_modal_projector.", "model.multi_modal_projector.", &[]),
    ],
    // Qwen2-VL in transformers 5; and a text checkpoint under an adapter of a multimodal class.
    &[
        Start("visual.", "model.visual.", &[]),
        Start("model.", "model.language_model.", &["model.language_model.", "model.visual."]),
    ],
    // Adapters of transformers before 4.52 on checkpoints with the newer names.
    &[
        Start("lm_head.", "language_model.lm_head.", &[]),
        Start("model.language_model.", "language_model.model.", &[]),
        Start("model.vision_tower.", "vision_tower.", &[]),
        Start("model.multi_modal_projector.", "multi_modal_projector.", &[]),
    ],
    // Adapters of the language model alone on a multimodal checkpoint.
    &[
        Start("language_model.lm_head.", "lm_head.", &[]),
        Start("language_model.model.", "model.", &[]),
        Start("model.language_model.", "model.", &[]),
        Start("model.visual.", "visual.", &[]),
    ],
    // ViT and its kin in transformers 5.
    &[
        Inside("encoder.layer.", "layers."),
        Inside("attention.query", "q_proj"),
        Inside("attention.key", "k_proj"),
        Inside("attention.value", "v_proj"),
        Inside("attention.output.dense", "attention.o_proj"),
        Inside("intermediate.dense", "mlp.fc1"),
        Inside("output.dense", "mlp.fc2"),
    ],
    // Mixtral and Phi-MoE in transformers 5.
    &[Inside(".block_sparse_moe.", ".mlp.")],
    // Granite's mixtures in transformers 5.
    &[
        Inside(".block_sparse_moe.input_linear.weight", ".block_sparse_moe.experts.gate_up_proj"),
        Inside(".block_sparse_moe.output_linear.weight", ".block_sparse_moe.experts.down_proj"),
        Inside(".block_sparse_moe.router.layer.weight", ".block_sparse_moe.router.weight"),
    ],
];

/// The class's names of all tensors; `None` when two of them would have one name, which no class has.
fn index_of(family: &Family, plain: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    let index: BTreeMap<String, String> =
        plain.keys().map(|disk| (in_class(family, disk), disk.clone())).collect();
    (index.len() == plain.len()).then_some(index)
}

/// A name on disk as the class in memory has it.
fn in_class(family: &Family, disk: &str) -> String {
    let mut name = disk.to_owned();
    for rename in family {
        match rename {
            Start(from, to, except) => {
                let excepted = except.iter().any(|prefix| name.starts_with(prefix));
                if let Some(rest) = name.strip_prefix(from).filter(|_| !excepted) {
                    return format!("{to}{rest}");
                }
            }
            Inside(from, to) => name = name.replace(from, to),
        }
    }
    name
}

/// Where the tensors of the adapter are in the base.
#[derive(Default)]
pub(crate) struct Places {
    /// Name in the class → name on disk.
    pub(crate) names: BTreeMap<String, String>,
    /// Name on disk → its other uses.
    pub(crate) tied: BTreeMap<TensorName, Vec<TensorName>>,
    /// Where a name on disk is another: the first of them.
    pub(crate) renamed: Option<Loss>,
}

/// [`resolve`], for formats that name tensors as a class of the model does.
///
/// # Errors
/// As [`resolve`].
pub(crate) fn placed(wants: &[Want], base: &dyn Checkpoint) -> Result<Places, Error> {
    let found = resolve(wants, base)?;
    let place = |want: &Want| {
        let disk = found.on_disk(&want.name).unwrap_or(&want.name);
        (want.name.clone(), disk.to_owned())
    };
    let names: BTreeMap<String, String> = wants.iter().map(place).collect();
    let moved = |(name, disk): &(&String, &String)| name != disk;
    let renamed = names.iter().find(moved).map(|(from, to)| Loss::Renamed {
        from: from.clone(),
        to: to.clone(),
        targets: names.iter().filter(moved).count(),
    });
    let tied = found.other_uses(names.values().map(String::as_str))?;
    Ok(Places { names, tied, renamed })
}

#[cfg(test)]
mod tests {
    use super::{Creates, FAMILIES, Fit, Want, in_class, resolve};
    use crate::error::Error;
    use fitment_core::checkpoint::MemoryCheckpoint;
    use fitment_core::container::write_container;
    use fitment_core::tensor::{Dtype, Shape, Tensor};
    use std::collections::BTreeMap;

    fn base(names: &[&str]) -> Vec<u8> {
        let tensor = Tensor::owned(Dtype::F32, Shape::new(&[2, 3]).unwrap(), vec![0; 24]).unwrap();
        let mut bytes = Vec::new();
        let tensors = names.iter().map(|name| ((*name).to_owned(), &tensor));
        write_container(&BTreeMap::new(), tensors, &mut bytes).unwrap();
        bytes
    }

    fn want(name: &str) -> Want {
        let fit = Fit::Linear { out: 2, input: 3 };
        Want { name: name.to_owned(), fit, creates: Creates::Nothing, is_vocabulary: false }
    }

    fn find(on_disk: &[&str], wanted: &[&str]) -> Result<Vec<String>, Error> {
        let bytes = base(on_disk);
        let checkpoint = MemoryCheckpoint::new(&bytes, None).unwrap();
        let wants: Vec<Want> = wanted.iter().map(|name| want(name)).collect();
        let names = resolve(&wants, &checkpoint)?;
        Ok(wanted.iter().map(|name| names.on_disk(name).unwrap().to_owned()).collect())
    }

    #[test]
    fn equal_names_win() {
        let disk = ["a.layers.0.q.weight", "layers.0.q.weight"];
        assert_eq!(find(&disk, &["layers.0.q.weight"]).unwrap(), ["layers.0.q.weight"]);
    }

    #[test]
    fn one_prefix_that_fits_all_is_taken() {
        let disk = ["bert.layer.0.q.weight", "bert.layer.1.q.weight"];
        assert_eq!(find(&disk, &["layer.0.q.weight", "layer.1.q.weight"]).unwrap(), disk);
        assert_eq!(find(&["h.0.q.weight"], &["transformer.h.0.q.weight"]).unwrap(), ["h.0.q.weight"]);
    }

    #[test]
    fn two_prefixes_that_fit_all_are_ambiguous() {
        let disk = ["text.layer.0.q.weight", "vision.layer.0.q.weight"];
        assert!(matches!(find(&disk, &["layer.0.q.weight"]), Err(Error::Ambiguous { .. })));
    }

    #[test]
    fn a_prefix_that_misses_one_module_is_not_taken() {
        let disk = ["bert.layer.0.q.weight", "bert.layer.1.k.weight"];
        let error = find(&disk, &["layer.0.q.weight", "layer.9.q.weight"]).unwrap_err();
        let Error::Unmapped { culprits } = error else { panic!("{error}") };
        assert_eq!(culprits.len(), 2);
        assert_eq!(culprits[0].nearest.as_deref(), Some("bert.layer.0.q.weight"));
    }

    #[test]
    fn multimodal_names_of_either_generation_are_found() {
        let old = ["language_model.model.layers.0.q.weight", "vision_tower.layers.0.q.weight"];
        let new = ["model.language_model.layers.0.q.weight", "model.vision_tower.layers.0.q.weight"];
        assert_eq!(find(&old, &new).unwrap(), old);
        assert_eq!(find(&new, &old).unwrap(), new);
        assert_eq!(find(&old, &["model.layers.0.q.weight"]).unwrap(), [old[0]]);
        assert_eq!(find(&["model.layers.0.q.weight"], &[new[0]]).unwrap(), ["model.layers.0.q.weight"]);
    }

    #[test]
    fn vit_of_transformers_5_is_found_under_its_older_names() {
        let disk = "vit.encoder.layer.3.attention.attention.query.weight";
        assert_eq!(in_class(FAMILIES[4], disk), "vit.layers.3.attention.q_proj.weight");
        assert_eq!(find(&[disk], &["vit.layers.3.attention.q_proj.weight"]).unwrap(), [disk]);
        assert_eq!(find(&[disk], &["layers.3.attention.q_proj.weight"]).unwrap(), [disk]);
    }
}
