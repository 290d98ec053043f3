//! Interventions on states: order, overlap, heads, parts, inputs, several files, refusals.
#![allow(clippy::unwrap_used, reason = "tests")]

use fitment_apply::Input;
use fitment_apply::hidden::{At, Error, Inputs, Note, Pass, SitePlan, sites};
use fitment_core::model::{
    Adapter, Edit, FirstLast, Group, Intervention, Overlap, Phase, Positions, Rounding, Select, ShortPrompt,
    Site, SiteComponent,
};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_math::ndarray::{Array2, Array3, array};
use half::bf16;

fn tensor(shape: &[u64], numbers: &[f32]) -> Tensor<'static> {
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    Tensor::owned(Dtype::F32, Shape::new(shape).unwrap(), bytes).unwrap()
}

fn at(component: SiteComponent) -> Site {
    Site::Layer { layer: 0, component }
}

/// `h' = h + f·h + c`, of width 2, everywhere.
fn scale_and_shift(site: Site, factor: f32, shift: [f32; 2]) -> Intervention<'static> {
    Intervention {
        source_weight: Some(tensor(&[2, 2], &[factor, 0.0, 0.0, factor])),
        up_bias: Some(tensor(&[2], &shift)),
        ..Intervention::at(site, Positions::EVERYWHERE)
    }
}

