use super::v1;
use crate::error::{Error, Result};
use crate::identity::unhex;
use crate::model::{
    About, Adapter, Add, AxisSlice, Base, BaseTensor, Bits, ComponentName, ConfigEdit, ConfigValue, Digest,
    Edit, Exceptions, ExpertRange, FirstLast, IndexRange, Intervention, KeptTensor, Layout, Lora, LoraForm,
    Magnitude, ModuleSite, NormOf, Origin, Positions, Remove, Select, Set, SetDtype, Site, Source,
    SourceFile, SparseAdd, SparseSet, Target, TensorName, When,
};
use crate::tensor::{Dtype, Shape, Tensor};
use std::collections::BTreeMap;

/// The model of a manifest that [`mod@crate::check`] found without error.
///
/// # Errors
/// [`Error::Invalid`] where the manifest breaks a rule all the same; nothing panics.
pub(crate) fn decode<'a>(
    manifest: &v1::Manifest,
    stored: &BTreeMap<&str, Tensor<'a>>,
) -> Result<Adapter<'a>> {
    let stored = Stored(stored);
    Ok(Adapter {
        base: base(&manifest.base, &stored)?,
        edits: manifest.edits.iter().map(|edit| self::edit(edit, &stored)).collect::<Result<_>>()?,
        source: manifest.source.as_ref().map(|source| self::source(source, &stored)).transpose()?,
        about: about(manifest.about.as_ref()),
        extra: manifest.extra.clone(),
    })
}

struct Stored<'s, 'a>(&'s BTreeMap<&'s str, Tensor<'a>>);

impl<'a> Stored<'_, 'a> {
    fn get(&self, name: &str) -> Result<Tensor<'a>> {
        self.0.get(name).cloned().ok_or_else(|| invalid(name, "not stored"))
    }

    fn role(&self, tensors: &BTreeMap<String, String>, role: &str) -> Result<Tensor<'a>> {
        self.get(tensors.get(role).ok_or_else(|| invalid(role, "the edit has no such role"))?)
    }

    fn optional(&self, tensors: &BTreeMap<String, String>, role: &str) -> Result<Option<Tensor<'a>>> {
        tensors.get(role).map(|name| self.get(name)).transpose()
    }
}

fn invalid(place: &str, message: &str) -> Error {
    Error::Invalid { place: place.to_owned(), message: message.to_owned() }
}

fn edit<'a>(edit: &v1::Edit, stored: &Stored<'_, 'a>) -> Result<Edit<'a>> {
    let (outside, extra) = edit.outside();
    let origin = Origin {
        alpha: outside.alpha,
        rank: outside.rank,
        rslora: outside.rslora,
        keys: outside.keys.clone(),
        extra: outside.extra.clone(),
        edit_extra: extra.clone(),
    };
    Ok(match edit {
        v1::Edit::Lora(edit) => Edit::Lora(lora(edit, stored, origin)?),
        v1::Edit::Set(edit) => Edit::Set(Set {
            target: target(&edit.target)?,
            dtype: match edit.dtype {
                v1::SetDtype::Stored => SetDtype::Stored,
                v1::SetDtype::Base => SetDtype::Base,
            },
            create: edit.create,
            reshape: edit.reshape,
            value: stored.role(&edit.tensors, "value")?,
            rows: stored.optional(&edit.tensors, "rows")?,
            origin,
        }),
        v1::Edit::Remove(edit) => Edit::Remove(Remove { target: target(&edit.target)?, origin }),
        v1::Edit::Add(edit) => {
            let index = stored.optional(&edit.tensors, "exc_index")?;
            let value = stored.optional(&edit.tensors, "exc_value")?;
            Edit::Add(Add {
                target: target(&edit.target)?,
                scale: edit.scale,
                value: stored.role(&edit.tensors, "value")?,
                exceptions: index.zip(value).map(|(index, value)| Exceptions { index, value }),
                origin,
            })
        }
        v1::Edit::Config(edit) => Edit::Config(ConfigEdit {
            component: component(edit.component.as_ref())?,
            value: ConfigValue::from_json(&edit.key, &edit.value).ok_or_else(|| {
                invalid(&edit.key, "not a config key that an adapter may set, or not its type")
            })?,
            origin,
        }),
        v1::Edit::Intervention(edit) => Edit::Intervention(intervention(edit, stored, origin)?),
        v1::Edit::SparseSet(edit) => Edit::SparseSet(SparseSet {
            target: target(&edit.target)?,
            index: stored.role(&edit.tensors, "index")?,
            value: stored.role(&edit.tensors, "value")?,
            origin,
        }),
        v1::Edit::SparseAdd(edit) => Edit::SparseAdd(SparseAdd {
            target: target(&edit.target)?,
            scale: edit.scale,
            index: stored.role(&edit.tensors, "index")?,
            value: stored.role(&edit.tensors, "value")?,
            origin,
        }),
        v1::Edit::Bits(edit) => Edit::Bits(bits(edit, stored, origin)?),
    })
}

