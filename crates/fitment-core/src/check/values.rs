//! Rules that read every byte: digests, content id, and the weights' values (spec sections 5 and 7).

use super::{Checker, StoredTensor};
use crate::finding::rules;
use crate::identity::{hex, tensor_digest};
use crate::manifest::{self, v1::Edit};
use crate::model::Digest;
use crate::tensor::Dtype;
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn check(checker: &mut Checker<'_, '_>) {
    check_digests(checker);
    check_content_id(checker);
    check_weights(checker);
}

fn check_digests(checker: &mut Checker<'_, '_>) {
    for (name, recorded) in &checker.manifest.tensors {
        let Some(tensor) = checker.stored.get(name) else { continue };
        let Some(bytes) = tensor.bytes else { continue };
        let found = hex(&tensor_digest(name, tensor.dtype, &tensor.shape, bytes));
        if found != *recorded && recorded.len() == 64 {
            let message = format!("its SHA-256 is {found}, recorded is {recorded}");
            checker.report(&rules::M_DIGEST, name, message);
        }
    }
}

fn check_content_id(checker: &mut Checker<'_, '_>) {
    let digests: BTreeMap<String, Digest> = checker
        .manifest
        .tensors
        .iter()
        .filter_map(|(name, text)| Some((name.clone(), digest_of(text)?)))
        .collect();
    // With a hole in the table the id cannot be known; the hole is reported by its own rule.
    let complete =
        checker.manifest.edits.iter().flat_map(Edit::tensors).all(|(_, name)| digests.contains_key(name));
    let found = manifest::content_id(&checker.manifest.edits, &digests);
    if complete && found != checker.manifest.id {
        let message = format!("edits and digests give {found}, recorded is {}", checker.manifest.id);
        checker.report(&rules::M_CONTENT_ID, "id", message);
    }
}

fn digest_of(text: &str) -> Option<Digest> {
    let mut digest = [0u8; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(digest)
}

fn check_weights(checker: &mut Checker<'_, '_>) {
    let mut seen = BTreeSet::new();
    let mut factor_dtypes = BTreeSet::new();
    for edit in &checker.manifest.edits {
        for (role, name) in edit.tensors() {
            let Some(tensor) = checker.stored.get(name) else { continue };
            if matches!(edit, Edit::Lora(_)) {
                factor_dtypes.insert(tensor.dtype.name());
            }
            let first = seen.insert(name);
            let Some(bytes) = tensor.bytes.filter(|_| first) else { continue };
            if let Some(at) = not_finite(tensor, bytes) {
                checker.report(&rules::E_NOT_FINITE, name, format!("element {at} is NaN or infinite"));
            }
            if matches!(edit, Edit::Lora(_)) {
                check_factor(checker, role, name, (tensor.dtype, bytes));
            }
        }
    }
    if factor_dtypes.len() > 1 {
        let dtypes: Vec<&str> = factor_dtypes.into_iter().collect();
        checker.report(&rules::E_MIXED_DTYPES, "", format!("factors are {}", dtypes.join(" and ")));
    }
}

fn check_factor(checker: &mut Checker<'_, '_>, role: &str, name: &str, (dtype, bytes): (Dtype, &[u8])) {
    if role == "magnitude" {
        if let Some(at) = elements(dtype, bytes).position(|value| value <= 0.0) {
            checker.report(&rules::E_MAGNITUDE_SIGN, name, format!("element {at} is not above 0"));
        }
    } else if elements(dtype, bytes).all(|value| value == 0.0) {
        checker.report(&rules::E_NO_EFFECT, name, format!("the {role} factor is all zero"));
    }
}

/// The flat position of the first element that is NaN or infinite.
fn not_finite(tensor: &StoredTensor<'_>, bytes: &[u8]) -> Option<usize> {
    elements(tensor.dtype, bytes).position(|value| !value.is_finite())
}

/// Elements of a weight dtype as doubles, with sign, zero and finiteness kept; nothing for other dtypes.
fn elements(dtype: Dtype, bytes: &[u8]) -> Box<dyn Iterator<Item = f64> + '_> {
    let halves = || bytes.as_chunks::<2>().0.iter().map(|chunk| u16::from_le_bytes(*chunk));
    match dtype {
        Dtype::F64 => Box::new(bytes.as_chunks::<8>().0.iter().map(|chunk| f64::from_le_bytes(*chunk))),
        Dtype::F32 => {
            Box::new(bytes.as_chunks::<4>().0.iter().map(|chunk| f64::from(f32::from_le_bytes(*chunk))))
        }
        Dtype::BF16 => Box::new(halves().map(|bits| f64::from(f32::from_bits(u32::from(bits) << 16)))),
        Dtype::F16 => Box::new(halves().map(half)),
        _ => Box::new(std::iter::empty()),
    }
}

/// The value of binary16 bits.
fn half(bits: u16) -> f64 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
    sign * match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
    }
}
