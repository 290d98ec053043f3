use super::index::{self, Encoding};
use super::patch::{self, ENDINGS, FORMAT};
use super::read::{BASE, CHECKSUM, sum};
use crate::error::Error;
use crate::files::{Content, OutputFile};
use crate::loss::Loss;
use crate::write::{WriteOptions, Written};
use fitment_core::Adapter;
use fitment_core::model::{Base, Edit, Set, SetDtype, Source, SparseSet, Target};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use serde_json::Value;
use std::collections::BTreeMap;

/// Writes one patch file. What came from a patch keeps the names and the encoding of its positions; else they are those of
/// PR 5417, whose checksum is computed where the base is given.
///
/// # Errors
/// [`Error::Unsupported`] when nothing of the adapter can be held; [`Error::Base`] when the base cannot be read.
pub fn write<'a>(adapter: &Adapter<'a>, options: &WriteOptions<'_>) -> Result<Written<'a>, Error> {
    let source = adapter.source.as_ref().filter(|source| source.format == "trl");
    let layout = Layout::of(source);
    let (mut tensors, mut losses) = (Vec::new(), Vec::new());
    let (mut names, mut elements) = (Vec::new(), 0);
    for edit in &adapter.edits {
        match layout.hold(edit, &adapter.base) {
            Ok((name, held)) => {
                elements += held.last().map_or(0, |(_, tensor)| tensor.elements());
                names.push(name);
                tensors.extend(held);
            }
            Err(reason) => losses.push(Loss::not_held(edit, reason)),
        }
    }
    if names.is_empty() {
        let reason = losses.first().map_or("it has none".to_owned(), Loss::to_string);
        return Err(Error::Unsupported {
            what: "a sparse patch".to_owned(),
            reason: format!("it holds new elements of parameters, and this adapter has none ({reason})"),
            hint: "`fitment apply` it, and `fitment diff BASE RESULT --as sparse` makes such edits"
                .to_owned(),
        });
    }
    let kept = source.map_or(&[][..], |source| &source.kept);
    tensors.extend(kept.iter().map(|kept| (kept.key.clone(), kept.value.clone())));
    let metadata = match source {
        Some(source) if losses.is_empty() && is_as_it_was(&source.metadata, names.len(), elements) => {
            source.metadata.clone()
        }
        _ => {
            names.sort_unstable();
            layout.metadata(adapter, options, &names, elements)?
        }
    };
    let file = OutputFile {
        path: "patch.safetensors".to_owned(),
        content: Content::Container { metadata, tensors },
    };
    Ok(Written { files: vec![file], losses })
}

/// Whether the metadata still count what there is. A checksum in them cannot be held against the elements without the base.
fn is_as_it_was(metadata: &BTreeMap<String, String>, names: usize, elements: u64) -> bool {
    let said = |key: &str| metadata.get(key).and_then(|text| text.parse::<u64>().ok());
    said("total_changed_elements").is_none_or(|said| said == elements)
        && said("num_changed_params").is_none_or(|said| said >= names as u64)
}

/// A parameter's name, and its tensors by their keys.
type Held<'a> = (String, Vec<(String, Tensor<'a>)>);

/// How a patch is laid out.
struct Layout<'m> {
    said: Option<&'m BTreeMap<String, String>>,
    encoding: Encoding,
    /// Whole parameters.
    is_anchor: bool,
    endings: (&'static str, &'static str),
}

impl<'m> Layout<'m> {
    fn of(source: Option<&'m Source<'_>>) -> Self {
        let said = source.map(|source| &source.metadata);
        // Only the second generation tells the encoding, and only it has anchors.
        let is_second = said.is_some_and(|said| said.contains_key("encoding"));
        Self {
            said,
            encoding: said.map_or(Encoding::Raw, patch::encoding),
            is_anchor: said.and_then(|said| said.get("sparse")).is_some_and(|sparse| sparse == "False"),
            endings: ENDINGS[usize::from(is_second)],
        }
    }

