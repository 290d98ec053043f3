//! Changes of single elements and runs, which need no product.

use crate::part::Part;
use crate::plan::{Elements, Values};
use fitment_math::round::{Element, decode};
use fitment_math::{Error, dense};
use std::ops::Range;

/// What happens to elements of `W`, but for products.
pub struct Change<'p>(pub(super) Kind<'p>);

pub(super) enum Kind<'p> {
    Add {
        factor: f64,
        value: &'p Part<'p>,
        element: Element,
    },
    Set {
        values: &'p Values<'p>,
        element: Element,
    },
    /// Positions of `W`, ascending, and their values.
    Exceptions {
        positions: &'p [u64],
        value: &'p Part<'p>,
        element: Element,
    },
    Put {
        elements: &'p Elements<'p>,
        element: Element,
    },
    Scatter {
        factor: f64,
        elements: &'p Elements<'p>,
        element: Element,
    },
    /// All elements of the tensor anew.
    Whole {
        bytes: Vec<u8>,
        element: Element,
    },
}

/// Stored numbers for some elements of `W`.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece<'p> {
    /// For the elements from position `at` on.
    Run {
        /// Position in `W` of the first one.
        at: usize,
        /// How the numbers are stored.
        element: Element,
        /// They.
        bytes: &'p [u8],
        /// The elements get so many times the numbers added; `None`: they become the numbers.
        factor: Option<f64>,
    },
    /// For single elements.
    Points {
        /// Positions in `W`, ascending.
        at: Vec<usize>,
        /// As many numbers.
        values: Vec<f64>,
        /// As of a run.
        factor: Option<f64>,
    },
}

impl Change<'_> {
    /// What happens to the elements of `W` in `range`, in order.
    ///
    /// # Errors
    /// [`Error`] when stored numbers are not as many as the plan says.
    pub fn pieces(&self, range: Range<usize>) -> Result<Vec<Piece<'_>>, Error> {
        match &self.0 {
            Kind::Add { factor, value, element } => {
                let known = value.elements().saturating_sub(range.start).min(range.len());
                let bytes = value.bits_at(range.start, known);
                Ok(vec![Piece::Run { at: range.start, element: *element, bytes, factor: Some(*factor) }])
            }
            Kind::Set { values, element } => {
                let mut pieces = Vec::new();
                values.for_stretches(range, |in_w, from| {
                    let bytes = values.value.bits_at(from, in_w.len());
                    pieces.push(Piece::Run { at: in_w.start, element: *element, bytes, factor: None });
                });
                Ok(pieces)
            }
            Kind::Exceptions { positions, value, element } => {
                let place = |at: &u64| usize::try_from(*at).unwrap_or(usize::MAX);
                let from = positions.partition_point(|at| place(at) < range.start);
                let inside =
                    positions[from..].iter().map(place).zip(from..).take_while(|(at, _)| *at < range.end);
                points(inside, value, *element, None)
            }
            Kind::Put { elements, element } => elements_within(elements, *element, range, None),
            Kind::Scatter { factor, elements, element } => {
                elements_within(elements, *element, range, Some(*factor))
            }
            Kind::Whole { bytes, element } => {
                let size = element.size();
                let bytes = &bytes[range.start * size..range.end * size];
                Ok(vec![Piece::Run { at: range.start, element: *element, bytes, factor: None }])
            }
        }
    }

    /// Changes the elements of `W` from `position` on.
    pub(super) fn apply(&self, position: usize, w: &mut [f64]) -> Result<(), Error> {
        for piece in self.pieces(position..position + w.len())? {
            match piece {
                Piece::Run { at, element, bytes, factor } => {
                    let known = bytes.len() / element.size();
                    let run = &mut w[at - position..][..known];
                    match factor {
                        None => decode(element, bytes, run)?,
                        Some(factor) => add(factor, (bytes, element), run)?,
                    }
                }
                Piece::Points { at, values, factor } => {
                    for (at, value) in at.iter().zip(values) {
                        let w = &mut w[at - position];
                        match factor {
                            None => *w = value,
                            Some(factor) => dense::add_scaled(std::slice::from_mut(w), &[value], factor)?,
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

fn elements_within<'p>(
    elements: &Elements<'_>,
    element: Element,
    range: Range<usize>,
    factor: Option<f64>,
) -> Result<Vec<Piece<'p>>, Error> {
    let mut places = Vec::new();
    elements.for_each_in(range, |at, place| places.push((at, place)));
    points(places.into_iter(), &elements.value, element, factor)
}

fn points<'p>(
    places: impl Iterator<Item = (usize, usize)>,
    value: &Part<'_>,
    element: Element,
    factor: Option<f64>,
) -> Result<Vec<Piece<'p>>, Error> {
    let (mut at, mut values) = (Vec::new(), Vec::new());
    for (position, place) in places {
        let mut number = [0.0];
        decode(element, value.bits_at(place, 1), &mut number)?;
        at.push(position);
        values.extend(number);
    }
    let none = at.is_empty();
    Ok(if none { Vec::new() } else { vec![Piece::Points { at, values, factor }] })
}

/// Elements decoded at once beside a block.
const CHUNK: usize = 1024;

fn add(factor: f64, (bytes, element): (&[u8], Element), w: &mut [f64]) -> Result<(), Error> {
    let mut delta = [0.0; CHUNK];
    for (w, bytes) in w.chunks_mut(CHUNK).zip(bytes.chunks(CHUNK * element.size())) {
        let delta = &mut delta[..w.len()];
        decode(element, bytes, delta)?;
        dense::add_scaled(w, delta, factor)?;
    }
    Ok(())
}
