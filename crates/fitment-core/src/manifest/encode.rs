use super::v1;
use crate::check::{Each, in_order};
use crate::identity::{hex, tensor_digest};
use crate::json::to_canonical;
use crate::model::{
    About, Adapter, Base, ConfigEdit, Digest, Edit, ExpertRange, Intervention, Layout, Lora, LoraForm,
    NormOf, Origin, Positions, Select, SetDtype, Site, Source, Target, When,
};
use crate::tensor::{Dtype, Shape, Tensor};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// An adapter as it will be stored: the manifest, and the tensors by stored name.
#[derive(Clone, Debug)]
pub struct Encoded<'a> {
    /// The manifest.
    pub manifest: v1::Manifest,
    /// The tensors; clones share bytes with the adapter.
    pub tensors: BTreeMap<String, Tensor<'a>>,
}

impl Encoded<'_> {
    /// The manifest's canonical text.
    pub fn text(&self) -> String {
        to_canonical(&self.manifest)
    }
}

/// Names the tensors of an adapter, digests them and derives `requires` and the content id.
pub fn encode<'a>(adapter: &Adapter<'a>) -> Encoded<'a> {
    encode_each(adapter, &in_order)
}

/// [`encode`], with the passes over tensors run by `each`.
pub fn encode_each<'a>(adapter: &Adapter<'a>, each: Each<'_>) -> Encoded<'a> {
    let mut encoded = encode_undigested(adapter);
    let tensors: Vec<(&String, &Tensor<'a>)> = encoded.tensors.iter().collect();
    let found: Vec<OnceLock<Digest>> = tensors.iter().map(|_| OnceLock::new()).collect();
    each(tensors.len(), &|index| {
        if let (Some((name, tensor)), Some(digest)) = (tensors.get(index), found.get(index)) {
            digest.get_or_init(|| tensor_digest(name, tensor.dtype(), tensor.shape(), tensor.bytes()));
        }
    });
    let digest = |((name, _), digest): (&(&String, _), OnceLock<Digest>)| {
        Some(((*name).clone(), digest.into_inner()?))
    };
    let digests: BTreeMap<String, Digest> = tensors.iter().zip(found).filter_map(digest).collect();
    let manifest = &mut encoded.manifest;
    manifest.id = super::content_id(&manifest.edits, &digests);
    manifest.tensors = digests.into_iter().map(|(name, digest)| (name, hex(&digest))).collect();
    encoded
}

/// [`encode`] without what needs a pass over the tensors: `id` and `tensors` are empty.
pub(crate) fn encode_undigested<'a>(adapter: &Adapter<'a>) -> Encoded<'a> {
    let mut store = Store::default();
    let edits: Vec<v1::Edit> = adapter.edits.iter().map(|edit| store.edit(edit)).collect();
    let base = store.base(&adapter.base);
    let source = adapter.source.as_ref().map(|source| store.source(source));
    let manifest = v1::Manifest {
        fitment: v1::VERSION.to_owned(),
        requires: super::requires(&edits).into_iter().map(str::to_owned).collect(),
        id: String::new(),
        base,
        edits,
        tensors: BTreeMap::new(),
        source,
        about: about(&adapter.about),
        extra: adapter.extra.clone(),
    };
    Encoded { manifest, tensors: store.tensors }
}

/// Place, length, dtype and shape: what makes two tensors one stored tensor.
type Identity = (usize, usize, Dtype, Shape);

#[derive(Default)]
struct Store<'a> {
    tensors: BTreeMap<String, Tensor<'a>>,
    names: BTreeMap<Identity, String>,
    edits_of_label: BTreeMap<String, usize>,
}

impl<'a> Store<'a> {
    /// Stores a tensor, or finds it stored already; gives its name.
    fn put(&mut self, name: String, tensor: &Tensor<'a>) -> String {
        let bytes = tensor.bytes();
        let identity = (bytes.as_ptr() as usize, bytes.len(), tensor.dtype(), tensor.shape().clone());
        // Empty tensors have no place of their own: each is stored under its own name.
        if let Some(known) = self.names.get(&identity).filter(|_| !bytes.is_empty()) {
            return known.clone();
        }
        self.names.insert(identity, name.clone());
        self.tensors.insert(name.clone(), tensor.clone());
        name
    }

