use fitment_core::model::{
    Adapter, Add, Bits, Edit, Exceptions, Intervention, KeptTensor, Lora, Magnitude, Set, Source, SourceFile,
    SparseAdd, SparseSet,
};
use fitment_core::tensor::Tensor;

/// The same adapter, borrowing from nothing: for a file that had to be repaired in memory.
pub(super) fn owned(adapter: Adapter<'_>) -> Adapter<'static> {
    Adapter {
        base: adapter.base,
        edits: adapter.edits.into_iter().map(edit).collect(),
        source: adapter.source.map(source),
        about: adapter.about,
        extra: adapter.extra,
    }
}

fn edit(edit: Edit<'_>) -> Edit<'static> {
    match edit {
        Edit::Lora(edit) => Edit::Lora(Lora {
            target: edit.target,
            form: edit.form,
            transposed: edit.transposed,
            scale: edit.scale,
            up: edit.up.into_owned(),
            down: edit.down.into_owned(),
            mid: edit.mid.map(|mid| mid.into_owned()),
            magnitude: edit.magnitude.map(|magnitude| Magnitude {
                value: magnitude.value.into_owned(),
                axis: magnitude.axis,
                norm_of: magnitude.norm_of,
                eps: magnitude.eps,
            }),
            origin: edit.origin,
        }),
        Edit::Set(edit) => Edit::Set(Set {
            target: edit.target,
            dtype: edit.dtype,
            create: edit.create,
            reshape: edit.reshape,
            value: edit.value.into_owned(),
            rows: edit.rows.map(|rows| rows.into_owned()),
            origin: edit.origin,
        }),
        Edit::Add(edit) => Edit::Add(Add {
            target: edit.target,
            scale: edit.scale,
            value: edit.value.into_owned(),
            exceptions: edit.exceptions.map(|exceptions| Exceptions {
                index: exceptions.index.into_owned(),
                value: exceptions.value.into_owned(),
            }),
            origin: edit.origin,
        }),
        Edit::SparseSet(edit) => Edit::SparseSet(SparseSet {
            target: edit.target,
            index: edit.index.into_owned(),
            value: edit.value.into_owned(),
            origin: edit.origin,
        }),
        Edit::SparseAdd(edit) => Edit::SparseAdd(SparseAdd {
            target: edit.target,
            scale: edit.scale,
            index: edit.index.into_owned(),
            value: edit.value.into_owned(),
            origin: edit.origin,
        }),
        Edit::Bits(edit) => Edit::Bits(Bits {
            target: edit.target,
            base: edit.base,
            result: edit.result,
            changed: edit.changed,
            z: edit.z.into_owned(),
            origin: edit.origin,
        }),
        Edit::Remove(edit) => Edit::Remove(edit),
        Edit::Config(edit) => Edit::Config(edit),
        Edit::Intervention(edit) => Edit::Intervention(intervention(edit)),
    }
}

fn intervention(edit: Intervention<'_>) -> Intervention<'static> {
    let own = |tensor: Option<Tensor<'_>>| tensor.map(Tensor::into_owned);
    Intervention {
        component: edit.component,
        site: edit.site,
        input_site: edit.input_site,
        dims: edit.dims,
        scale: edit.scale,
        activation: edit.activation,
        subtract: edit.subtract,
        orthonormal: edit.orthonormal,
        up: own(edit.up),
        up_bias: own(edit.up_bias),
        source_weight: own(edit.source_weight),
        source_bias: own(edit.source_bias),
        proj: own(edit.proj),
        proj_bias: own(edit.proj_bias),
        positions: edit.positions,
        overlap: edit.overlap,
        rounding: edit.rounding,
        origin: edit.origin,
    }
}

fn source(source: Source<'_>) -> Source<'static> {
    let file = |file: SourceFile<'_>| SourceFile { path: file.path, data: file.data.into_owned() };
    let kept = |kept: KeptTensor<'_>| KeptTensor { key: kept.key, value: kept.value.into_owned() };
    Source {
        format: source.format,
        version: source.version,
        weights: source.weights,
        files: source.files.into_iter().map(file).collect(),
        kept: source.kept.into_iter().map(kept).collect(),
        metadata: source.metadata,
        options: source.options,
        extra: source.extra,
    }
}
