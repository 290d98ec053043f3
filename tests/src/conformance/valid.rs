//! Valid files: low-rank edits, targets, base, source, text.

use fitment_core::Adapter;
use fitment_core::identity::sha256;
use fitment_core::model::{
    About, AxisSlice, Base, BaseTensor, ComponentName, ConfigEdit, ConfigValue, Edit, ExpertRange,
    IndexRange, KeptTensor, Layout, LoraForm, Magnitude, NormOf, Origin, Source, SourceFile, Target,
};
use fitment_core::tensor::{Dtype, Tensor};
use serde_json::{Map, Value, json};

use super::parts::{lora, name, ramp, ramp16, raw, shape, whole, written};

pub(super) fn files() -> Vec<(&'static str, Vec<u8>)> {
    let edits = |edits: Vec<Edit<'static>>| Adapter { edits, ..Adapter::default() };
    let adapters = vec![
        ("empty", Adapter::default()),
        ("lora-linear", edits(vec![Edit::Lora(lora(whole("model.layers.0.mlp.up_proj.weight"), [3, 2, 4]))])),
        ("lora-bf16-bound", bound()),
        ("lora-conv", edits(convs())),
        ("lora-magnitude", edits(magnitudes())),
        ("lora-transposed", edits(transposed())),
        ("lora-stacked-experts", edits(stacked())),
        ("bundle-of-experts", bundle()),
        ("slices", slices()),
        ("tied-uses", tied()),
        ("pipeline-components", pipeline()),
        ("shared-tensors", edits(shared())),
        ("numbers", edits(numbers())),
        ("names", names()),
        ("unknown-fields", unknown_fields()),
        ("source", source()),
        ("about", about()),
        ("merge", merged()),
    ];
    adapters.into_iter().map(|(name, adapter)| (name, written(&adapter))).collect()
}

pub(super) fn entry(text: &str, dims: &[u64], digests: usize) -> BaseTensor {
    BaseTensor {
        unchanged: false,
        component: None,
        name: name(text),
        experts: None,
        dtype: Some(Dtype::BF16),
        shape: Some(shape(dims)),
        digests: (0..digests).map(|row| sha256(format!("{text} {row}").as_bytes())).collect(),
        extra: Map::new(),
    }
}

fn bound() -> Adapter<'static> {
    let query = "model.layers.0.self_attn.q_proj.weight";
    let value = "model.layers.0.self_attn.v_proj.weight";
    let mut edits = Vec::new();
    for text in [value, query] {
        let mut edit = lora(whole(text), [4, 2, 6]);
        (edit.up, edit.down) = (ramp16(&[4, 2], 0.0), ramp16(&[2, 6], -1.0));
        edit.origin = Origin {
            alpha: Some(4.0),
            rank: Some(2),
            keys: [("up", "lora_B"), ("down", "lora_A")]
                .map(|(role, key)| (role.to_owned(), format!("base_model.model.{text}.{key}")))
                .into(),
            ..Origin::default()
        };
        edits.push(Edit::Lora(edit));
    }
    let base = Base {
        name: Some("example/tiny-llama".to_owned()),
        revision: Some("0123456789abcdef".to_owned()),
        architecture: Some("LlamaForCausalLM".to_owned()),
        config: [("vocab_size".to_owned(), json!(32000)), ("rope_theta".to_owned(), json!(1e6))]
            .into_iter()
            .collect(),
        tensors: vec![entry(query, &[4, 6], 1), entry(value, &[4, 6], 1)],
        ..Base::default()
    };
    Adapter { base, edits, ..Adapter::default() }
}

fn convs() -> Vec<Edit<'static>> {
    let conv = |text: &str, up: Tensor<'static>, mid, down: Tensor<'static>| {
        let mut edit = lora(whole(text), [1, 1, 1]);
        (edit.form, edit.up, edit.mid, edit.down) = (LoraForm::Conv, up, mid, down);
        Edit::Lora(edit)
    };
    vec![
        conv("conv1.weight", ramp(&[3, 2, 1], 0.5), None, ramp(&[2, 4, 3], 0.0)),
        conv("conv2.weight", ramp(&[3, 2, 1, 1], 0.5), None, ramp(&[2, 4, 3, 3], 0.0)),
        conv("conv3.weight", ramp(&[2, 1, 1, 1, 1], 0.5), None, ramp(&[1, 2, 2, 1, 3], 1.0)),
        conv(
            "mid.weight",
            ramp(&[3, 2, 1, 1], 0.5),
            Some(ramp(&[2, 2, 3, 3], 0.25)),
            ramp(&[2, 4, 1, 1], 1.0),
        ),
    ]
}

