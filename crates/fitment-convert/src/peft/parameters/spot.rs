//! Where a parameter is in the base: one stack of all experts, or tensors of each.

use super::Parameter;
use super::layout::Class;
use crate::error::{Clash, Error};
use crate::names::{Creates, Fit, Names, Want, resolve};
use crate::pass::experts::{Part, WORDS, Words, bundle, parts};
use fitment_core::checkpoint::Checkpoint;

/// A parameter's place.
#[derive(Clone, Debug)]
pub(super) enum Spot {
    /// A parameter of two axes: `[out, in]`.
    Matrix { disk: String },
    /// `[E, x, y]`.
    Stack { disk: String, rows: u64, columns: u64, transposed: bool, turned: bool },
    /// Bundles, each with its rows; all have the same columns.
    Each { bundles: Vec<(String, u64)>, columns: u64 },
}

/// How the base stores experts.
pub(in crate::peft) type Form = Option<&'static Words>;

/// Finds what is wanted and the parameters in the base: each as a tensor of its own name, else as tensors of single experts.
///
/// # Errors
/// Those of [`resolve`], about the parameters' own names.
pub(in crate::peft) fn find(
    wants: &[Want],
    parameters: &[Parameter<'_>],
    base: &dyn Checkpoint,
) -> Result<(Names, Form), Error> {
    let with = |form: Form| -> Vec<Want> {
        let own = parameters.iter().flat_map(|parameter| wants_of(parameter, form));
        wants.iter().cloned().chain(own).collect()
    };
    let first = match resolve(&with(None), base) {
        Ok(names) => return Ok((names, None)),
        Err(error) => error,
    };
    let is_apart = |parameter: &Parameter<'_>| !parts(parameter.word()).is_empty();
    if parameters.iter().any(is_apart) {
        for words in &WORDS {
            if let Ok(names) = resolve(&with(Some(words)), base) {
                return Ok((names, Some(words)));
            }
        }
    }
    Err(first)
}

fn wants_of(parameter: &Parameter<'_>, form: Form) -> Vec<Want> {
    let want = |name: String, fit: Fit| Want { name, fit, creates: Creates::Nothing, is_vocabulary: false };
    let (a, b) = parameter.sides();
    match form.filter(|_| !parts(parameter.word()).is_empty()) {
        Some(words) => {
            let part = |part: &Part| want(of_first(parameter, words.of(*part)), Fit::Axes(2));
            parts(parameter.word()).iter().map(part).collect()
        }
        None => {
            let fit = Fit::Parameter { experts: parameter.experts, rows: b, columns: a };
            vec![want(parameter.name.clone(), fit)]
        }
    }
}

/// The name that a matrix of the first expert has.
fn of_first(parameter: &Parameter<'_>, word: &str) -> String {
    let module = parameter.name.rsplit_once('.').map_or("", |(module, _)| module);
    format!("{module}.0.{word}.weight")
}

impl Spot {
    /// The place of a parameter that [`find`] has found.
    ///
    /// # Errors
    /// [`Error::Mismatch`] where the tensors of its experts differ in shape, or are more or fewer.
    pub(super) fn of(
        parameter: &Parameter<'_>,
        form: Form,
        (names, class): (&Names, Class),
        base: &dyn Checkpoint,
    ) -> Result<Self, Error> {
        if let Some(words) = form.filter(|_| !parts(parameter.word()).is_empty()) {
            return each(parameter, words, names, base);
        }
        let disk = names.on_disk(&parameter.name).unwrap_or(&parameter.name).to_owned();
        let dims = base.tensors().get(&disk).map(|info| info.shape.dims().to_vec()).unwrap_or_default();
        let &[_, rows, columns] = &dims[..] else { return Ok(Spot::Matrix { disk }) };
        let is_down = parts(parameter.word()) == [Part::Down];
        let stacks = class.stacks;
        let transposed = stacks.is_stored_transposed(is_down, rows, columns);
        Ok(Spot::Stack { disk, rows, columns, transposed, turned: transposed != stacks.is_transposed })
    }
}

fn each(
    parameter: &Parameter<'_>,
    words: &Words,
    names: &Names,
    base: &dyn Checkpoint,
) -> Result<Spot, Error> {
    let (mut bundles, mut width) = (Vec::new(), None);
    let mut culprits = Vec::new();
    let mut clash = |target: String, expected: String, found: String| {
        culprits.push(Clash { target, expected, found });
    };
    for part in parts(parameter.word()) {
        let first = of_first(parameter, words.of(*part));
        let name = names.on_disk(&first).and_then(bundle).unwrap_or_default();
        let of = |expert: u64| base.tensors().get(&name.replacen("{e}", &expert.to_string(), 1));
        let Some(&[rows, columns]) = of(0).map(|info| info.shape.dims()) else { continue };
        let fits = |expert: u64| of(expert).is_some_and(|info| info.shape.dims() == [rows, columns]);
        let count = (0..).take_while(|expert| fits(*expert)).take_while(|e| *e <= parameter.experts).count();
        if count as u64 != parameter.experts || of(parameter.experts).is_some() {
            let more = if count as u64 > parameter.experts { "more" } else { "fewer of that shape" };
            clash(name.clone(), format!("{} experts", parameter.experts), more.to_owned());
        }
        if width.is_some_and(|width| width != columns) {
            clash(name.clone(), format!("{} columns", width.unwrap_or(0)), columns.to_string());
        }
        width.get_or_insert(columns);
        bundles.push((name, rows));
    }
    if culprits.is_empty() {
        Ok(Spot::Each { bundles, columns: width.unwrap_or(0) })
    } else {
        Err(Error::Mismatch { culprits })
    }
}
