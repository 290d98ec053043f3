//! From a looked-through folder to the model.

use super::checks::{check_exported, check_missing};
use super::config::Config;
use super::folder::{Folder, TORCH};
use super::inspect::{Inspection, inspect};
use super::orientation;
use super::parameters::{self, Parameter, Said};
use super::placed::{Ground, Place, Placed};
use super::units::{self, Change, LoraKind, Reach, Unit, wants};
use super::{leftovers, rules, unbound, vocabulary};
use crate::bind::bind;
use crate::error::{Clash, Error};
use crate::files::Files;
use crate::formats::Ask;
use crate::loss::Loss;
use crate::read::{Converted, ReadOptions};
use crate::tying::model_type;
use fitment_core::checkpoint::Checkpoint;
use fitment_core::model::{
    Add, Base, BaseTensor, ConfigEdit, ConfigValue, Edit, KeptTensor, Lora, LoraForm, Magnitude, NormOf,
    Origin, Set, SetDtype, Source, Target, TensorName,
};
use fitment_core::tensor::Shape;
use fitment_core::{Adapter, Finding};
use serde_json::Map;
use std::collections::BTreeMap;

/// Reads a PEFT adapter.
///
/// # Errors
/// [`Error::Malformed`] for contradictions, [`Error::Unsupported`] for methods and variants that are refused by name,
/// [`Error::Ambiguous`] where only a base can tell, [`Error::Unmapped`] and [`Error::Mismatch`] where the base does not fit.
pub fn read<'a>(files: &Files<'a>, options: &ReadOptions<'_>) -> Result<Converted<'a>, Error> {
    convert(&inspect(files, options.adapter_name)?, files, options)
}

/// Makes edits of what was looked through.
///
/// # Errors
/// As [`read`].
pub(super) fn convert<'a>(
    inspection: &Inspection<'a>,
    files: &Files<'a>,
    options: &ReadOptions<'_>,
) -> Result<Converted<'a>, Error> {
    let config = inspection.sound()?;
    let model = options.base.and_then(|base| base.config()).and_then(model_type);
    if let Some(finding) = check_exported(config, &inspection.contents, model) {
        return Err(Error::Malformed { findings: vec![finding] });
    }
    let (units, kept) = units::of(inspection, config);
    let parameters = parameters::of(inspection);
    let said = Said::new(config, options)?;
    refuse_useless(&parameters, options)?;
    let mut reading = Reading {
        config,
        edits: Vec::new(),
        kept,
        losses: Vec::new(),
        findings: inspection.findings.clone(),
        base: Base::default(),
    };
    if options.moe_b_layout.is_some() {
        reading.findings.retain(|finding| finding.code != rules::P_MOE_B_LAYOUT.code);
    }
    if let Some(rule) = inspection.assumed_rule {
        reading.losses.push(Loss::AssumedVersion { rule: rule.to_string() });
    }
    match options.base {
        Some(base) => reading.on_base(units, (&parameters, &said), base)?,
        None => reading.without_base(units, (&parameters, &said), options.to_look_at)?,
    }
    let options_said = said.options().into_iter().collect();
    reading.finish(files, inspection, options, options_said)
}

