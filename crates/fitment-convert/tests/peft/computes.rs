//! Every PEFT fixture: read on its base it computes what PEFT computes; what cannot be put into weights is refused by name.

use crate::fixture::{self, Base, Folder, cases, root, text};
use crate::formula;
use fitment_convert::{Error, ReadOptions, read};
use fitment_core::Adapter;
use fitment_core::tensor::Dtype;
use std::path::Path;

/// Compares what the edits make of the base with the file of the case, name by name.
fn compare(name: &str, (adapter, base): (&Adapter<'_>, &Base), expected: &Path) {
    let expected = fixture::tensors(expected);
    let edited = formula::apply(adapter, base);
    let mut found = edited.clone();
    for (owner, uses) in &adapter.base.tied {
        for name in uses {
            // Still tied: a loader gives all uses the owner's values.
            let owner = found.get(owner.as_str()).cloned();
            found.entry(name.to_string()).or_insert_with(|| owner.unwrap());
        }
    }
    for (tensor, expected) in &expected {
        let expected = formula::array(expected);
        let Some(found) = found.get(tensor).cloned().or_else(|| base.get(tensor).map(formula::array)) else {
            panic!("{name}: nothing for {tensor}, but {:?}", found.keys());
        };
        assert_eq!(found.dims, expected.dims, "{name}: {tensor}");
        let tolerance = match expected.dtype {
            Dtype::BF16 => 2f64.powi(-8),
            Dtype::F16 => 2f64.powi(-11),
            _ => 2e-6,
        };
        let largest = expected.values.iter().fold(0f64, |max, value| max.max(value.abs()));
        for (at, (a, b)) in found.values.iter().zip(&expected.values).enumerate() {
            assert!((a - b).abs() <= tolerance * largest, "{name}: {tensor}[{at}] is {a}, expected {b}");
        }
    }
    for (tensor, found) in &edited {
        let unchanged = || base.get(tensor).is_some_and(|base| formula::array(base).values == found.values);
        assert!(expected.contains_key(tensor) || unchanged(), "{name}: {tensor} changes");
    }
}

#[test]
fn every_case_computes_what_peft_computes_or_is_refused() {
    let mut done = 0;
    for (name, path, case) in cases(&root()) {
        let folder = Folder::read(&path.join(text(&case, "adapter").unwrap()));
        let base = text(&case, "base").map(|base| Base::read(&path.join(base)));
        let base_option = base.as_ref().map(|base| base as &dyn fitment_core::checkpoint::Checkpoint);
        let files = folder.files();
        let result = read(&files, &ReadOptions { base: base_option, ..ReadOptions::default() });
        match text(&case, "expect").unwrap() {
            "refused" => {
                let error = result.err().unwrap_or_else(|| panic!("{name} is not refused"));
                assert!(matches!(error, Error::Unsupported { .. }), "{name}: {error}");
            }
            expect => {
                let converted = result.unwrap_or_else(|error| panic!("{name}: {error}"));
                fitment_core::to_bytes(&converted.adapter).unwrap_or_else(|error| panic!("{name}: {error}"));
                let base = base.unwrap();
                compare(&name, (&converted.adapter, &base), &path.join(format!("{expect}.safetensors")));
                done += 1;
            }
        }
    }
    assert!(done >= 45, "only {done} cases");
}