    fn edit(&mut self, edit: &Edit<'a>) -> v1::Edit {
        let mut tensors = BTreeMap::new();
        if let Some(label) = edit.label() {
            let index = self.edits_of_label.entry(label.clone()).or_default();
            let prefix = format!("{label}::{index}.{}", edit.kind());
            *index += 1;
            for (role, tensor) in edit.tensors() {
                tensors.insert(role.to_owned(), self.put(format!("{prefix}.{role}"), tensor));
            }
        }
        let origin = origin(edit.origin());
        let extra = edit.origin().edit_extra.clone();
        match edit {
            Edit::Lora(edit) => v1::Edit::Lora(lora(edit, tensors, origin, extra)),
            Edit::Set(edit) => v1::Edit::Set(v1::SetEdit {
                target: target(&edit.target),
                dtype: match edit.dtype {
                    SetDtype::Stored => v1::SetDtype::Stored,
                    SetDtype::Base => v1::SetDtype::Base,
                },
                create: edit.create,
                reshape: edit.reshape,
                tensors,
                origin,
                extra,
            }),
            Edit::Remove(edit) => {
                v1::Edit::Remove(v1::RemoveEdit { target: target(&edit.target), origin, extra })
            }
            Edit::Add(edit) => v1::Edit::Add(v1::AddEdit {
                target: target(&edit.target),
                scale: edit.scale,
                tensors,
                origin,
                extra,
            }),
            Edit::Config(edit) => v1::Edit::Config(config(edit, origin, extra)),
            Edit::Intervention(edit) => v1::Edit::Intervention(intervention(edit, tensors, origin, extra)),
            Edit::SparseSet(edit) => v1::Edit::SparseSet(v1::SparseSetEdit {
                target: target(&edit.target),
                tensors,
                origin,
                extra,
            }),
            Edit::SparseAdd(edit) => v1::Edit::SparseAdd(v1::SparseAddEdit {
                target: target(&edit.target),
                scale: edit.scale,
                tensors,
                origin,
                extra,
            }),
            Edit::Bits(edit) => v1::Edit::Bits(v1::BitsEdit {
                target: target(&edit.target),
                base: hex(&edit.base),
                result: hex(&edit.result),
                changed: edit.changed,
                tensors,
                origin,
                extra,
            }),
        }
    }

    fn base(&mut self, base: &Base) -> v1::Base {
        let digests: Vec<u8> =
            base.tensors.iter().flat_map(|t| t.digests.iter().flatten().copied()).collect();
        let digests = (!digests.is_empty()).then(|| {
            let rows = digests.len() as u64 / 32;
            let shape = Shape::new(&[rows, 32]).expect("digests in memory are countable");
            let tensor = Tensor::owned(Dtype::U8, shape, digests).expect("32 bytes a row");
            self.put("@base::0.digest.sha256".to_owned(), &tensor)
        });
        let tensors = base.tensors.iter().map(|tensor| v1::BaseTensor {
            component: tensor.component.as_ref().map(ToString::to_string),
            name: tensor.name.to_string(),
            experts: experts(tensor.experts),
            dtype: tensor.dtype.map(|dtype| dtype.name().to_owned()),
            shape: tensor.shape.as_ref().map(|shape| shape.dims().to_vec()),
            unchanged: tensor.unchanged,
            extra: tensor.extra.clone(),
        });
        let names = |names: &[crate::model::TensorName]| names.iter().map(ToString::to_string).collect();
        v1::Base {
            name: base.name.clone(),
            revision: base.revision.clone(),
            architecture: base.architecture.clone(),
            layout: Layout::to_text(&base.layout),
            config: base.config.clone(),
            tied: base.tied.iter().map(|(name, uses)| (name.to_string(), names(uses))).collect(),
            tensors: tensors.collect(),
            digests,
            extra: base.extra.clone(),
        }
    }

    fn source(&mut self, source: &Source<'a>) -> v1::Source {
        let mut file = |(index, file): (usize, &crate::model::SourceFile<'a>)| v1::SourceFile {
            path: file.path.clone(),
            tensor: self.put_own(format!("@source::{index}.file.data"), &file.data),
        };
        let files = source.files.iter().enumerate().map(&mut file).collect();
        let mut kept = |(index, kept): (usize, &crate::model::KeptTensor<'a>)| v1::KeptTensor {
            key: kept.key.clone(),
            tensor: self.put_own(format!("@source::{index}.kept.data"), &kept.value),
        };
        let kept = source.kept.iter().enumerate().map(&mut kept).collect();
        v1::Source {
            format: source.format.clone(),
            version: source.version.clone(),
            weights: source.weights.clone(),
            files,
            kept,
            metadata: source.metadata.clone(),
            options: source.options.clone(),
            extra: source.extra.clone(),
        }
    }

