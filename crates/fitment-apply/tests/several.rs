//! Several adapters: sums, equal sets, clashes; the same bytes from any number of threads.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use fitment_apply::{Culprit, Input, Note, Options, Plan};
use fitment_core::model::{Adapter, ConfigValue, Edit, SetDtype};
use fitment_core::tensor::Dtype;
use support::{adapter, add, base_bytes, checkpoint, config_edit, lora, noise, remove, set, tensor};

fn named<'a>(adapters: &'a [(Adapter<'static>, f64)]) -> Vec<Input<'a>> {
    adapters
        .iter()
        .zip(["first", "second", "third"])
        .map(|((adapter, weight), name)| Input { adapter, weight: *weight, name: name.to_owned() })
        .collect()
}

/// A name that has a row for each token.
const EMBED: &str = "embed_tokens.weight";

fn rows(numbers: &[f64], dtype: Dtype, values: &[f64]) -> Edit<'static> {
    let mut edit = set(EMBED, SetDtype::Base, tensor(dtype, &[numbers.len() as u64, 2], values));
    edit.rows = Some(tensor(Dtype::I64, &[numbers.len() as u64], numbers));
    Edit::Set(edit)
}

fn culprits(adapters: &[(Adapter<'static>, f64)]) -> Vec<Culprit> {
    let bytes = base_bytes(&[(EMBED, tensor(Dtype::F32, &[4, 2], &[0.0; 8]))]);
    let base = checkpoint(&bytes);
    let plan = Plan::new(&named(adapters), &base, &Options::default());
    plan.err().map(|refusal| refusal.culprits().to_vec()).unwrap_or_default()
}

fn values(adapters: &[(Adapter<'static>, f64)]) -> (Vec<f64>, Vec<Note>) {
    let bytes = base_bytes(&[(EMBED, tensor(Dtype::F32, &[4, 2], &[100.0; 8]))]);
    let base = checkpoint(&bytes);
    let plan = Plan::new(&named(adapters), &base, &Options::default()).unwrap();
    (support::run(&plan, &base).0[EMBED].values(), plan.notes)
}

#[test]
fn rows_of_different_adapters_stand_side_by_side() {
    let first = adapter(vec![rows(&[0.0], Dtype::F32, &[1e-20, 2.0])]);
    let second = adapter(vec![rows(&[2.0], Dtype::F32, &[3.0, 1e30])]);
    let third = adapter(vec![Edit::Add(add(EMBED, 1.0, tensor(Dtype::F32, &[4, 2], &[0.5; 8])))]);
    let (found, _) = values(&[(first, 1.0), (second, 1.0), (third, 1.0)]);
    assert_eq!(found[2..4], [100.5, 100.5]);
    assert_eq!((found[0], found[1], found[4]), (0.5, 2.5, 3.5));
}

#[test]
fn a_tensor_of_another_size_admits_no_other_adapter() {
    let resized =
        adapter(vec![Edit::Set(set(EMBED, SetDtype::Base, tensor(Dtype::F32, &[5, 2], &[1.0; 10])))]);
    let other = adapter(vec![Edit::Add(add(EMBED, 1.0, tensor(Dtype::F32, &[4, 2], &[0.5; 8])))]);
    let found = culprits(&[(resized.clone(), 1.0), (other, 1.0)]);
    assert!(matches!(&found[..], [Culprit::Malformed { file, .. }] if file == "first"), "{found:?}");
    assert!(matches!(&culprits(&[(resized, 0.5)])[..], [Culprit::NotScalable { .. }]));
}

#[test]
fn a_replaced_row_keeps_its_bits_beside_other_rows() {
    let odd = f64::from(0.1f32);
    let first = adapter(vec![rows(&[0.0], Dtype::F32, &[odd, -0.0])]);
    let second = adapter(vec![rows(&[2.0], Dtype::F32, &[3.0, 4.0])]);
    let (found, _) = values(&[(first, 1.0), (second, 1.0)]);
    assert_eq!(found, [odd, -0.0, 100.0, 100.0, 3.0, 4.0, 100.0, 100.0]);
    assert!(found[1].is_sign_negative());
}

#[test]
fn equal_rows_count_once() {
    let first = adapter(vec![rows(&[0.0, 1.0], Dtype::F32, &[1.0, 2.0, 3.0, 4.0])]);
    let second = adapter(vec![
        rows(&[1.0, 2.0], Dtype::F32, &[3.0, 4.0, 5.0, 6.0]),
        Edit::Add(add(EMBED, 1.0, tensor(Dtype::F32, &[4, 2], &[1.0; 8]))),
    ]);
    let (found, notes) = values(&[(first, 1.0), (second, 1.0)]);
    assert_eq!(found, [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 101.0, 101.0]);
    assert!(
        matches!(&notes[..], [.., Note::SharedSet { first, second, .. }] if first == "first" && second == "second")
    );
}

#[test]
fn an_equal_whole_tensor_counts_once() {
    let whole = || adapter(vec![Edit::Set(set(EMBED, SetDtype::Base, noise(Dtype::F32, &[4, 2], 5)))]);
    let (found, _) = values(&[(whole(), 1.0), (whole(), 1.0)]);
    assert_eq!(found, support::values_of(Dtype::F32, noise(Dtype::F32, &[4, 2], 5).bytes()));
}

#[test]
fn different_values_of_one_element_are_refused() {
    let first = adapter(vec![rows(&[0.0, 1.0], Dtype::F32, &[1.0, 2.0, 3.0, 4.0])]);
    let second = adapter(vec![rows(&[1.0], Dtype::F32, &[3.0, 5.0])]);
    let found = culprits(&[(first, 1.0), (second, 1.0)]);
    assert!(matches!(&found[..], [Culprit::SetTwice { place, equal: false, .. }] if place == "element 2"));
}

#[test]
fn equal_values_at_other_weights_are_refused() {
    let edit = || adapter(vec![rows(&[1.0], Dtype::F32, &[3.0, 5.0])]);
    let found = culprits(&[(edit(), 1.0), (edit(), 0.5)]);
    assert!(matches!(&found[..], [Culprit::SetTwice { equal: true, .. }]));
}

#[test]
fn removing_what_another_changes_is_refused() {
    let found = culprits(&[
        (adapter(vec![remove(EMBED)]), 1.0),
        (adapter(vec![rows(&[1.0], Dtype::F32, &[3.0, 5.0])]), 1.0),
    ]);
    assert!(
        matches!(&found[..], [Culprit::RemovedAndChanged { remover, other, .. }] if remover == "first" && other == "second")
    );
}

#[test]
fn what_happens_only_whole_takes_no_weight() {
    let mut new = set("new", SetDtype::Stored, tensor(Dtype::F32, &[1], &[1.0]));
    new.create = true;
    let found = culprits(&[(adapter(vec![remove(EMBED), Edit::Set(new)]), 0.5)]);
    assert!(
        matches!(&found[..], [Culprit::NotScalable { target, .. }, Culprit::NotScalable { .. }] if target == EMBED)
    );
    let found = culprits(&[(adapter(vec![rows(&[4.0], Dtype::F32, &[3.0, 5.0])]), 2.0)]);
    assert!(matches!(&found[..], [Culprit::NotScalable { what, .. }] if what.contains("appended")));
}

#[test]
fn config_values_must_agree() {
    let edit = |size| adapter(vec![config_edit(ConfigValue::VocabSize(size))]);
    assert!(culprits(&[(edit(5), 1.0), (edit(5), 1.0)]).is_empty());
    let found = culprits(&[(edit(5), 1.0), (edit(6), 1.0)]);
    assert!(matches!(&found[..], [Culprit::ConfigTwice { key: "vocab_size", .. }]));
}

#[test]
fn one_tensor_cannot_get_two_dtypes() {
    let whole =
        |dtype| adapter(vec![Edit::Set(set(EMBED, SetDtype::Stored, tensor(dtype, &[4, 2], &[0.0; 8])))]);
    let found = culprits(&[(whole(Dtype::F16), 1.0), (whole(Dtype::BF16), 1.0)]);
    assert!(matches!(&found[..], [Culprit::SetTwice { .. }]));
}

#[test]
fn a_weight_scales_every_edit() {
    let product =
        lora(EMBED, 2.0, tensor(Dtype::F32, &[4, 1], &[1.0; 4]), tensor(Dtype::F32, &[1, 2], &[3.0, 4.0]));
    let first = adapter(vec![Edit::Lora(product)]);
    let second = adapter(vec![rows(&[0.0], Dtype::F32, &[0.0, 0.0])]);
    let (found, _) = values(&[(first, 0.5), (second, 0.25)]);
    assert_eq!(found, [78.0, 79.0, 103.0, 104.0, 103.0, 104.0, 103.0, 104.0]);
}

#[cfg(feature = "parallel")]
#[test]
fn any_number_of_threads_writes_the_same_bytes() {
    use fitment_core::model::{Magnitude, NormOf};
    let names: Vec<String> = (0..12).map(|n| format!("t{n}")).collect();
    let tensors: Vec<(&str, _)> = names
        .iter()
        .zip(1..)
        .map(|(name, n)| (name.as_str(), noise(Dtype::BF16, &[40 * n, 33], n)))
        .collect();
    let bytes = base_bytes(&tensors);
    let base = checkpoint(&bytes);
    let edits = names.iter().zip(1u64..).map(|(name, n)| {
        let mut edit =
            lora(name, 0.7, noise(Dtype::F32, &[40 * n, 5], n), noise(Dtype::F32, &[5, 33], n + 50));
        let axis = n % 2;
        let count = if axis == 0 { 40 * n } else { 33 };
        edit.magnitude = (n % 3 == 0).then(|| Magnitude {
            value: noise(Dtype::F32, &[count], n + 9),
            axis,
            norm_of: NormOf::Merged,
            eps: 0.0,
        });
        Edit::Lora(edit)
    });
    let adapter = adapter(edits.collect());
    let inputs = [support::input(&adapter, 1.0)];
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| support::apply(&inputs, &base, &Options::default()).0)
    };
    let one = run(1);
    assert!([2, 3, 8].into_iter().all(|threads| run(threads) == one));
}