    /// The parameter's name and its tensors, or why they cannot be held.
    fn hold<'a>(&self, edit: &Edit<'a>, base: &Base) -> Result<Held<'a>, &'static str> {
        match edit {
            Edit::SparseSet(sparse) if !self.is_anchor => self.pair(sparse),
            Edit::Set(set) if self.is_anchor => whole(set),
            Edit::Set(set) => self.all(set, base),
            Edit::SparseSet(_) => Err("an anchor holds whole parameters"),
            Edit::Bits(_) => {
                Err("a patch holds elements in the clear: `fitment diff --as sparse` gives them")
            }
            _ => Err("a patch holds new elements of parameters"),
        }
    }

    fn pair<'a>(&self, sparse: &SparseSet<'a>) -> Result<Held<'a>, &'static str> {
        let name = parameter(&sparse.target)?;
        let index = index::stored(&sparse.index, self.encoding).ok_or("a patch tells positions below 2³¹")?;
        let (of_index, of_value) = self.endings;
        let pair =
            [(format!("{name}{of_index}"), index), (format!("{name}{of_value}"), sparse.value.clone())];
        Ok((name, pair.into()))
    }

    /// A whole parameter as all its elements, where the base is known to have its dtype.
    fn all<'a>(&self, set: &Set<'a>, base: &Base) -> Result<Held<'a>, &'static str> {
        const NOT_HELD: &str = "a patch holds new elements of parameters";
        let recorded = base.find(None, set.target.name.as_str()).map(|(tensor, _)| tensor);
        let is_of_base = recorded.is_some_and(|recorded| {
            recorded.dtype == Some(set.value.dtype()) && recorded.shape.as_ref() == Some(set.value.shape())
        });
        let plain = set.rows.is_none() && !set.create && is_of_base;
        let count = set.value.elements();
        let narrow = u32::try_from(count).ok().filter(|count| plain && *count > 0).ok_or(NOT_HELD)?;
        let flat = || Shape::new(&[count]).map_err(|_| NOT_HELD);
        let positions: Vec<u8> = (0..narrow).flat_map(u32::to_le_bytes).collect();
        let index = Tensor::owned(Dtype::U32, flat()?, positions).map_err(|_| NOT_HELD)?;
        let value =
            Tensor::new(set.value.dtype(), flat()?, set.value.data().clone()).map_err(|_| NOT_HELD)?;
        self.pair(&SparseSet { target: set.target.clone(), index, value, origin: set.origin.clone() })
    }

    /// The metadata of a patch that is none of TRL's, or no longer.
    fn metadata(
        &self,
        adapter: &Adapter<'_>,
        options: &WriteOptions<'_>,
        names: &[String],
        elements: u64,
    ) -> Result<BTreeMap<String, String>, Error> {
        let all = options.base.map(|base| {
            base.tensors().values().map(|info| info.shape.elements()).fold(0u64, u64::saturating_add)
        });
        let mut metadata = self.said.cloned().unwrap_or_default();
        let mut say = |key: &str, text: String| metadata.insert(key.to_owned(), text);
        say("format", FORMAT.to_owned());
        say("version", "1".to_owned());
        say("num_changed_params", names.len().to_string());
        say("total_changed_elements", elements.to_string());
        if let Some(all) = all {
            say("total_elements", all.to_string());
            say("sparsity", format!("{:?}", 1.0 - elements as f64 / all.max(1) as f64));
        }
        if self.endings == ENDINGS[0] {
            say("changed_params", Value::from(names).to_string());
            let checksum = options.base.map(|base| sum(adapter, base)).transpose()?.flatten();
            say(CHECKSUM, checksum.unwrap_or_default());
        }
        // What a reader of TRL's takes for granted where nothing is said.
        let defaults = [("model_version", "0"), ("prev_model_version", "-1"), ("anchor_step", "0")];
        let name = adapter.base.name.clone().unwrap_or_default();
        if self.said.is_none() {
            metadata.extend(defaults.map(|(key, text)| (key.to_owned(), text.to_owned())));
            metadata.insert(BASE.to_owned(), name);
        }
        Ok(metadata)
    }
}

fn whole<'a>(set: &Set<'a>) -> Result<Held<'a>, &'static str> {
    if set.rows.is_some() || set.create || set.dtype != SetDtype::Base {
        return Err("an anchor holds whole parameters of the base, in the base's dtype");
    }
    let name = parameter(&set.target)?;
    Ok((name.clone(), vec![(name, set.value.clone())]))
}

/// The name of a target that is one whole parameter.
fn parameter(target: &Target) -> Result<String, &'static str> {
    let is_plain = target.component.is_none() && target.experts.is_none() && target.slice.is_empty();
    if is_plain { Ok(target.name.to_string()) } else { Err("a patch holds whole parameters by their names") }
}