fn adapter(edits: Vec<Intervention<'static>>) -> Adapter<'static> {
    Adapter { edits: edits.into_iter().map(Edit::Intervention).collect(), ..Adapter::default() }
}

fn input<'a>(adapter: &'a Adapter<'a>, weight: f64) -> Input<'a> {
    Input { adapter, weight, name: "file".to_owned() }
}

/// What becomes of one token of width 2.
fn run(inputs: &[Input<'_>], site: &Site, token: [f32; 2]) -> Result<[f32; 2], Error> {
    let plan = SitePlan::new(inputs, &At { component: None, site, width: 2 })?;
    let mut states = Array3::from_shape_vec((1, 1, 2), token.to_vec()).unwrap();
    let mask = array![[true]];
    plan.apply(states.view_mut(), &Inputs::new(), &Pass::prompt(mask.view()))?;
    Ok([states[[0, 0, 0]], states[[0, 0, 1]]])
}

#[test]
fn overlapping_interventions_read_what_their_word_says() {
    let site = at(SiteComponent::BlockOutput);
    let with = |overlap| {
        let edit = |factor, shift| Intervention { overlap, ..scale_and_shift(site.clone(), factor, shift) };
        let adapter = adapter(vec![edit(1.0, [1.0, 0.0]), edit(2.0, [0.0, 0.5])]);
        run(&[input(&adapter, 1.0)], &site, [3.0, 1.0]).unwrap()
    };
    // h₁ = 2·h + (1, 0); h₂ = 3·h + (0, 0.5).
    assert_eq!(with(Overlap::Sequential), [21.0, 6.5]);
    assert_eq!(with(Overlap::Sum), [3.0 + 4.0 + 6.0, 1.0 + 1.0 + 2.5]);
    assert_eq!(with(Overlap::LastWins), [9.0, 3.5]);
}

#[test]
fn weights_multiply_and_files_follow_each_other() {
    let site = at(SiteComponent::MlpOutput);
    let (first, second) = (
        adapter(vec![scale_and_shift(site.clone(), 1.0, [0.0; 2])]),
        adapter(vec![scale_and_shift(site.clone(), 0.0, [4.0; 2])]),
    );
    let both = |inputs: &[Input<'_>]| run(inputs, &site, [1.0, 2.0]).unwrap();
    assert_eq!(both(&[input(&first, 0.5), input(&second, -0.25)]), [0.5, 2.0]);
    assert_eq!(both(&[input(&second, -0.25), input(&first, 0.5)]), [0.0, 1.5]);
    let elsewhere = at(SiteComponent::MlpInput);
    assert_eq!(run(&[input(&first, 1.0)], &elsewhere, [1.0, 2.0]).unwrap(), [1.0, 2.0]);
    assert_eq!(sites(&[input(&first, 1.0)]).len(), 1);
}

#[test]
fn files_that_do_not_go_in_order_are_refused_together() {
    let site = at(SiteComponent::BlockOutput);
    let plain = adapter(vec![scale_and_shift(site.clone(), 1.0, [0.0; 2])]);
    let mut edit = scale_and_shift(site.clone(), 1.0, [0.0; 2]);
    edit.overlap = Overlap::Sum;
    let sum = adapter(vec![edit]);
    assert!(run(&[input(&sum, 1.0)], &site, [1.0, 1.0]).is_ok());
    let error = run(&[input(&plain, 1.0), input(&sum, 1.0)], &site, [1.0, 1.0]).unwrap_err();
    assert!(matches!(error, Error::Overlap { overlap: "sum", .. }), "{error}");
    let error = run(&[input(&plain, f64::NAN)], &site, [1.0, 1.0]).unwrap_err();
    assert!(matches!(error, Error::Weight { .. }), "{error}");
}

#[test]
fn every_head_changes_alike_and_a_part_alone() {
    let mask = Array2::from_elem((1, 1), true);
    let run = |edit: Intervention<'static>| {
        let site = edit.site.clone();
        let adapter = adapter(vec![edit]);
        let plan =
            SitePlan::new(&[input(&adapter, 1.0)], &At { component: None, site: &site, width: 4 }).unwrap();
        let mut states = array![[[1.0_f32, 2.0, 3.0, 4.0]]];
        plan.apply(states.view_mut(), &Inputs::new(), &Pass::prompt(mask.view())).unwrap();
        states.into_raw_vec_and_offset().0
    };
    let heads = scale_and_shift(at(SiteComponent::HeadValueOutput), 1.0, [10.0, 0.0]);
    assert_eq!(run(heads), [12.0, 4.0, 16.0, 8.0]);
    let mut part = scale_and_shift(at(SiteComponent::ValueOutput), 1.0, [10.0, 0.0]);
    part.dims = Some([1, 3]);
    assert_eq!(run(part), [1.0, 14.0, 6.0, 4.0]);
    let mut zero = Intervention::at(at(SiteComponent::ValueOutput), Positions::EVERYWHERE);
    zero.subtract = true;
    assert_eq!(run(zero), [0.0; 4]);
}

#[test]
fn widths_that_do_not_fit_are_refused() {
    let refused = |site: SiteComponent, dims, width| {
        let mut edit = scale_and_shift(at(site), 1.0, [0.0; 2]);
        edit.dims = dims;
        let adapter = adapter(vec![edit]);
        let error = SitePlan::new(&[input(&adapter, 1.0)], &At { component: None, site: &at(site), width });
        error.unwrap_err().to_string()
    };
    assert_eq!(
        refused(SiteComponent::MlpOutput, None, 3),
        "@mlp_output.0: file fits states of width 2, these have 3"
    );
    assert_eq!(
        refused(SiteComponent::HeadKeyOutput, None, 5),
        "@head_key_output.0: file fits states of width a multiple of 2, these have 5"
    );
    assert_eq!(
        refused(SiteComponent::MlpOutput, Some([2, 4]), 3),
        "@mlp_output.0: file fits states of width 4 or more (2 to 4 are changed), these have 3"
    );
}

#[test]
fn x_is_what_another_site_holds() {
    let (site, other) = (at(SiteComponent::MlpOutput), at(SiteComponent::MlpInput));
    let mut edit = scale_and_shift(site.clone(), 1.0, [0.0; 2]);
    edit.source_weight = Some(tensor(&[2, 3], &[1.0, 0.0, 0.0, 0.0, 0.0, 1.0]));
    edit.input_site = Some(other.clone());
    let adapter = adapter(vec![edit]);
    let plan =
        SitePlan::new(&[input(&adapter, 1.0)], &At { component: None, site: &site, width: 2 }).unwrap();
    assert_eq!(plan.input_sites().into_iter().collect::<Vec<_>>(), [&other]);
    let (mask, x) = (array![[true, false]], array![[[5.0_f32, 6.0, 7.0], [1.0, 1.0, 1.0]]]);
    let mut states = Array3::<f32>::ones((1, 2, 2));
    let pass = Pass::prompt(mask.view());
    let missing = plan.apply(states.view_mut(), &Inputs::new(), &pass).unwrap_err();
    assert!(missing.to_string().contains("reads the states of mlp_input.0"), "{missing}");
    plan.apply(states.view_mut(), &Inputs::from([(other.clone(), x.view())]), &pass).unwrap();
    assert_eq!(states, array![[[6.0, 8.0], [1.0, 1.0]]]);
    let narrow = Array3::<f32>::ones((1, 2, 2));
    assert!(plan.apply(states.view_mut(), &Inputs::from([(other, narrow.view())]), &pass).is_err());
    let small = array![[true]];
    let error = plan.apply(states.view_mut(), &Inputs::new(), &Pass::prompt(small.view())).unwrap_err();
    assert!(matches!(error, Error::Mask { .. }), "{error}");
}

#[test]
fn a_token_selected_twice_changes_once() {
    let site = at(SiteComponent::BlockOutput);
    let rule =
        FirstLast { first: 2, last: 2, end_offset: 0, short: ShortPrompt::Overlap, group: Group::Both };
    let positions = Positions { phase: Phase::Prompt, select: Select::FirstLast(rule) };
    let edit = Intervention { positions, ..scale_and_shift(site.clone(), 1.0, [0.0; 2]) };
    let adapter = adapter(vec![edit]);
    let plan =
        SitePlan::new(&[input(&adapter, 1.0)], &At { component: None, site: &site, width: 2 }).unwrap();
    let mask = array![[false, true, true, true]];
    let mut states = Array3::<bf16>::from_elem((1, 4, 2), bf16::ONE);
    plan.apply(states.view_mut(), &Inputs::new(), &Pass::prompt(mask.view())).unwrap();
    let expected = [1.0, 2.0, 2.0, 2.0].map(bf16::from_f32);
    assert!(
        states.outer_iter().all(|row| row.outer_iter().zip(expected).all(|(token, one)| token[0] == one))
    );
}

#[test]
fn a_rounding_that_these_states_cannot_have_is_noted() {
    let site = at(SiteComponent::BlockOutput);
    let edit = Intervention { rounding: Rounding::Noreft, ..scale_and_shift(site.clone(), 1.0, [0.0; 2]) };
    let adapter = adapter(vec![edit]);
    let plan =
        SitePlan::new(&[input(&adapter, 1.0)], &At { component: None, site: &site, width: 2 }).unwrap();
    assert!(plan.notes::<f32>().is_empty());
    let notes = plan.notes::<bf16>();
    assert!(matches!(notes[..], [Note::RoundedOnce { rounding: Rounding::Noreft, .. }]));
}