    /// Stores a tensor of the source under its own name, whoever else holds the same bytes.
    fn put_own(&mut self, name: String, tensor: &Tensor<'a>) -> String {
        self.tensors.insert(name.clone(), tensor.clone());
        name
    }
}

fn experts(range: Option<ExpertRange>) -> Option<[u64; 2]> {
    range.map(|range| [range.start, range.end])
}

fn target(target: &Target) -> v1::Target {
    let slice = target.slice.iter().map(|slice| v1::AxisSlice {
        axis: slice.axis,
        ranges: slice.ranges.iter().map(|range| [range.start, range.end, range.step]).collect(),
    });
    v1::Target {
        component: target.component.as_ref().map(ToString::to_string),
        target: target.name.to_string(),
        experts: experts(target.experts),
        slice: slice.collect(),
        uses: target.uses.iter().map(ToString::to_string).collect(),
        when: target.when.as_ref().map(when),
    }
}

fn when(when: &When) -> v1::When {
    v1::When { phase: when.phase.into(), after_tokens: when.after_tokens.clone() }
}

type Extra = serde_json::Map<String, serde_json::Value>;

fn lora(
    edit: &Lora<'_>,
    tensors: BTreeMap<String, String>,
    origin: v1::Origin,
    extra: Extra,
) -> v1::LoraEdit {
    v1::LoraEdit {
        target: target(&edit.target),
        form: match edit.form {
            LoraForm::Matrix => v1::LoraForm::Matrix,
            LoraForm::Conv => v1::LoraForm::Conv,
            LoraForm::Stacked => v1::LoraForm::Stacked,
        },
        transposed: edit.transposed,
        scale: edit.scale,
        magnitude: edit.magnitude.as_ref().map(|magnitude| v1::Magnitude {
            axis: magnitude.axis,
            norm_of: match magnitude.norm_of {
                NormOf::Merged => v1::NormOf::Merged,
                NormOf::Base => v1::NormOf::Base,
            },
            eps: magnitude.eps,
        }),
        tensors,
        origin,
        extra,
    }
}

fn config(edit: &ConfigEdit, origin: v1::Origin, extra: Extra) -> v1::ConfigEdit {
    v1::ConfigEdit {
        component: edit.component.as_ref().map(ToString::to_string),
        key: edit.value.key().to_owned(),
        value: edit.value.json(),
        origin,
        extra,
    }
}

fn intervention(
    edit: &Intervention<'_>,
    tensors: BTreeMap<String, String>,
    origin: v1::Origin,
    extra: Extra,
) -> v1::InterventionEdit {
    v1::InterventionEdit {
        component: edit.component.as_ref().map(ToString::to_string),
        site: site(&edit.site),
        input_site: edit.input_site.as_ref().map(site),
        dims: edit.dims,
        scale: edit.scale,
        activation: edit.activation.map(Into::into),
        subtract: edit.subtract,
        orthonormal: edit.orthonormal,
        positions: positions(&edit.positions),
        overlap: edit.overlap.into(),
        rounding: edit.rounding.into(),
        tensors,
        origin,
        extra,
    }
}

fn site(site: &Site) -> v1::Site {
    match site {
        Site::Layer { layer, component } => {
            v1::Site { layer: Some(*layer), component: Some((*component).into()), path: None }
        }
        Site::Module(module) => {
            v1::Site { layer: None, component: None, path: Some(module.as_str().to_owned()) }
        }
    }
}

fn positions(positions: &Positions) -> v1::Positions {
    v1::Positions {
        phase: positions.phase.into(),
        select: match &positions.select {
            Select::All => v1::Select::All,
            Select::FirstLast(ends) => v1::Select::FirstLast(v1::FirstLast {
                first: ends.first,
                last: ends.last,
                end_offset: ends.end_offset,
                short: ends.short.into(),
                group: ends.group.into(),
            }),
            Select::Explicit(numbers) => v1::Select::Explicit(numbers.clone()),
        },
    }
}

fn origin(origin: &Origin) -> v1::Origin {
    v1::Origin {
        alpha: origin.alpha,
        rank: origin.rank,
        rslora: origin.rslora,
        keys: origin.keys.clone(),
        extra: origin.extra.clone(),
    }
}

fn about(about: &About) -> Option<v1::About> {
    (!about.is_empty()).then(|| v1::About {
        title: about.title.clone(),
        description: about.description.clone(),
        license: about.license.clone(),
        triggers: about.triggers.clone(),
        tags: about.tags.clone(),
        extra: about.extra.clone(),
    })
}
