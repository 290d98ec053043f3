//! The allow list: every class and function that a pickle may name.

use fitment_core::tensor::Dtype;

/// What an allowed name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    OrderedDict,
    Set,
    /// `_codecs.encode`, by which protocol 2 writes bytes.
    Encode,
    Size,
    Device,
    /// `torch._utils._rebuild_tensor`.
    Tensor,
    /// `torch._utils._rebuild_tensor_v2`.
    TensorV2,
    /// `torch._utils._rebuild_tensor_v3`: the dtype is an argument.
    TensorV3,
    /// `torch._utils._rebuild_parameter`, with or without state.
    Parameter,
    /// `torch._tensor._rebuild_from_type_v2`: a tensor with attributes.
    FromType,
    /// A class of tensors, as an argument of [`Known::FromType`].
    TensorClass,
    /// A storage class; `None` for the untyped one.
    Storage(Option<Dtype>),
    Dtype(Dtype),
    /// A dtype, a storage or a maker of tensors that the container has no form for.
    Unheld,
}

/// What a name stands for, when the pickle may have it.
pub(crate) fn find(module: &str, name: &str) -> Option<Known> {
    match module {
        "collections" => (name == "OrderedDict").then_some(Known::OrderedDict),
        "builtins" | "__builtin__" => (name == "set").then_some(Known::Set),
        "_codecs" => (name == "encode").then_some(Known::Encode),
        "torch" => in_torch(name),
        "torch._utils" => match name {
            "_rebuild_tensor" => Some(Known::Tensor),
            "_rebuild_tensor_v2" => Some(Known::TensorV2),
            "_rebuild_tensor_v3" => Some(Known::TensorV3),
            "_rebuild_parameter" | "_rebuild_parameter_with_state" => Some(Known::Parameter),
            "_rebuild_sparse_tensor"
            | "_rebuild_sparse_csr_tensor"
            | "_rebuild_qtensor"
            | "_rebuild_nested_tensor"
            | "_rebuild_meta_tensor_no_storage" => Some(Known::Unheld),
            _ => None,
        },
        "torch.serialization" => (name == "_get_layout").then_some(Known::Unheld),
        "torch._tensor" => (name == "_rebuild_from_type_v2").then_some(Known::FromType),
        "torch.nn.parameter" => (name == "Parameter").then_some(Known::TensorClass),
        "torch.storage" => (name == "UntypedStorage").then_some(Known::Storage(None)),
        _ => None,
    }
}

fn in_torch(name: &str) -> Option<Known> {
    match name {
        "Size" => return Some(Known::Size),
        "device" => return Some(Known::Device),
        "Tensor" => return Some(Known::TensorClass),
        _ => {}
    }
    match name.strip_suffix("Storage") {
        Some("Untyped") => Some(Known::Storage(None)),
        Some("ComplexDouble" | "QUInt8" | "QInt8" | "QInt32" | "QUInt4x2" | "QUInt2x4") => {
            Some(Known::Unheld)
        }
        Some(class) => storage_dtype(class).map(|dtype| Known::Storage(Some(dtype))),
        None => dtype(name),
    }
}

fn storage_dtype(class: &str) -> Option<Dtype> {
    CLASSES.iter().find(|(_, name)| *name == class).map(|(dtype, _)| *dtype)
}

/// Dtypes that have a storage class of their own; all others lie in untyped storages.
const CLASSES: &[(Dtype, &str)] = &[
    (Dtype::F64, "Double"),
    (Dtype::F32, "Float"),
    (Dtype::F16, "Half"),
    (Dtype::BF16, "BFloat16"),
    (Dtype::I64, "Long"),
    (Dtype::I32, "Int"),
    (Dtype::I16, "Short"),
    (Dtype::I8, "Char"),
    (Dtype::U8, "Byte"),
    (Dtype::Bool, "Bool"),
    (Dtype::C64, "ComplexFloat"),
];

/// torch's name of a dtype.
const DTYPES: &[(Dtype, &str)] = &[
    (Dtype::F64, "float64"),
    (Dtype::F32, "float32"),
    (Dtype::F16, "float16"),
    (Dtype::BF16, "bfloat16"),
    (Dtype::I64, "int64"),
    (Dtype::I32, "int32"),
    (Dtype::I16, "int16"),
    (Dtype::I8, "int8"),
    (Dtype::U64, "uint64"),
    (Dtype::U32, "uint32"),
    (Dtype::U16, "uint16"),
    (Dtype::U8, "uint8"),
    (Dtype::Bool, "bool"),
    (Dtype::C64, "complex64"),
    (Dtype::F8_E4M3, "float8_e4m3fn"),
    (Dtype::F8_E5M2, "float8_e5m2"),
    (Dtype::F8_E8M0, "float8_e8m0fnu"),
    (Dtype::F8_E4M3FNUZ, "float8_e4m3fnuz"),
    (Dtype::F8_E5M2FNUZ, "float8_e5m2fnuz"),
];

fn dtype(name: &str) -> Option<Known> {
    let is_unheld = matches!(
        name,
        "complex128"
            | "complex32"
            | "quint8"
            | "qint8"
            | "qint32"
            | "quint4x2"
            | "quint2x4"
            | "float4_e2m1fn_x2"
    );
    let held = DTYPES.iter().find(|(_, known)| *known == name).map(|(dtype, _)| Known::Dtype(*dtype));
    if is_unheld { Some(Known::Unheld) } else { held }
}

/// The storage class of a dtype: `torch.FloatStorage`; `None` when it lies in an untyped one.
pub(crate) fn storage_class(dtype: Dtype) -> Option<&'static str> {
    CLASSES.iter().find(|(known, _)| *known == dtype).map(|(_, name)| *name)
}

/// torch's name of a dtype; `None` when it has none that counts elements as the container does.
pub(crate) fn dtype_name(dtype: Dtype) -> Option<&'static str> {
    DTYPES.iter().find(|(known, _)| *known == dtype).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::{Known, find};
    use fitment_core::tensor::Dtype;

    #[test]
    fn only_listed_names_are_known() {
        assert_eq!(find("torch", "HalfStorage"), Some(Known::Storage(Some(Dtype::F16))));
        assert_eq!(find("torch", "float8_e5m2"), Some(Known::Dtype(Dtype::F8_E5M2)));
        assert_eq!(find("torch", "ComplexDoubleStorage"), Some(Known::Unheld));
        for (module, name) in [
            ("os", "system"),
            ("builtins", "eval"),
            ("torch", "load"),
            ("torch", "Storage"),
            ("torch._utils", "_rebuild_tensor_v2.__globals__"),
            ("torch._utils ", "_rebuild_tensor_v2"),
            ("collections", "OrderedDict.__reduce__"),
            ("", ""),
        ] {
            assert_eq!(find(module, name), None, "{module}.{name}");
        }
    }
}