/// Options about experts are for files that have some.
fn refuse_useless(parameters: &[Parameter<'_>], options: &ReadOptions<'_>) -> Result<(), Error> {
    let given = [Ask::MoeLayout, Ask::MoeBLayout].into_iter().find(|ask| options.says(*ask));
    match given.filter(|_| parameters.is_empty()) {
        Some(ask) => Err(Error::no_use(ask, "this adapter", "it has no LoRA on parameters of experts")),
        None => Ok(()),
    }
}

struct Reading<'c, 'a> {
    config: &'c Config,
    edits: Vec<(SortKey, Edit<'a>)>,
    kept: Vec<KeptTensor<'a>>,
    losses: Vec<Loss>,
    findings: Vec<Finding>,
    base: Base,
}

/// The order of a LoRA for one use, among the changes of a target.
const LORA_ORDER: u8 = 5;

/// Target on disk, order of the change, key in the file: edits of one target stand in the order in which they apply.
type SortKey = (String, u8, String);

impl<'a> Reading<'_, 'a> {
    fn on_base(
        &mut self,
        units: Vec<Unit<'a>>,
        (parameters, said): (&[Parameter<'a>], &Said),
        base: &dyn Checkpoint,
    ) -> Result<(), Error> {
        let (names, form) = parameters::find(&wants(&units), parameters, base)?;
        let experts = parameters::edits(parameters, said, (&names, form), base)?;
        self.note_stacks(&experts, parameters, form.is_some());
        self.take(experts);
        let mut ground = Ground { config: self.config, base, names };
        self.note_renames(&units, &ground);
        self.findings.extend(check_missing(self.config, &units, (&ground.names, base)).unwrap_or_default());
        ground.check_stored(&units)?;
        let units = ground.drop_copies(units, &mut self.kept)?;
        vocabulary::check_rows(&units, &ground)?;
        let vocabulary = vocabulary::resized(&units, &ground)?;
        let placed = ground.place(units, &mut self.kept)?;
        for target in &placed.headless {
            self.losses.push(Loss::AssumedHeadless { target: target.clone() });
        }
        let shapes = shapes_behind_wholes(&placed);
        let (mut straight, mut turned) = (None, false);
        for (unit, places) in &placed.units {
            let transposed = is_transposed(unit, &ground, &shapes)?;
            turned |= transposed;
            if matches!(unit.change, Change::Lora { kind: LoraKind::Linear, .. }) {
                straight.get_or_insert(&unit.module);
            }
            self.emit(unit, places, transposed)?;
        }
        // PEFT sets the flag by the last module that it wraps: beside transposed ones it tells nothing of the others.
        if let Some(module) = straight.filter(|_| self.config.fan_in_fan_out && !turned) {
            let message =
                format!("is true, but {module} of the base is stored as [out, in]: the flag is ignored");
            self.findings.push(Finding::new(&rules::P_FLAG_IGNORED, "fan_in_fan_out", message));
        }
        let names = |uses: &Vec<String>| uses.iter().map(TensorName::new).collect::<Result<Vec<_>, _>>();
        for (disk, uses) in &placed.tied {
            self.base.tied.insert(TensorName::new(disk)?, names(uses)?);
        }
        if placed.unties {
            self.config_edit(ConfigValue::TieWordEmbeddings(false));
        }
        if let Some(size) = vocabulary {
            self.config_edit(ConfigValue::VocabSize(size));
        }
        Ok(())
    }

    fn without_base(
        &mut self,
        units: Vec<Unit<'a>>,
        (parameters, said): (&[Parameter<'a>], &Said),
        to_look_at: bool,
    ) -> Result<(), Error> {
        let mut expected = unbound::expect(units, self.config, to_look_at)?;
        let experts = parameters::unbound(parameters, said)?;
        for (edit, dims) in &experts.edits {
            expected.shapes.insert(edit.target.name.to_string(), Shape::new(dims).ok());
        }
        self.take(experts);
        expected.losses.push(Loss::Unbound { targets: expected.shapes.len() });
        for (unit, places) in &expected.placed.units {
            let transposed = expected.transposed.get(&unit.name).copied().unwrap_or(false);
            self.emit(unit, places, transposed)?;
        }
        self.losses.extend(expected.losses);
        let tensor = |(name, shape): (&String, &Option<Shape>)| -> Result<BaseTensor, Error> {
            Ok(BaseTensor {
                unchanged: false,
                component: None,
                name: TensorName::new(name)?,
                experts: None,
                dtype: None,
                shape: shape.clone(),
                digests: Vec::new(),
                extra: Map::new(),
            })
        };
        self.base.tensors = expected.shapes.iter().map(tensor).collect::<Result<_, _>>()?;
        Ok(())
    }

    /// What LoRA on parameters became.
    fn take(&mut self, placed: parameters::Placed<'a>) {
        self.losses.extend(placed.losses);
        self.findings.extend(placed.findings);
        for (edit, _) in placed.edits {
            let key = edit.origin.keys.values().next().cloned().unwrap_or_default();
            self.edits.push(((edit.target.name.to_string(), LORA_ORDER, key), Edit::Lora(edit)));
        }
    }

    /// Tensors of experts that have other names on disk.
    fn note_stacks(&mut self, placed: &parameters::Placed<'a>, parameters: &[Parameter<'a>], apart: bool) {
        let (Some(first), Some((edit, _))) = (parameters.first(), placed.edits.first()) else { return };
        if apart || first.name != edit.target.name.as_str() {
            let (from, to) = (first.name.clone(), edit.target.name.to_string());
            self.losses.push(Loss::Renamed { from, to, targets: placed.edits.len() });
        }
    }

    fn note_renames(&mut self, units: &[Unit<'a>], ground: &Ground<'_>) {
        let moved = |unit: &&Unit<'a>| ground.names.on_disk(&unit.name).is_some_and(|disk| disk != unit.name);
        let targets = units.iter().filter(moved).count();
        let Some(first) = units.iter().find(moved) else { return };
        let to = ground.names.on_disk(&first.name).unwrap_or_default().to_owned();
        self.losses.push(Loss::Renamed { from: first.name.clone(), to, targets });
    }

    fn config_edit(&mut self, value: ConfigValue) {
        // Behind every target: no tensor name sorts after it.
        let key = (char::MAX.to_string(), 0, value.key().to_owned());
        self.edits
            .push((key, Edit::Config(ConfigEdit { component: None, value, origin: Origin::default() })));
    }

    fn emit(&mut self, unit: &Unit<'a>, places: &[Place], transposed: bool) -> Result<(), Error> {
        for place in places {
            let key = unit.origin.keys.values().next().cloned().unwrap_or_default();
            let edit = edit(unit, place, transposed)?;
            // What reaches all uses comes before what is for one of them.
            let order = 2 * unit.change.order() + u8::from(unit.reach == Reach::ThisUse);
            self.edits.push(((place.disk.clone(), order, key), edit));
        }
        Ok(())
    }

    fn finish(
        mut self,
        files: &Files<'a>,
        inspection: &Inspection<'a>,
        options: &ReadOptions<'_>,
        said: BTreeMap<String, String>,
    ) -> Result<Converted<'a>, Error> {
        let config = self.config;
        self.edits.sort_by(|a, b| a.0.cmp(&b.0));
        self.kept.sort_by(|a, b| a.key.cmp(&b.key));
        self.base.name = options.base_name.map(str::to_owned).or(config.base_name.clone());
        self.base.revision = config.revision.clone();
        self.base.architecture = config.model_class.clone();
        let carried = leftovers::carry(files, &inspection.folder, options.keep_files, options.base);
        self.losses.extend(carried.losses);
        let source =
            Source { files: carried.files, options: said, ..source(config, &inspection.folder, self.kept) };
        let mut adapter = Adapter {
            base: self.base,
            edits: self.edits.into_iter().map(|(_, edit)| edit).collect(),
            source: Some(source),
            ..Adapter::default()
        };
        if let Some(base) = options.base {
            bind(&mut adapter, base)?;
        }
        Ok(Converted { adapter, losses: self.losses, findings: self.findings, id: None })
    }
}

fn source<'a>(config: &Config, folder: &Folder<'a>, kept: Vec<KeptTensor<'a>>) -> Source<'a> {
    Source {
        format: "peft".to_owned(),
        version: config.version_text.clone(),
        weights: folder.is_torch.then(|| TORCH.to_owned()),
        files: Vec::new(),
        kept,
        metadata: folder.metadata.clone(),
        options: BTreeMap::new(),
        extra: Map::new(),
    }
}

/// The shapes that whole values give the base's tensors, by name on disk.
fn shapes_behind_wholes(placed: &Placed<'_>) -> BTreeMap<String, Vec<u64>> {
    let mut shapes = BTreeMap::new();
    for (unit, places) in &placed.units {
        if let Change::Whole { value, .. } = &unit.change {
            shapes.extend(places.iter().map(|place| (place.disk.clone(), value.dims().to_vec())));
        }
    }
    shapes
}

/// Whether a linear unit's tensor is stored `[in, out]`. Shape decides, and for square ones what the base's config says.
fn is_transposed(
    unit: &Unit<'_>,
    ground: &Ground<'_>,
    wholes: &BTreeMap<String, Vec<u64>>,
) -> Result<bool, Error> {
    let Change::Lora { kind: LoraKind::Linear, up, down, .. } = &unit.change else { return Ok(false) };
    let (out, input) = (up.dims().first().copied(), down.dims().get(1).copied());
    let Some((disk, info)) = ground.source(&unit.name) else { return Ok(false) };
    let dims = wholes.get(disk).map_or(info.shape.dims(), Vec::as_slice);
    let straight = dims.first().copied() == out && dims.get(1).copied() == input;
    if !straight {
        let turned = dims.first().copied() == input && dims.get(1).copied() == out;
        let clash = || Clash {
            target: disk.to_owned(),
            expected: format!("[{}, {}]", out.unwrap_or(0), input.unwrap_or(0)),
            found: format!("{dims:?}"),
        };
        return if turned { Ok(true) } else { Err(Error::Mismatch { culprits: vec![clash()] }) };
    }
    if out != input {
        return Ok(false);
    }
    let decided = orientation::is_transposed(&unit.module, ground.config.fan_in_fan_out, ground.base);
    decided.ok_or_else(|| Error::Ambiguous {
        what: disk.to_owned(),
        reason: "a square matrix of what may be GPT-2's Conv1D, and nothing in the base tells".to_owned(),
        hint: match ground.base.config() {
            None => "give the base as a folder with its config.json".to_owned(),
            Some(_) => {
                "where the module is a plain Linear, set fan_in_fan_out to false in adapter_config.json"
                    .to_owned()
            }
        },
    })
}

fn edit<'a>(unit: &Unit<'a>, place: &Place, transposed: bool) -> Result<Edit<'a>, Error> {
    let uses = place.uses.iter().map(TensorName::new).collect::<Result<_, _>>()?;
    let target = Target { uses, ..Target::whole(TensorName::new(&place.disk)?) };
    let origin = unit.origin.clone();
    Ok(match &unit.change {
        Change::Lora { kind, up, down, magnitude, scale } => Edit::Lora(Lora {
            target,
            form: if *kind == LoraKind::Conv { LoraForm::Conv } else { LoraForm::Matrix },
            transposed,
            scale: *scale,
            up: up.clone(),
            down: down.clone(),
            mid: None,
            magnitude: magnitude.as_ref().map(|value| Magnitude {
                value: value.clone(),
                // PEFT keeps outputs, and of embeddings the dimensions.
                axis: if *kind == LoraKind::Embedding { 1 } else { 0 },
                norm_of: NormOf::Merged,
                eps: 0.0,
            }),
            origin,
        }),
        Change::Add { value, scale } => {
            Edit::Add(Add { target, scale: *scale, value: value.clone(), exceptions: None, origin })
        }
        Change::Whole { value, .. } => Edit::Set(Set {
            target,
            dtype: if place.create { SetDtype::Stored } else { SetDtype::Base },
            create: place.create,
            reshape: false,
            value: value.clone(),
            rows: None,
            origin,
        }),
        Change::Rows { value, rows, .. } => Edit::Set(Set {
            target,
            dtype: SetDtype::Base,
            create: false,
            reshape: false,
            value: value.clone(),
            rows: Some(rows.clone()),
            origin,
        }),
    })
}
