//! Norms, spectra and comparisons against the dense matrices, in f64.

use fitment_core::model::{
    Adapter, Edit, Intervention, Lora, LoraForm, Origin, Positions, Select, Site, SiteComponent, Target,
    TensorName,
};
use fitment_core::model::{Overlap, Phase, Rounding};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_math::ndarray::Array2;
use fitment_math::svd::thin_svd;
use fitment_report::{Error, Measure, Report, Summary, analyse, compare, modules, picture};

/// Numbers that no structure makes easy, in [-1, 1), the same in every run.
fn numbers(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        f64::from((state >> 40) as u32) / f64::from(1u32 << 23) - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn tensor(dims: &[u64], values: &[f64]) -> Tensor<'static> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor::owned(Dtype::F64, Shape::new(dims).expect("small"), bytes).expect("as long as its shape says")
}

fn lora(
    form: LoraForm,
    up: Tensor<'static>,
    down: Tensor<'static>,
    mid: Option<Tensor<'static>>,
) -> Lora<'static> {
    Lora {
        target: Target::whole(TensorName::new("model.layers.0.w.weight").expect("a name")),
        form,
        transposed: false,
        scale: -1.5,
        up,
        down,
        mid,
        magnitude: None,
        origin: Origin::default(),
    }
}

fn matrix(rows: usize, columns: usize, values: &[f64]) -> Array2<f64> {
    Array2::from_shape_vec((rows, columns), values.to_vec()).expect("as many as the shape says")
}

fn near(found: &[f64], wanted: &[f64]) {
    let wanted = &wanted[..found.len()];
    let largest = wanted[0];
    for (found, wanted) in found.iter().zip(wanted) {
        assert!((found - wanted).abs() <= 1e-12 * largest, "{found} is not {wanted}");
    }
}

#[test]
fn a_matrix_has_the_singular_values_of_its_product() {
    let (up, down) = (numbers(7 * 3, 1), numbers(3 * 5, 2));
    let edit = Edit::Lora(lora(LoraForm::Matrix, tensor(&[7, 3], &up), tensor(&[3, 5], &down), None));
    let dense = matrix(7, 3, &up).dot(&matrix(3, 5, &down)) * -1.5;
    let wanted = thin_svd(dense.view()).unwrap().values;
    let found = analyse(&edit).unwrap();
    assert_eq!(found.spectrum.len(), 3);
    near(&found.spectrum, &wanted);
    let norm = dense.iter().map(|value| value * value).sum::<f64>().sqrt();
    assert!((found.norm.unwrap() - norm).abs() < 1e-12 * norm);
    assert!((found.stable_rank.unwrap() - norm * norm / (wanted[0] * wanted[0])).abs() < 1e-12);
    let energy = |rank: usize| wanted[..rank].iter().map(|value| value * value).sum::<f64>() / (norm * norm);
    let (ninety, most) = (found.rank_90.unwrap(), found.rank_99.unwrap());
    assert!(
        energy(ninety) >= 0.9 && energy(ninety - 1) < 0.9 && energy(most) >= 0.99 && energy(most - 1) < 0.99
    );
}

#[test]
fn a_convolution_with_a_core_is_its_dense_kernel() {
    let (up, mid, down) = (numbers(4 * 2, 3), numbers(2 * 2 * 3, 4), numbers(2 * 5, 5));
    let parts = (tensor(&[4, 2, 1], &up), tensor(&[2, 5, 1], &down), tensor(&[2, 2, 3], &mid));
    let edit = Edit::Lora(lora(LoraForm::Conv, parts.0, parts.1, Some(parts.2)));
    let mut dense = Array2::zeros((4, 15));
    for ((o, column), cell) in dense.indexed_iter_mut() {
        let (i, k) = (column / 3, column % 3);
        for p in 0..2 {
            for q in 0..2 {
                *cell += -1.5 * up[o * 2 + p] * mid[(p * 2 + q) * 3 + k] * down[q * 5 + i];
            }
        }
    }
    near(&analyse(&edit).unwrap().spectrum, &thin_svd(dense.view()).unwrap().values);
}

#[test]
fn experts_are_blocks_of_one_matrix() {
    let (up, down) = (numbers(2 * 4 * 2, 6), numbers(2 * 2 * 3, 7));
    let edit = Edit::Lora(lora(LoraForm::Stacked, tensor(&[2, 4, 2], &up), tensor(&[2, 2, 3], &down), None));
    let mut dense = Array2::zeros((8, 6));
    for expert in 0..2 {
        let product =
            matrix(4, 2, &up[expert * 8..][..8]).dot(&matrix(2, 3, &down[expert * 6..][..6])) * -1.5;
        for ((row, column), value) in product.indexed_iter() {
            dense[(expert * 4 + row, expert * 3 + column)] = *value;
        }
    }
    let found = analyse(&edit).unwrap();
    assert_eq!(found.spectrum.len(), 4);
    near(&found.spectrum, &thin_svd(dense.view()).unwrap().values);
}

fn intervention() -> Intervention<'static> {
    let positions = Positions { phase: Phase::Prompt, select: Select::All };
    let site = Site::Layer { layer: 4, component: SiteComponent::BlockOutput };
    Intervention {
        overlap: Overlap::Sequential,
        rounding: Rounding::F32,
        ..Intervention::at(site, positions)
    }
}

