//! Which interventions can be folded, each by itself and then beside the others.

use super::File;
use super::affine::Affine;
use super::obstacle::Obstacle;
use super::place::{Model, Place, Side, Touch};
use fitment_core::model::{Edit, Intervention, LoraForm, Phase, Select, Site, SiteComponent};
use fitment_math::round::Element;

/// An intervention on the way into weights.
pub(super) struct Candidate<'a> {
    pub(super) file: usize,
    pub(super) edit_index: usize,
    pub(super) edit: &'a Intervention<'a>,
    /// Where it acts, if that is known.
    pub(super) place: Option<Place>,
    /// What it does there; nothing where there is an obstacle.
    pub(super) affine: Option<Affine>,
    pub(super) obstacle: Option<Obstacle>,
}

/// Judges every intervention of the files.
pub(super) fn judge<'a>(
    files: &[File<'a>],
    model: &Result<Model<'_>, String>,
    may_lack_bias: bool,
) -> Vec<Candidate<'a>> {
    let mut candidates = Vec::new();
    for (file, File { adapter, weight, .. }) in files.iter().enumerate() {
        for (edit_index, edit) in adapter.edits.iter().enumerate() {
            let Edit::Intervention(edit) = edit else { continue };
            let place = match model {
                Ok(model) => model.place(&edit.site),
                Err(model_type) => Err(Obstacle::UnknownModel {
                    site: edit.site.to_string(),
                    model_type: model_type.clone(),
                }),
            };
            let judged = alone(edit, *weight, place.as_ref().map_err(Clone::clone)).and_then(|affine| {
                let (Ok(model), Ok(place)) = (model, &place) else { return Ok(affine) };
                for touch in &place.touches {
                    fits(edit, touch)?;
                    model.can_take(touch, affine.has_shift() && !may_lack_bias)?;
                    is_plain(files, touch)?;
                }
                Ok(affine)
            });
            let (affine, obstacle) = match judged {
                Ok(affine) => (Some(affine), None),
                Err(obstacle) => (None, Some(obstacle)),
            };
            let place = place.ok();
            candidates.push(Candidate { file, edit_index, edit, place, affine, obstacle });
        }
    }
    together(&mut candidates, model.as_ref().ok());
    candidates
}

/// What it does, if weights can do that at all.
fn alone(edit: &Intervention<'_>, weight: f64, place: Result<&Place, Obstacle>) -> Result<Affine, Obstacle> {
    if let Some(component) = &edit.component {
        return Err(Obstacle::Component { component: component.to_string() });
    }
    let place = place?;
    if let Some(obstacle) = is_not_linear(edit) {
        return Err(obstacle);
    }
    let unreadable = || Obstacle::Dtype { tensor: edit.label() };
    let width = place.touches.first().map_or(0, |touch| touch.width);
    let own = usize::try_from(edit.width().unwrap_or(width)).map_err(|_| unreadable())?;
    let affine = Affine::of(edit, weight, own).ok_or_else(unreadable)?;
    if let Some(component) = place.residual.filter(|_| !affine.is_constant()) {
        return Err(Obstacle::Residual(component));
    }
    is_not_everywhere(edit).map_or(Ok(affine), Err)
}

/// What keeps an intervention from being folded into whatever base: all that shows without one.
pub(super) fn in_any_base(edit: &Intervention<'_>) -> Option<Obstacle> {
    let constant = edit.source_weight.is_none() && !edit.subtract;
    let at_site = match edit.site {
        Site::Layer {
            component: component @ (SiteComponent::BlockInput | SiteComponent::BlockOutput),
            ..
        } if !constant => Some(Obstacle::Residual(component)),
        _ => None,
    };
    let component =
        edit.component.as_ref().map(|component| Obstacle::Component { component: component.to_string() });
    component.or(at_site).or_else(|| is_not_linear(edit)).or_else(|| is_not_everywhere(edit))
}

fn is_not_linear(edit: &Intervention<'_>) -> Option<Obstacle> {
    let input = || edit.input_site.as_ref().map(|site| Obstacle::InputSite { site: site.to_string() });
    edit.activation.map(Obstacle::Activation).or_else(input)
}

fn is_not_everywhere(edit: &Intervention<'_>) -> Option<Obstacle> {
    match (edit.positions.phase, &edit.positions.select) {
        (_, Select::FirstLast(_) | Select::Explicit(_)) => Some(Obstacle::SomeTokens),
        (phase @ (Phase::Prompt | Phase::Decode), Select::All) => Some(Obstacle::SomePhase(phase)),
        (Phase::EveryForward, Select::All) => None,
    }
}

pub(super) fn is_per_head(edit: &Intervention<'_>) -> bool {
    matches!(&edit.site, Site::Layer { component, .. } if component.is_per_head())
}

