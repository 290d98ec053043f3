use super::Error;
use super::stored::{self, Unmapped};
use crate::options::Input;
use fitment_core::model::{Intervention, Site};
use fitment_math::intervention::{Map, State};
use fitment_math::ndarray::{Array2, Array3, ArrayView3, ArrayViewMut3};

/// One intervention, ready to run.
#[derive(Clone, Debug)]
pub(super) struct Act<'a> {
    pub(super) file: String,
    pub(super) edit: &'a Intervention<'a>,
    pub(super) map: Map,
    /// First element of `h` in the states.
    start: usize,
    /// How many `h` the states of one token hold.
    pub(super) heads: usize,
}

impl<'a> Act<'a> {
    pub(super) fn new(input: &Input<'a>, edit: &'a Intervention<'a>, width: usize) -> Result<Self, Error> {
        let (file, site) = (input.name.clone(), edit.label());
        let cut = matches!(&edit.site, Site::Layer { component, .. } if component.is_per_head());
        let extent = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        let (start, own) = match edit.dims {
            Some([start, end]) => (extent(start), extent(end.saturating_sub(start))),
            None => (0, edit.width().map_or(width, extent)),
        };
        let fits = match (edit.dims, cut) {
            (Some(_), true) => false,
            (Some(_), false) => start.checked_add(own).is_some_and(|end| end <= width),
            (None, true) => own > 0 && width.is_multiple_of(own),
            (None, false) => own == width,
        };
        if !fits {
            let expected = match (edit.dims, cut) {
                (Some([start, end]), _) => format!("{end} or more ({start} to {end} are changed)"),
                (None, true) => format!("a multiple of {own}"),
                (None, false) => own.to_string(),
            };
            return Err(Error::Width { file, site, expected, found: width });
        }
        let read =
            edit.input_site.as_ref().and(edit.source_weight.as_ref()).and_then(|weight| weight.dims().get(1));
        let input_width = read.map_or(own, |width| extent(*width));
        let map = stored::map(edit, input.weight, (own, input_width)).map_err(|unmapped| match unmapped {
            Unmapped::Dtype(role, dtype) => {
                Error::Dtype { file: file.clone(), site: site.clone(), role, dtype }
            }
            Unmapped::Misfit(source) => Error::Map { file: file.clone(), site: site.clone(), source },
        })?;
        let heads = if cut { width / own } else { 1 };
        Ok(Self { file, edit, map, start, heads })
    }

    /// Whether `x` comes in heads too, one for each `h`.
    pub(super) fn reads_heads(&self) -> bool {
        matches!(&self.edit.input_site, Some(Site::Layer { component, .. }) if component.is_per_head())
    }

    pub(super) fn misfit(&self, source: fitment_math::Error) -> Error {
        Error::Map { file: self.file.clone(), site: self.edit.label(), source }
    }

    pub(super) fn width_error(&self, expected: String, found: usize) -> Error {
        Error::Width { file: self.file.clone(), site: self.edit.label(), expected, found }
    }

    /// Where `h` number `head` of a token begins.
    fn at(&self, head: usize) -> usize {
        self.start + head * self.map.width()
    }

    /// Each token's `h`, a row for each head.
    pub(super) fn gather<S: State>(
        &self,
        states: &ArrayView3<'_, S>,
        tokens: &[(usize, usize)],
    ) -> Array2<f32> {
        let (width, heads) = (self.map.width(), self.heads);
        Array2::from_shape_fn((tokens.len() * heads, width), |(index, element)| {
            let (row, column) = tokens[index / heads];
            states[[row, column, self.at(index % heads) + element]].widen()
        })
    }

    /// Each token's `x`, a row for each head.
    pub(super) fn gather_input<S: State>(
        &self,
        input: &ArrayView3<'_, S>,
        tokens: &[(usize, usize)],
    ) -> Array2<f32> {
        let (width, heads, cut) = (self.map.input_width(), self.heads, self.reads_heads());
        Array2::from_shape_fn((tokens.len() * heads, width), |(index, element)| {
            let (row, column) = tokens[index / heads];
            let start = if cut { index % heads * width } else { 0 };
            input[[row, column, start + element]].widen()
        })
    }

    /// Rounds new `h` into the states.
    pub(super) fn write<S: State>(
        &self,
        states: &mut ArrayViewMut3<'_, S>,
        tokens: &[(usize, usize)],
        h: &Array2<f32>,
    ) {
        for (index, new) in h.outer_iter().enumerate() {
            let (row, column) = tokens[index / self.heads];
            let start = self.at(index % self.heads);
            for (element, new) in new.iter().enumerate() {
                states[[row, column, start + element]] = S::narrow(*new);
            }
        }
    }

    /// Adds changes to the sums in f32, and rounds these into the states.
    pub(super) fn add<S: State>(
        &self,
        sums: &mut Array3<f32>,
        states: &mut ArrayViewMut3<'_, S>,
        (tokens, change): (&[(usize, usize)], &Array2<f32>),
    ) {
        for (index, change) in change.outer_iter().enumerate() {
            let (row, column) = tokens[index / self.heads];
            let start = self.at(index % self.heads);
            for (element, change) in change.iter().enumerate() {
                let place = [row, column, start + element];
                sums[place] += change;
                states[place] = S::narrow(sums[place]);
            }
        }
    }
}