fn bits<'a>(edit: &v1::BitsEdit, stored: &Stored<'_, 'a>, origin: Origin) -> Result<Bits<'a>> {
    let digest = |text: &str| unhex(text).ok_or_else(|| invalid(&edit.target.target, "no SHA-256"));
    Ok(Bits {
        target: target(&edit.target)?,
        base: digest(&edit.base)?,
        result: digest(&edit.result)?,
        changed: edit.changed,
        z: stored.role(&edit.tensors, "z")?,
        origin,
    })
}

fn intervention<'a>(
    edit: &v1::InterventionEdit,
    stored: &Stored<'_, 'a>,
    origin: Origin,
) -> Result<Intervention<'a>> {
    let role = |role| stored.optional(&edit.tensors, role);
    Ok(Intervention {
        component: component(edit.component.as_ref())?,
        site: site(&edit.site)?,
        input_site: edit.input_site.as_ref().map(site).transpose()?,
        dims: edit.dims,
        scale: edit.scale,
        activation: edit.activation.map(Into::into),
        subtract: edit.subtract,
        orthonormal: edit.orthonormal,
        up: role("up")?,
        up_bias: role("up.bias")?,
        source_weight: role("source.weight")?,
        source_bias: role("source.bias")?,
        proj: role("proj")?,
        proj_bias: role("proj.bias")?,
        positions: positions(&edit.positions),
        overlap: edit.overlap.into(),
        rounding: edit.rounding.into(),
        origin,
    })
}

fn site(site: &v1::Site) -> Result<Site> {
    match (site.layer, site.component, &site.path) {
        (Some(layer), Some(component), None) => Ok(Site::Layer { layer, component: component.into() }),
        (None, None, Some(path)) => ModuleSite::new(path).map(Site::Module),
        _ => Err(invalid("site", "expected a layer and a component, or a path alone")),
    }
}

fn positions(positions: &v1::Positions) -> Positions {
    Positions {
        phase: positions.phase.into(),
        select: match &positions.select {
            v1::Select::All => Select::All,
            v1::Select::FirstLast(ends) => Select::FirstLast(FirstLast {
                first: ends.first,
                last: ends.last,
                end_offset: ends.end_offset,
                short: ends.short.into(),
                group: ends.group.into(),
            }),
            v1::Select::Explicit(numbers) => Select::Explicit(numbers.clone()),
        },
    }
}

fn lora<'a>(edit: &v1::LoraEdit, stored: &Stored<'_, 'a>, origin: Origin) -> Result<Lora<'a>> {
    let magnitude = match (&edit.magnitude, stored.optional(&edit.tensors, "magnitude")?) {
        (None, None) => None,
        (Some(how), Some(value)) => Some(Magnitude {
            value,
            axis: how.axis,
            norm_of: match how.norm_of {
                v1::NormOf::Merged => NormOf::Merged,
                v1::NormOf::Base => NormOf::Base,
            },
            eps: how.eps,
        }),
        _ => return Err(invalid(&edit.target.target, "field and role `magnitude` come together")),
    };
    Ok(Lora {
        target: target(&edit.target)?,
        form: match edit.form {
            v1::LoraForm::Matrix => LoraForm::Matrix,
            v1::LoraForm::Conv => LoraForm::Conv,
            v1::LoraForm::Stacked => LoraForm::Stacked,
        },
        transposed: edit.transposed,
        scale: edit.scale,
        up: stored.role(&edit.tensors, "up")?,
        down: stored.role(&edit.tensors, "down")?,
        mid: stored.optional(&edit.tensors, "mid")?,
        magnitude,
        origin,
    })
}

