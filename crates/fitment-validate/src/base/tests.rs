use super::check;
use fitment_core::checkpoint::MemoryCheckpoint;
use fitment_core::container::write_container;
use fitment_core::identity::sha256;
use fitment_core::model::{
    Adapter, Add, BaseTensor, ComponentName, ConfigEdit, ConfigValue, Edit, ExpertRange, Intervention, Lora,
    LoraForm, Origin, Positions, Remove, Set, SetDtype, Site, SiteComponent, Target, TensorName,
};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

fn tensor(dtype: Dtype, dims: &[u64]) -> Tensor<'static> {
    let shape = Shape::new(dims).unwrap();
    let len = usize::try_from(shape.byte_len(dtype).unwrap()).unwrap();
    Tensor::owned(dtype, shape, vec![1u8; len]).unwrap()
}

fn floats(dims: &[u64]) -> Tensor<'static> {
    tensor(Dtype::F32, dims)
}

fn target(name: &str) -> Target {
    Target::whole(TensorName::new(name).unwrap())
}

fn lora(name: &str, out: u64, input: u64) -> Edit<'static> {
    Edit::Lora(Lora {
        target: target(name),
        form: LoraForm::Matrix,
        transposed: false,
        scale: 1.0,
        up: floats(&[out, 1]),
        down: floats(&[1, input]),
        mid: None,
        magnitude: None,
        origin: Origin::default(),
    })
}

fn set(name: &str, value: Tensor<'static>, rows: Option<&[i64]>) -> Edit<'static> {
    let rows = rows.map(|rows| {
        let bytes: Vec<u8> = rows.iter().flat_map(|row| row.to_le_bytes()).collect();
        Tensor::owned(Dtype::I64, Shape::new(&[rows.len() as u64]).unwrap(), bytes).unwrap()
    });
    let (target, origin) = (target(name), Origin::default());
    Edit::Set(Set { target, dtype: SetDtype::Base, create: false, reshape: false, value, rows, origin })
}

fn create(name: &str) -> Edit<'static> {
    let Edit::Set(edit) = set(name, floats(&[2, 2]), None) else { unreachable!() };
    Edit::Set(Set { dtype: SetDtype::Stored, create: true, ..edit })
}

fn adapter(edits: Vec<Edit<'static>>) -> Adapter<'static> {
    Adapter { edits, ..Adapter::default() }
}

/// Four layers of q, k and up, an embedding and a head with 10 tokens, a norm.
fn tensors() -> BTreeMap<String, (Dtype, Vec<u64>)> {
    let mut tensors = BTreeMap::new();
    for layer in 0..4 {
        for (module, out) in [("self_attn.q_proj", 4), ("self_attn.k_proj", 2), ("mlp.up_proj", 8)] {
            tensors.insert(format!("model.layers.{layer}.{module}.weight"), (Dtype::BF16, vec![out, 4]));
        }
    }
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        tensors.insert(name.to_owned(), (Dtype::BF16, vec![10, 4]));
    }
    tensors.insert("model.norm.weight".to_owned(), (Dtype::BF16, vec![4]));
    tensors
}

fn config() -> Map<String, Value> {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 10, "tie_word_embeddings": false,
        "num_attention_heads": 2, "_name_or_path": "/models/Tiny-1B/"
    });
    config.as_object().unwrap().clone()
}

struct Case {
    tensors: BTreeMap<String, (Dtype, Vec<u64>)>,
    config: Map<String, Value>,
    adapter: Adapter<'static>,
}

impl Case {
    fn new(edits: Vec<Edit<'static>>) -> Self {
        Self { tensors: tensors(), config: config(), adapter: adapter(edits) }
    }