fn magnitudes() -> Vec<Edit<'static>> {
    let with = |text: &str, sizes, value, axis, norm_of, eps| {
        let mut edit = lora(whole(text), sizes);
        edit.magnitude = Some(Magnitude { value, axis, norm_of, eps });
        edit
    };
    let mut conv = with("conv.weight", [1, 1, 1], ramp(&[1, 3, 1, 1], 1.0), 0, NormOf::Merged, 0.0);
    (conv.form, conv.up, conv.down) = (LoraForm::Conv, ramp(&[3, 2, 1, 1], 0.5), ramp(&[2, 4, 3, 3], 0.0));
    vec![
        Edit::Lora(with("linear.weight", [3, 2, 4], ramp(&[3], 1.0), 0, NormOf::Merged, 0.0)),
        Edit::Lora(with("embed.weight", [5, 2, 4], ramp(&[4], 1.0), 1, NormOf::Merged, 0.0)),
        Edit::Lora(with("other.weight", [3, 2, 4], ramp(&[1, 4], 1.0), 1, NormOf::Base, 1e-6)),
        Edit::Lora(conv),
    ]
}

fn transposed() -> Vec<Edit<'static>> {
    // GPT-2 stores [in, out]; the update is [out, in] all the same.
    let mut edit = lora(whole("transformer.h.0.attn.c_attn.weight"), [6, 1, 2]);
    edit.transposed = true;
    let mut stacked = lora(whole("experts.gate_up_proj"), [1, 1, 1]);
    (stacked.form, stacked.transposed) = (LoraForm::Stacked, true);
    (stacked.up, stacked.down) = (ramp(&[2, 4, 1], 0.5), ramp(&[2, 1, 3], 1.0));
    vec![Edit::Lora(edit), Edit::Lora(stacked)]
}

fn stacked() -> Vec<Edit<'static>> {
    let mut edit = lora(whole("model.layers.0.mlp.experts.down_proj"), [1, 1, 1]);
    edit.form = LoraForm::Stacked;
    (edit.up, edit.down) = (ramp(&[3, 4, 2], 0.5), ramp(&[3, 2, 5], -1.0));
    vec![Edit::Lora(edit)]
}

fn bundle() -> Adapter<'static> {
    let text = "model.layers.0.mlp.experts.{e}.w1.weight";
    let target = |start, end| Target { experts: Some(ExpertRange { start, end }), ..whole(text) };
    let mut first = lora(target(0, 3), [1, 1, 1]);
    (first.up, first.down) = (ramp(&[3, 4, 1], 0.5), ramp(&[3, 1, 2], 1.0));
    let mut second = lora(target(6, 8), [1, 1, 1]);
    (second.up, second.down) = (ramp(&[2, 4, 2], 0.5), ramp(&[2, 2, 2], 1.0));
    let entry = |start, end, digests| BaseTensor {
        experts: Some(ExpertRange { start, end }),
        ..entry(text, &[4, 2], digests)
    };
    // Single tensors of the same family beside the bundles: 5 is in neither, `07` is no expert's number.
    let single = |text: &str| Edit::Lora(lora(whole(text), [4, 1, 2]));
    let edits = vec![
        Edit::Lora(first),
        Edit::Lora(second),
        single("model.layers.0.mlp.experts.5.w1.weight"),
        single("model.layers.0.mlp.experts.07.w1.weight"),
    ];
    let tensors = vec![
        super::valid::entry("model.layers.0.mlp.experts.07.w1.weight", &[4, 2], 1),
        super::valid::entry("model.layers.0.mlp.experts.5.w1.weight", &[4, 2], 1),
        entry(0, 3, 3),
        entry(6, 8, 2),
    ];
    Adapter { base: Base { tensors, ..Base::default() }, edits, ..Adapter::default() }
}