fn component(name: Option<&String>) -> Result<Option<ComponentName>> {
    name.map(ComponentName::new).transpose()
}

fn names(names: &[String]) -> Result<Vec<TensorName>> {
    names.iter().map(TensorName::new).collect()
}

fn experts(range: Option<[u64; 2]>) -> Option<ExpertRange> {
    range.map(|[start, end]| ExpertRange { start, end })
}

fn target(target: &v1::Target) -> Result<Target> {
    let slice = target.slice.iter().map(|slice| AxisSlice {
        axis: slice.axis,
        ranges: slice.ranges.iter().map(|&[start, end, step]| IndexRange { start, end, step }).collect(),
    });
    Ok(Target {
        component: component(target.component.as_ref())?,
        name: TensorName::new(&target.target)?,
        experts: experts(target.experts),
        slice: slice.collect(),
        uses: names(&target.uses)?,
        when: target
            .when
            .as_ref()
            .map(|when| When { phase: when.phase.into(), after_tokens: when.after_tokens.clone() }),
    })
}

fn base(base: &v1::Base, stored: &Stored<'_, '_>) -> Result<Base> {
    let digests = base.digests.as_ref().map(|name| stored.get(name)).transpose()?;
    let mut rows = digests.iter().flat_map(|tensor| tensor.bytes().chunks_exact(32));
    let mut tensors = Vec::with_capacity(base.tensors.len());
    for tensor in &base.tensors {
        let shape = tensor.shape.as_deref().map(Shape::new).transpose();
        let experts = experts(tensor.experts);
        let count = usize::try_from(experts.map_or(1, ExpertRange::count)).unwrap_or(usize::MAX);
        let digests = rows.by_ref().take(count).map(|row| row.try_into().expect("a row has 32 bytes"));
        tensors.push(BaseTensor {
            component: component(tensor.component.as_ref())?,
            name: TensorName::new(&tensor.name)?,
            experts,
            dtype: tensor.dtype.as_deref().and_then(Dtype::from_name),
            shape: shape.map_err(|source| Error::Shape { name: tensor.name.clone(), source })?,
            digests: digests.collect::<Vec<Digest>>(),
            unchanged: tensor.unchanged,
            extra: tensor.extra.clone(),
        });
    }
    let tied = base.tied.iter().map(|(name, uses)| Ok((TensorName::new(name)?, names(uses)?)));
    Ok(Base {
        name: base.name.clone(),
        revision: base.revision.clone(),
        architecture: base.architecture.clone(),
        layout: Layout::from_text(&base.layout).ok_or_else(|| invalid("base.layout", "unknown layout"))?,
        config: base.config.clone(),
        tied: tied.collect::<Result<_>>()?,
        tensors,
        extra: base.extra.clone(),
    })
}

fn source<'a>(source: &v1::Source, stored: &Stored<'_, 'a>) -> Result<Source<'a>> {
    let files = source
        .files
        .iter()
        .map(|file| Ok(SourceFile { path: file.path.clone(), data: stored.get(&file.tensor)? }));
    let kept = source
        .kept
        .iter()
        .map(|kept| Ok(KeptTensor { key: kept.key.clone(), value: stored.get(&kept.tensor)? }));
    Ok(Source {
        format: source.format.clone(),
        version: source.version.clone(),
        weights: source.weights.clone(),
        files: files.collect::<Result<_>>()?,
        kept: kept.collect::<Result<_>>()?,
        metadata: source.metadata.clone(),
        options: source.options.clone(),
        extra: source.extra.clone(),
    })
}

fn about(about: Option<&v1::About>) -> About {
    about.map_or_else(About::default, |about| About {
        title: about.title.clone(),
        description: about.description.clone(),
        license: about.license.clone(),
        triggers: about.triggers.clone(),
        tags: about.tags.clone(),
        extra: about.extra.clone(),
    })
}