fn fits(edit: &Intervention<'_>, touch: &Touch) -> Result<(), Obstacle> {
    let own = edit.width().unwrap_or(touch.width);
    let (expected, fits) = match (edit.dims, is_per_head(edit)) {
        (Some([_, end]), false) => (end, end <= touch.width),
        (None, true) => (own, own > 0 && touch.width.is_multiple_of(own)),
        (_, _) => (own, own == touch.width),
    };
    if fits {
        Ok(())
    } else {
        Err(Obstacle::Width { expected, module: touch.module.clone(), found: touch.width })
    }
}

impl Model<'_> {
    /// Whether weight and bias of a layer have arithmetic, and there is a bias where one is needed.
    fn can_take(&self, touch: &Touch, needs_bias: bool) -> Result<(), Obstacle> {
        let [weight, bias] = ["weight", "bias"].map(|part| format!("{}.{part}", touch.module));
        let tensors = self.base.tensors();
        for tensor in [&weight, &bias] {
            if tensors.get(tensor).is_some_and(|info| Element::of(info.dtype).is_none()) {
                return Err(Obstacle::Dtype { tensor: tensor.clone() });
            }
        }
        if needs_bias && !tensors.contains_key(&bias) && self.switch(&touch.module).is_none() {
            let (module, model_type) = (touch.module.clone(), self.model_type.clone());
            return Err(Obstacle::NoBias { module, model_type });
        }
        Ok(())
    }
}

/// Edits of the weights at one end must be sums, which a product with them can be spread over.
fn is_plain(files: &[File<'_>], touch: &Touch) -> Result<(), Obstacle> {
    for edit in files.iter().flat_map(|file| &file.adapter.edits) {
        let Some(target) = edit.target() else { continue };
        for name in target.base_names() {
            let Some(part) =
                name.strip_prefix(&touch.module).filter(|part| matches!(*part, ".weight" | ".bias"))
            else {
                continue;
            };
            let whole = target.slice.is_empty() && target.uses.is_empty() && target.when.is_none();
            let plain = match edit {
                Edit::Lora(lora) => {
                    part == ".weight"
                        && lora.form == LoraForm::Matrix
                        && lora.magnitude.is_none()
                        && lora.mid.is_none()
                }
                Edit::Add(add) => add.exceptions.is_none() && Element::of(add.value.dtype()).is_some(),
                _ => false,
            };
            if !whole || !plain || target.experts.is_some() {
                return Err(Obstacle::Edited { tensor: name, kind: edit.kind() });
            }
        }
    }
    Ok(())
}

/// What cannot be folded keeps others at the same states from it: those that act between it and the weight's far side, and those
/// whose states it reads.
fn together(candidates: &mut [Candidate<'_>], model: Option<&Model<'_>>) {
    loop {
        let blocked: Vec<(usize, Obstacle)> = (0..candidates.len())
            .filter(|index| candidates[*index].obstacle.is_none())
            .filter_map(|index| Some((index, obstacle_of(candidates, index, model)?)))
            .collect();
        if blocked.is_empty() {
            return;
        }
        for (index, obstacle) in blocked {
            candidates[index].obstacle = Some(obstacle);
            candidates[index].affine = None;
        }
    }
}

fn obstacle_of(candidates: &[Candidate<'_>], index: usize, model: Option<&Model<'_>>) -> Option<Obstacle> {
    let this = &candidates[index];
    let place = this.place.as_ref()?;
    for (at, other) in candidates.iter().enumerate().filter(|(_, other)| other.obstacle.is_some()) {
        let label = || other.edit.label();
        let stands_between = place.touches.iter().any(|touch| {
            let others = other.place.iter().flat_map(|place| &place.touches);
            others.into_iter().any(|other| touch.meets(other) && comes_first((other, at), (touch, index)))
        });
        // Interventions that are summed or replace each other are one map.
        let is_one_map = this.file == other.file
            && this.edit.site == other.edit.site
            && this.edit.overlap != fitment_core::model::Overlap::Sequential;
        if stands_between || is_one_map {
            return Some(Obstacle::Behind { other: label() });
        }
        let read = other.edit.input_site.as_ref().and_then(|site| model?.place(site).ok());
        let is_read = place.touches.iter().any(|touch| {
            let reads = read.iter().flat_map(|place| &place.touches);
            reads
                .into_iter()
                .any(|read| touch.meets(read) && (touch.side == Side::Input || read.level < touch.level))
        });
        if is_read {
            return Some(Obstacle::ReadElsewhere { other: label() });
        }
    }
    None
}

/// Whether one is folded before the other: what is nearer to the weight; at one place what acts first on an output, last on an input.
pub(super) fn comes_first((a, a_at): (&Touch, usize), (b, b_at): (&Touch, usize)) -> bool {
    let in_list = if a.side == Side::Output { a_at < b_at } else { a_at > b_at };
    a.level < b.level || (a.level == b.level && in_list)
}