fn slices() -> Adapter<'static> {
    let range = |start, end, step| IndexRange { start, end, step };
    let slice = |axis, ranges| AxisSlice { axis, ranges };
    let sliced = |text: &str, slice| Target { slice, ..whole(text) };
    let fused = "attn.qkv.weight";
    let interleaved = "experts.gate_up";
    let mut one_expert = lora(
        sliced(interleaved, vec![slice(0, vec![range(1, 2, 1)]), slice(2, vec![range(0, 6, 2)])]),
        [1, 1, 1],
    );
    one_expert.form = LoraForm::Stacked;
    (one_expert.up, one_expert.down) = (ramp(&[1, 2, 1], 0.5), ramp(&[1, 1, 3], 1.0));
    let edits = vec![
        Edit::Lora(lora(sliced(fused, vec![slice(0, vec![range(0, 4, 1)])]), [4, 1, 2])),
        Edit::Lora(lora(sliced(fused, vec![slice(0, vec![range(8, 10, 1), range(10, 12, 1)])]), [4, 2, 2])),
        Edit::Lora(one_expert),
    ];
    let mut tensors = vec![entry(fused, &[12, 2], 0), entry(interleaved, &[2, 2, 6], 0)];
    tensors[1].dtype = None;
    Adapter { base: Base { tensors, ..Base::default() }, edits, ..Adapter::default() }
}

fn tied() -> Adapter<'static> {
    let embedding = "model.embed_tokens.weight";
    let head = Target { uses: vec![name("lm_head.weight")], ..whole(embedding) };
    let both = whole(embedding);
    let untie = ConfigValue::TieWordEmbeddings(false);
    let edits = vec![
        Edit::Lora(lora(both, [5, 1, 2])),
        Edit::Lora(lora(head, [5, 2, 2])),
        Edit::Config(ConfigEdit { component: None, value: untie, origin: Origin::default() }),
    ];
    let tied = [(name(embedding), vec![name("lm_head.weight"), name("score.weight")])].into();
    let tensors = vec![entry(embedding, &[5, 2], 0)];
    Adapter { base: Base { tied, tensors, ..Base::default() }, edits, ..Adapter::default() }
}

fn pipeline() -> Adapter<'static> {
    let part = |text: &str| Some(ComponentName::new(text).expect("a proper name"));
    let target = |component: &str| Target { component: part(component), ..whole("proj.weight") };
    let entry =
        |component: &str| BaseTensor { component: part(component), ..entry("proj.weight", &[3, 4], 1) };
    let config = ConfigValue::VocabSize(49408);
    let edits = vec![
        Edit::Lora(lora(target("unet"), [3, 1, 4])),
        Edit::Lora(lora(target("text_encoder"), [3, 2, 4])),
        Edit::Lora(lora(whole("proj.weight"), [3, 1, 4])),
        Edit::Config(ConfigEdit {
            component: part("text_encoder"),
            value: config,
            origin: Origin::default(),
        }),
    ];
    let tensors = vec![super::valid::entry("proj.weight", &[3, 4], 1), entry("text_encoder"), entry("unet")];
    let base = Base { layout: Layout::Diffusers, tensors, ..Base::default() };
    Adapter { base, edits, ..Adapter::default() }
}

fn shared() -> Vec<Edit<'static>> {
    // VeRA's way: one pair of factors for all layers; and a square factor in both roles of one edit.
    let (up, down) = (ramp(&[4, 2], 0.5), ramp(&[2, 4], 1.0));
    let square = ramp(&[2, 2], 1.0);
    let edit = |text: &str, up: &Tensor<'static>, down: &Tensor<'static>| {
        let mut edit = lora(whole(text), [1, 1, 1]);
        (edit.up, edit.down) = (up.clone(), down.clone());
        Edit::Lora(edit)
    };
    vec![edit("b.weight", &up, &down), edit("a.weight", &up, &down), edit("c.weight", &square, &square)]
}

fn numbers() -> Vec<Edit<'static>> {
    let scales =
        [1e21, 1e20, 1e-7, 1e-6, 5e-324, f64::MAX, 0.1, -1.5, 4.35, 1.0 / 3.0, 0.0, 9_007_199_254_740_992.0];
    let edit = |(index, scale): (usize, &f64)| {
        let mut edit = lora(whole(&format!("{index}.weight")), [1, 1, 1]);
        edit.scale = *scale;
        edit.origin.alpha = Some(-*scale);
        edit.origin.rank = Some(1 << 53);
        Edit::Lora(edit)
    };
    scales.iter().enumerate().map(edit).collect()
}