    fn bytes(&self) -> Vec<u8> {
        let data: Vec<(String, Tensor<'_>)> =
            self.tensors.iter().map(|(name, (dtype, dims))| (name.clone(), tensor(*dtype, dims))).collect();
        let mut bytes = Vec::new();
        let items = data.iter().map(|(name, tensor)| (name.clone(), tensor));
        write_container(&BTreeMap::new(), items, &mut bytes).unwrap();
        bytes
    }

    /// Findings, one a line; notes about coverage and binding only when asked for.
    fn lines(&self, with_notes: bool) -> String {
        let bytes = self.bytes();
        let base = MemoryCheckpoint::new(&bytes, Some(self.config.clone())).unwrap();
        let report = check(&self.adapter, &base, false).unwrap();
        let shown = report.findings.iter().filter(|f| with_notes || !["B012", "B018"].contains(&f.code.0));
        shown.map(|finding| format!("{finding}\n")).collect()
    }

    /// Records dtype, shape and digest of every target that the base has.
    fn bind(&mut self) {
        let mut entries = BTreeMap::new();
        for target in self.adapter.edits.iter().filter_map(Edit::target) {
            let Some((dtype, dims)) = self.tensors.get(target.name.as_str()) else { continue };
            let entry = BaseTensor {
                unchanged: false,
                component: None,
                name: target.name.clone(),
                experts: None,
                dtype: Some(*dtype),
                shape: Some(Shape::new(dims).unwrap()),
                digests: vec![sha256(tensor(*dtype, dims).bytes())],
                extra: Map::new(),
            };
            entries.insert(target.name.clone(), entry);
        }
        self.adapter.base.tensors = entries.into_values().collect();
    }
}

const Q0: &str = "model.layers.0.self_attn.q_proj.weight";

#[test]
fn a_bound_adapter_on_its_base_has_only_the_note_about_coverage() {
    let mut case = Case::new(vec![lora(Q0, 4, 4), lora("lm_head.weight", 10, 4)]);
    case.bind();
    insta::assert_snapshot!(case.lines(true), @"note[B012]: hit: lm_head, self_attn.q_proj 0; not hit: mlp.up_proj, self_attn.k_proj");
}

#[test]
fn an_unbound_adapter_is_noted() {
    insta::assert_snapshot!(Case::new(vec![lora(Q0, 4, 4)]).lines(true), @"
    note[B018]: the adapter is unbound: names and shapes were compared, content was not
    note[B012]: hit: self_attn.q_proj 0; not hit: mlp.up_proj, self_attn.k_proj
    ");
}

#[test]
fn a_target_that_the_base_lacks_is_named_with_its_nearest() {
    let edits = vec![lora(Q0, 4, 4), lora("model.layers.9.self_attn.q_proj.weight", 4, 4), lora("x.y", 4, 4)];
    insta::assert_snapshot!(Case::new(edits).lines(false), @r#"
    error[B001] model.layers.9.self_attn.q_proj.weight: the base has no such tensor; the nearest is "model.layers.0.self_attn.q_proj.weight"
    error[B001] x.y: the base has no such tensor, nor one of a similar name
    "#);
}

#[test]
fn a_wrong_prefix_is_one_finding_for_all_its_targets() {
    let names = tensors().into_keys().filter(|name| name.contains("q_proj"));
    let edits = names.map(|name| lora(&name.replace("model.", "model.language_model."), 4, 4)).collect();
    insta::assert_snapshot!(Case::new(edits).lines(false), @r#"error[B002] model.language_model.layers.0.self_attn.q_proj.weight: 4 targets stand under "model.language_model.", in the base under "model."; "model.layers.0.self_attn.q_proj.weight" was probably meant"#);
}

#[test]
fn a_shape_that_does_not_fit_names_both_sides() {
    let Edit::Lora(edit) = lora(Q0, 4, 8) else { unreachable!() };
    let transposed = Edit::Lora(Lora {
        transposed: true,
        target: target("model.layers.0.mlp.up_proj.weight"),
        ..edit.clone()
    });
    insta::assert_snapshot!(Case::new(vec![Edit::Lora(edit), transposed]).lines(false), @"error[B003] model.layers.0.self_attn.q_proj.weight: the update has the shape [4, 8], the base tensor [4, 4]");
}

#[test]
fn a_recorded_shape_that_differs_is_a_finding_even_where_the_edit_fits() {
    let mut case = Case::new(vec![Edit::Remove(Remove { target: target(Q0), origin: Origin::default() })]);
    case.bind();
    case.adapter.base.tensors[0].shape = Some(Shape::new(&[4, 5]).unwrap());
    insta::assert_snapshot!(case.lines(false), @"error[B003] model.layers.0.self_attn.q_proj.weight: the adapter was made for the shape [4, 5], the base has [4, 4]");
}

#[test]
fn another_content_names_the_tensor() {
    let mut case = Case::new(vec![lora(Q0, 4, 4), lora("lm_head.weight", 10, 4)]);
    case.bind();
    case.adapter.base.tensors[1].digests = vec![[0xab; 32]];
    insta::assert_snapshot!(case.lines(false), @"error[B005] model.layers.0.self_attn.q_proj.weight: the base differs here from the one that the adapter was made for: SHA-256 72cd6e8422c407fb…, recorded abababababababab…");
}

#[test]
fn another_dtype_is_a_warning_beside_the_digest() {
    let mut case = Case::new(vec![lora(Q0, 4, 4)]);
    case.bind();
    case.tensors.insert(Q0.to_owned(), (Dtype::F32, vec![4, 4]));
    insta::assert_snapshot!(case.lines(false), @"
    warning[B006] model.layers.0.self_attn.q_proj.weight: the adapter was made for BF16, the base has F32
    error[B005] model.layers.0.self_attn.q_proj.weight: the base differs here from the one that the adapter was made for: SHA-256 7c8975e1e60a5c83…, recorded 72cd6e8422c407fb…
    ");
}

#[test]
fn another_architecture_config_or_name_is_told() {
    let mut case = Case::new(vec![lora(Q0, 4, 4)]);
    case.bind();
    case.adapter.base.architecture = Some("Qwen2ForCausalLM".into());
    case.adapter.base.name = Some("org/Other-1B".into());
    case.adapter.base.config.insert("num_attention_heads".into(), json!(8));
    insta::assert_snapshot!(case.lines(false), @r#"
    warning[B007] architectures: the adapter was made for Qwen2ForCausalLM, the base is LlamaForCausalLM
    warning[B007] num_attention_heads: the adapter was made for 8, the base has 2
    note[B008] _name_or_path: the adapter was made for "org/Other-1B", the config of the base says "/models/Tiny-1B/"
    "#);
    case.adapter.base.architecture = Some("LlamaModel".into());
    case.adapter.base.name = Some("org/Tiny-1B".into());
    case.adapter.base.config.clear();
    assert_eq!(case.lines(false), "");
}

#[test]
fn a_created_tensor_must_be_new() {
    let edits = vec![create("score.weight"), create("lm_head.weight")];
    insta::assert_snapshot!(Case::new(edits).lines(false), @"error[B009] lm_head.weight: the adapter creates it, the base has it as BF16 [10, 4]");
}

#[test]
fn updates_of_another_vocabulary_are_told_apart_from_other_shapes() {
    let edits = vec![lora("model.embed_tokens.weight", 12, 4), lora("lm_head.weight", 10, 8)];
    insta::assert_snapshot!(Case::new(edits).lines(false), @"
    error[B010] model.embed_tokens.weight: the adapter has a vocabulary of 12, the base of 10
    error[B003] lm_head.weight: the update has the shape [10, 8], the base tensor [10, 4]
    ");
}

#[test]
fn embedding_and_head_grow_together() {
    let rows = || set("model.embed_tokens.weight", floats(&[2, 4]), Some(&[10, 11]));
    insta::assert_snapshot!(Case::new(vec![rows()]).lines(false), @"error[B010] model.embed_tokens.weight: has 12 rows afterwards, lm_head.weight has 10");
    let both = vec![rows(), set("lm_head.weight", floats(&[12, 4]), None)];
    assert_eq!(Case::new(both).lines(false), "");
}

#[test]
fn a_vocabulary_in_the_config_has_its_rows() {
    let size = |size| {
        Edit::Config(ConfigEdit {
            component: None,
            value: ConfigValue::VocabSize(size),
            origin: Origin::default(),
        })
    };
    let both = |vocab| {
        let head = set("lm_head.weight", floats(&[12, 4]), None);
        vec![set("model.embed_tokens.weight", floats(&[12, 4]), None), head, size(vocab)]
    };
    insta::assert_snapshot!(Case::new(both(13)).lines(false), @"error[B010] vocab_size: the adapter sets vocab_size to 13, lm_head.weight has 12 rows afterwards");
    assert_eq!(Case::new(both(11)).lines(false), "", "rows may be padded");
}

#[test]
fn rows_beyond_the_end_leave_no_gap() {
    let edits = vec![set("model.norm.weight", floats(&[1]), Some(&[7]))];
    insta::assert_snapshot!(Case::new(edits).lines(false), @"error[B003] model.norm.weight: row 7 is beyond the end 4 and leaves a gap");
}

#[test]
fn a_quantised_base_is_one_finding() {
    let mut case = Case::new(vec![lora(Q0, 4, 4), lora("lm_head.weight", 10, 4)]);
    case.tensors.remove(Q0);
    for (part, dims) in [("qweight", [1, 4]), ("scales", [1, 4]), ("g_idx", [1, 4])] {
        case.tensors.insert(Q0.replace("weight", part), (Dtype::I32, dims.to_vec()));
    }
    insta::assert_snapshot!(case.lines(false), @"error[B011]: the base is quantised: GPTQ (tensor model.layers.0.self_attn.q_proj.qweight)");
}

#[test]
fn a_target_of_integers_cannot_be_computed_with_but_be_replaced() {
    let mut case = Case::new(vec![lora(Q0, 4, 4)]);
    case.tensors.insert(Q0.to_owned(), (Dtype::F8_E4M3, vec![4, 4]));
    insta::assert_snapshot!(case.lines(false), @"error[B011] model.layers.0.self_attn.q_proj.weight: the base stores it as F8_E4M3, expected F64, F32, F16 or BF16");
    let Edit::Set(edit) = set(Q0, floats(&[4, 4]), None) else { unreachable!() };
    case.adapter = adapter(vec![Edit::Set(Set { dtype: SetDtype::Stored, ..edit })]);
    assert_eq!(case.lines(false), "");
}

#[test]
fn most_of_the_layers_is_probably_not_what_was_meant() {
    let layer = |layer| lora(&format!("model.layers.{layer}.self_attn.q_proj.weight"), 4, 4);
    insta::assert_snapshot!(Case::new(vec![layer(0), layer(1), layer(3)]).lines(true), @"
    note[B018]: the adapter is unbound: names and shapes were compared, content was not
    warning[B013] model.layers.*.self_attn.q_proj.weight: hit in 3 of 4 layers, not in 2
    note[B012]: hit: self_attn.q_proj 0-1,3; not hit: mlp.up_proj, self_attn.k_proj
    ");
    assert_eq!(Case::new(vec![layer(2), layer(3)]).lines(false), "", "half may be a choice");
}

#[test]
fn a_bundle_names_the_experts_that_are_missing_or_odd() {
    let mut case = Case::new(vec![]);
    for expert in 0..4 {
        let name = format!("model.layers.0.experts.{expert}.up.weight");
        case.tensors.insert(name, (Dtype::BF16, vec![if expert == 2 { 5 } else { 4 }, 4]));
    }
    let Edit::Add(edit) = add("model.layers.0.experts.{e}.up.weight", &[6, 4, 4]) else { unreachable!() };
    let bundle = |end| {
        let target = Target { experts: Some(ExpertRange { start: 0, end }), ..edit.target.clone() };
        adapter(vec![Edit::Add(Add { target, value: floats(&[end, 4, 4]), ..edit.clone() })])
    };
    case.adapter = bundle(6);
    insta::assert_snapshot!(case.lines(false), @r#"error[B001] model.layers.0.experts.{e}.up.weight: the base lacks the experts 4-5; the nearest is "model.layers.0.experts.0.up.weight""#);
    case.adapter = bundle(4);
    insta::assert_snapshot!(case.lines(false), @r#"error[B003] model.layers.0.experts.{e}.up.weight: "model.layers.0.experts.2.up.weight" is BF16 [5, 4], the first expert BF16 [4, 4]"#);
}

fn add(name: &str, dims: &[u64]) -> Edit<'static> {
    let (target, origin) = (target(name), Origin::default());
    Edit::Add(Add { target, scale: 1.0, value: floats(dims), exceptions: None, origin })
}

#[test]
fn a_pipeline_does_not_fit_a_single_model() {
    let Edit::Lora(edit) = lora(Q0, 4, 4) else { unreachable!() };
    let component = Some(ComponentName::new("unet").unwrap());
    let edit = Lora { target: Target { component, ..edit.target.clone() }, ..edit };
    insta::assert_snapshot!(Case::new(vec![Edit::Lora(edit)]).lines(false), @r#"error[B001] unet/model.layers.0.self_attn.q_proj.weight: 1 target belongs to the component "unet" of a pipeline, the base is a single model"#);
}

#[test]
fn layers_that_the_model_does_not_load_are_not_missed() {
    let layers = (0..3).map(|layer| lora(&format!("model.layers.{layer}.self_attn.q_proj.weight"), 4, 4));
    let mut case = Case::new(layers.collect());
    case.config.insert("num_hidden_layers".to_owned(), json!(3));
    assert_eq!(case.lines(false), "");
}

fn tied(mut case: Case) -> Case {
    case.tensors.remove("lm_head.weight");
    case.config.insert("tie_word_embeddings".to_owned(), json!(true));
    case
}

#[test]
fn a_head_that_is_tied_is_not_merely_missing() {
    insta::assert_snapshot!(tied(Case::new(vec![lora("lm_head.weight", 10, 4)])).lines(false), @r#"error[B004] lm_head.weight: the adapter changes it alone, the base has it as one with "model.embed_tokens.weight": which uses are meant is not said"#);
    let mut case = tied(Case::new(vec![create("lm_head.weight")]));
    insta::assert_snapshot!(case.lines(false), @r#"error[B004] lm_head.weight: the adapter creates it alone, the base has it as one with "model.embed_tokens.weight": which uses are meant is not said"#);
    case.config.insert("tie_word_embeddings".to_owned(), json!(false));
    assert_eq!(case.lines(false), "");
}

#[test]
fn an_unbound_edit_of_a_tied_embedding_is_undecided() {
    let mut case = tied(Case::new(vec![lora("model.embed_tokens.weight", 10, 4)]));
    insta::assert_snapshot!(case.lines(false), @"error[B004] model.embed_tokens.weight: the base ties it to lm_head.weight, the adapter does not say which of them it changes");
    let name = |name: &str| TensorName::new(name).unwrap();
    case.adapter.base.tied.insert(name("model.embed_tokens.weight"), vec![name("lm_head.weight")]);
    assert_eq!(case.lines(false), "", "it says that all uses are meant");
}

#[test]
fn an_adapter_for_a_tied_base_does_not_fit_one_with_a_head() {
    let mut case = Case::new(vec![lora("model.embed_tokens.weight", 10, 4)]);
    let name = |name: &str| TensorName::new(name).unwrap();
    case.adapter.base.tied.insert(name("model.embed_tokens.weight"), vec![name("lm_head.weight")]);
    insta::assert_snapshot!(case.lines(false), @r#"error[B004] model.embed_tokens.weight: the adapter takes it for one with "lm_head.weight", the base has two tensors"#);
    case.tensors.remove("lm_head.weight");
    insta::assert_snapshot!(case.lines(false), @"error[B004] model.embed_tokens.weight: the adapter takes it for tied, the config of the base says tie_word_embeddings is false");
}

#[test]
fn an_intervention_fits_the_layers_and_the_width_of_the_base() {
    let steering = |layer, component, width| {
        let site = Site::Layer { layer, component };
        Intervention { up_bias: Some(floats(&[width])), ..Intervention::at(site, Positions::EVERYWHERE) }
    };
    let sound = steering(3, SiteComponent::BlockOutput, 4);
    let unknown = steering(0, SiteComponent::MlpActivation, 99);
    let narrow = steering(0, SiteComponent::BlockInput, 3);
    let part = Intervention { dims: Some([1, 4]), ..narrow.clone() };
    let beyond = Intervention { dims: Some([2, 5]), ..narrow.clone() };
    let late = steering(4, SiteComponent::QueryOutput, 4);
    let component = Some(ComponentName::new("unet").unwrap());
    let foreign = Intervention { component, ..sound.clone() };
    let edits = [sound, unknown, part, narrow, beyond, late, foreign];
    let mut case = Case::new(edits.into_iter().map(Edit::Intervention).collect());
    case.config.insert("hidden_size".to_owned(), json!(4));
    case.config.insert("num_hidden_layers".to_owned(), json!(4));
    insta::assert_snapshot!(case.lines(false), @r#"
    error[B020] unet/@block_output.3: belongs to the component "unet" of a pipeline, the base is a single model
    error[B020] @block_input.0: the adapter asks for states 3 wide, the base has states 4 wide
    error[B020] @block_input.0: the adapter asks for elements 2..5 of the states, the base has states 4 wide
    error[B020] @query_output.4: the adapter asks for layer 4, the base has 4 layers, counted from 0
    "#);
}