#[test]
fn an_intervention_is_its_linear_part() {
    // Two orthonormal columns; what is subtracted is their transpose.
    let up = [0.6, 0.0, 0.8, 0.0, 0.0, 1.0];
    let source = numbers(2 * 3, 8);
    let edit = Intervention {
        scale: 2.0,
        subtract: true,
        orthonormal: true,
        up: Some(tensor(&[3, 2], &up)),
        source_weight: Some(tensor(&[2, 3], &source)),
        ..intervention()
    };
    let up = matrix(3, 2, &up);
    let dense = up.dot(&(matrix(2, 3, &source) - up.t())) * 2.0;
    let found = analyse(&Edit::Intervention(edit)).unwrap();
    near(&found.spectrum, &thin_svd(dense.view()).unwrap().values);
    assert!(found.orthogonality.unwrap() < 1e-15);
    let constant = Intervention { up_bias: Some(tensor(&[2], &[3.0, 4.0])), ..intervention() };
    assert_eq!(analyse(&Edit::Intervention(constant)).unwrap().norm, Some(5.0));
}

#[test]
fn a_factor_that_is_not_finite_is_named() {
    let (up, down) = (tensor(&[2, 1], &[1.0, f64::NAN]), tensor(&[1, 2], &[1.0, 2.0]));
    let error = analyse(&Edit::Lora(lora(LoraForm::Matrix, up, down, None))).unwrap_err();
    assert!(matches!(error, Error::NotFinite { role: "up", .. }), "{error}");
}

#[test]
fn two_adapters_are_compared_as_their_dense_updates_would_be() {
    let plain = |seed: u64, rank: usize| {
        let (up, down) = (numbers(6 * rank, seed), numbers(rank * 5, seed + 1));
        let dense = matrix(6, rank, &up).dot(&matrix(rank, 5, &down)) * -1.5;
        let r = rank as u64;
        (lora(LoraForm::Matrix, tensor(&[6, r], &up), tensor(&[r, 5], &down), None), dense)
    };
    let ((first, a), (second, b)) = (plain(11, 2), plain(21, 3));
    let of = |edits: Vec<Edit<'static>>| Adapter { edits, ..Adapter::default() };
    let (one, two) = (of(vec![Edit::Lora(first.clone())]), of(vec![Edit::Lora(second)]));
    let found = compare(&one, &two).unwrap();
    let norm = |matrix: &Array2<f64>| (matrix * matrix).sum().sqrt();
    let wanted = (&a * &b).sum() / (norm(&a) * norm(&b));
    assert!((found.pairs[0].cosine.unwrap() - wanted).abs() < 1e-12);
    assert_eq!((found.pairs[0].outputs.len(), found.pairs[0].inputs.len()), (2, 2));
    let itself = compare(&one, &one).unwrap();
    assert!((itself.cosine.unwrap() - 1.0).abs() < 1e-12);
    assert!(itself.pairs[0].outputs.iter().all(|cosine| (cosine - 1.0).abs() < 1e-9));
    // One side has an update that the other lacks.
    let none = compare(&one, &of(Vec::new())).unwrap();
    assert_eq!((none.only_first.len(), none.pairs.len(), none.cosine), (1, 0, None));
}

#[test]
fn names_and_texts_of_a_hostile_file_stay_text() {
    let name = "model.layers.0.<script>alert(1)</script>.weight";
    let mut edit = lora(LoraForm::Matrix, tensor(&[1, 1], &[1.0]), tensor(&[1, 1], &[1.0]), None);
    edit.target = Target::whole(TensorName::new(name).unwrap());
    let adapter = Adapter { edits: vec![Edit::Lora(edit)], ..Adapter::default() };
    let summary = Summary::of(&adapter, "</title><script>", "fitment", None).with_tensors(&adapter);
    let mut report = Report::new(&adapter, summary, adapter.edits.iter().map(analyse).collect());
    report.manifest = Some("<img src=x>".to_owned());
    report.sources = vec![("<b>".to_owned(), "</pre><script>".to_owned())];
    for text in [report.html(), report.markdown()] {
        assert!(!text.contains("<script") && !text.contains("<img") && !text.contains("<b>"), "{text}");
    }
    let svg = picture::spectrum(name, report.analyses[0].as_ref().unwrap());
    assert!(!svg.contains("<script"));
}

#[test]
fn more_rows_than_fit_become_one_for_each_layer() {
    let edits = (0..8 * 64).map(|index| {
        let mut edit =
            lora(LoraForm::Matrix, tensor(&[1, 1], &[f64::from(index)]), tensor(&[1, 1], &[1.0]), None);
        let name = format!("model.layers.{}.experts.{}.w1.weight", index / 64, index % 64);
        edit.target = Target::whole(TensorName::new(name).unwrap());
        Edit::Lora(edit)
    });
    let adapter = Adapter { edits: edits.collect(), ..Adapter::default() };
    let analyses: Vec<_> = adapter.edits.iter().map(|edit| analyse(edit).ok()).collect();
    let svg = picture::heat_map(&modules(&adapter), &analyses, Measure::Norm);
    assert_eq!(svg.matches("(the largest of 64)").count(), 8);
    assert!(svg.contains("model.layers.3.experts.63.w1.weight: 382 (the largest of 64)"), "{svg}");
}