fn names() -> Adapter<'static> {
    // U+10000 sorts before U+FF5E in UTF-16 and behind it in bytes; quotes and back-slashes are escaped twice.
    let texts = ["\u{10000}.weight", "\u{ff5e}.weight", "a \"b\"\\c.weight", "{}.weight", "@base", "/x:y"];
    let edits = texts.iter().map(|text| Edit::Lora(lora(whole(text), [1, 1, 1]))).collect();
    let fields: Map<String, Value> = texts.iter().map(|text| (format!("x.y/{text}"), json!(text))).collect();
    Adapter { edits, extra: fields, ..Adapter::default() }
}

fn unknown_fields() -> Adapter<'static> {
    let own = |what: &str| {
        let value = json!({ "nested": [null, true, 1e-7, "\u{1f}\u{7f}\n", {}], "empty": [] });
        Map::from_iter([(format!("vendor.example/{what}"), value)])
    };
    let mut edit = lora(whole("a.weight"), [3, 1, 4]);
    edit.origin.extra = own("origin");
    edit.origin.edit_extra = own("edit");
    let mut base_entry = entry("a.weight", &[3, 4], 0);
    base_entry.extra = own("tensor");
    Adapter {
        base: Base { tensors: vec![base_entry], extra: own("base"), ..Base::default() },
        edits: vec![Edit::Lora(edit)],
        source: Some(Source { format: "peft".to_owned(), extra: own("source"), ..Source::default() }),
        about: About { extra: own("about"), ..About::default() },
        extra: own("manifest"),
    }
}

fn source() -> Adapter<'static> {
    let mut edit = lora(whole("a.weight"), [3, 1, 4]);
    edit.origin = Origin {
        alpha: Some(16.0),
        rank: Some(64),
        rslora: true,
        keys: [("up".to_owned(), "a.lora_B".to_owned())].into(),
        ..Origin::default()
    };
    let file = |path: &str, data: &[u8]| SourceFile { path: path.to_owned(), data: raw(data) };
    let source = Source {
        format: "peft".to_owned(),
        version: Some("0.21.2".to_owned()),
        weights: Some("torch".to_owned()),
        files: vec![
            file("adapter_config.json", b"{\"r\": 64,\n \"lora_alpha\": 16}\n"),
            file("sub/empty.txt", b""),
        ],
        kept: vec![KeptTensor { key: "base_model.model.embed.weight".to_owned(), value: ramp(&[2, 2], 0.0) }],
        metadata: [("format".to_owned(), "pt".to_owned())].into(),
        options: [("moe-layout".to_owned(), "0.17".to_owned())].into(),
        extra: Map::new(),
    };
    Adapter { edits: vec![Edit::Lora(edit)], source: Some(source), ..Adapter::default() }
}

/// What says of which adapters it was made is kept, and noted by nobody.
fn merged() -> Adapter<'static> {
    let id = |digit: char| format!("fitment1:{}", digit.to_string().repeat(64));
    let merge = json!({
        "method": "exact",
        "parents": [{ "id": id('a'), "weight": 0.7 }, { "id": id('b'), "weight": -0.3 }],
        "options": { "rank": 1 },
    });
    let extra = Map::from_iter([("merge".to_owned(), merge)]);
    let mut edit = lora(whole("a.weight"), [3, 1, 4]);
    edit.origin.extra.insert("approximation".to_owned(), json!({ "relative_error": 0.25 }));
    Adapter { edits: vec![Edit::Lora(edit)], extra, ..Adapter::default() }
}

fn about() -> Adapter<'static> {
    let about = About {
        title: Some("Haiku".to_owned()),
        description: Some("Two lines\nand a tab\t; naïve, 俳句, 🐸".to_owned()),
        license: Some("MIT OR Apache-2.0".to_owned()),
        triggers: vec!["write a haiku".to_owned()],
        tags: vec!["poetry".to_owned(), "ja".to_owned()],
        extra: Map::new(),
    };
    Adapter { edits: vec![Edit::Lora(lora(whole("a.weight"), [3, 1, 4]))], about, ..Adapter::default() }
}
