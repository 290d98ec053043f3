use ndarray::{Array2, ArrayView2, s};
use proptest::prelude::*;

use super::factor::Factor;
use super::{LowRank, Pair};
use crate::Error;
use crate::dispatch::Level;
use crate::round::{Element, Encoded, EncodedMut, decode, encode};
use crate::wide::canonical;

const ELEMENTS: [Element; 4] = [Element::Bf16, Element::F16, Element::F32, Element::F64];

/// Numbers from -1 to 1, the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }

    fn matrix(&mut self, rows: usize, columns: usize) -> Array2<f64> {
        Array2::from_shape_simple_fn((rows, columns), || self.next())
    }

    /// A matrix of numbers that f32 holds.
    fn narrow(&mut self, rows: usize, columns: usize) -> Array2<f64> {
        self.matrix(rows, columns).mapv(|value| f64::from(value as f32))
    }
}

struct Factors {
    up: Array2<f64>,
    down: Array2<f64>,
    scale: f64,
}

impl Factors {
    fn random(random: &mut Random, (rows, rank, columns): (usize, usize, usize), narrow: bool) -> Self {
        let mut matrix =
            |rows, columns| if narrow { random.narrow(rows, columns) } else { random.matrix(rows, columns) };
        let (up, down) = (matrix(rows, rank), matrix(rank, columns));
        Factors { up, down, scale: random.next() * 3.0 }
    }

    fn pair(&self) -> Pair<'_> {
        Pair::new(self.up.view(), self.down.view(), self.scale)
    }
}

fn at_level(level: Level, factors: &[Factors]) -> LowRank {
    let pairs: Vec<_> = factors.iter().map(Factors::pair).collect();
    LowRank::at_level(level, &pairs).unwrap()
}

/// The documented arithmetic, word by word.
fn by_definition(w: &Array2<f64>, factors: &[Factors]) -> Array2<f64> {
    Array2::from_shape_fn(w.dim(), |(i, j)| {
        let sums =
            factors.iter().filter(|factors| factors.up.ncols() > 0).map(|Factors { up, down, scale }| {
                let product = |k: usize| up[[i, k]] * down[[k, j]];
                scale * (1..up.ncols()).fold(product(0), |sum, k| sum + product(k))
            });
        let delta = sums.reduce(|total, sum| total + sum);
        delta.map_or(w[[i, j]], |delta| canonical(w[[i, j]] + delta))
    })
}

fn bits(matrix: ArrayView2<'_, f64>) -> Vec<u64> {
    matrix.iter().map(|value| value.to_bits()).collect()
}

fn encoded(element: Element, values: &Array2<f64>) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * element.size()];
    encode(element, values.as_slice().unwrap(), &mut bytes).unwrap();
    bytes
}

fn merged(product: &LowRank, first_row: usize, base: Encoded<'_>, element: Element) -> Vec<u8> {
    let mut out = vec![0; base.bytes.len() / base.element.size() * element.size()];
    product.merge(first_row, base, EncodedMut { element, bytes: &mut out }).unwrap();
    out
}

/// Around the widths of every level's tile and of a strip.
fn width() -> impl Strategy<Value = usize> {
    prop_oneof![0..20_usize, 28..36_usize, 60..68_usize, 120..132_usize, 250..262_usize, 510..520_usize]
}

fn shape() -> impl Strategy<Value = (usize, usize, usize)> {
    (0..11_usize, 0..36_usize, width())
}

/// One pass over stored numbers against decode, definition and encode, at every level.
fn check_merge(shape: (usize, usize, usize), seed: u64, narrow: bool) {
    let (rows, rank, columns) = shape;
    let mut random = Random(seed);
    let factors =
        [rank, rank / 2].map(|rank| Factors::random(&mut random, (rows + 2, rank, columns), narrow));
    let weights = random.matrix(rows + 2, columns);
    for from in ELEMENTS {
        let base = encoded(from, &weights);
        let mut wide = Array2::zeros(weights.dim());
        decode(from, &base, wide.as_slice_mut().unwrap()).unwrap();
        let expected = by_definition(&wide, &factors).slice_move(s![2.., ..]);
        let bytes = &base[2 * columns * from.size()..];
        for level in Level::available() {
            let product = at_level(level, &factors);
            assert_eq!(product.fast.is_some(), narrow && rank > 0);
            for to in ELEMENTS {
                let found = merged(&product, 2, Encoded { element: from, bytes }, to);
                assert!(found == encoded(to, &expected), "{from:?} to {to:?} at {level:?}, {shape:?}");
            }
        }
    }
}

proptest! {
    #[test]
    fn every_level_has_the_bits_of_the_definition(shape in shape(), parts in 1..4_usize, seed in any::<u64>()) {
        let mut random = Random(seed);
        let factors: Vec<_> = (0..parts).map(|_| Factors::random(&mut random, shape, false)).collect();
        let w = random.matrix(shape.0, shape.2);
        let expected = bits(by_definition(&w, &factors).view());
        for level in Level::available() {
            let mut block = w.clone();
            at_level(level, &factors).add_to(0, block.view_mut()).unwrap();
            prop_assert!(bits(block.view()) == expected, "{level:?}");
        }
    }

    #[test]
    fn one_pass_has_the_bits_of_decode_add_encode(shape in shape(), seed in any::<u64>(), narrow in any::<bool>()) {
        check_merge(shape, seed, narrow);
    }
}

#[test]
fn jobs_of_many_rows_have_the_bits_of_the_definition() {
    for rows in [61, 62, 63, 64, 130] {
        check_merge((rows, 3, 70), 7, true);
        check_merge((rows, 3, 70), 7, false);
    }
}

/// A base such that `W + D` lies within an f32 rounding of the tie between two bf16 numbers.
fn base_near_ties(factors: &[Factors], (rows, columns): (usize, usize), random: &mut Random) -> Array2<f64> {
    let delta = by_definition(&Array2::zeros((rows, columns)), factors);
    delta.mapv(|delta| {
        let spread = 2.0_f64.powi((random.next() * 8.0) as i32);
        let tie = f32::from_bits(((random.next() * spread) as f32).to_bits() & 0xffff_0000 | 0x8000);
        f64::from((f64::from(tie) - delta) as f32)
    })
}

#[test]
fn results_at_ties_round_as_the_f64_ones_do() {
    let (rows, columns) = (24, 300);
    let mut wrong_without_bounds = 0;
    for (seed, ranks) in [&[1][..], &[16], &[40], &[7, 20]].into_iter().enumerate() {
        let mut random = Random(seed as u64);
        let factors: Vec<_> =
            ranks.iter().map(|&rank| Factors::random(&mut random, (rows, rank, columns), true)).collect();
        let near = base_near_ties(&factors, (rows, columns), &mut random);
        // All of them have whole strips computed again; one in twenty, single results.
        let sparse = Array2::from_shape_fn((rows, columns), |(i, j)| {
            if j % 20 == i % 20 { near[[i, j]] } else { f64::from((random.next() * 1e4) as f32) }
        });
        for base in [&near, &sparse] {
            let expected = encoded(Element::Bf16, &by_definition(base, &factors));
            let bytes = encoded(Element::F32, base);
            for level in Level::available() {
                let base = Encoded { element: Element::F32, bytes: &bytes };
                assert!(
                    merged(&at_level(level, &factors), 0, base, Element::Bf16) == expected,
                    "ranks {ranks:?} at {level:?}"
                );
            }
        }
        let mut blind = at_level(Level::detect(), &factors);
        blind.fast.as_mut().unwrap().row_bounds.fill(0.0);
        let bytes = encoded(Element::F32, &sparse);
        let found = merged(&blind, 0, Encoded { element: Element::F32, bytes: &bytes }, Element::Bf16);
        let expected = encoded(Element::Bf16, &by_definition(&sparse, &factors));
        wrong_without_bounds += found.iter().zip(&expected).filter(|(a, b)| a != b).count();
    }
    assert!(wrong_without_bounds > 50, "only {wrong_without_bounds} results need the bounds");
}

#[test]
fn results_beyond_the_range_of_f32_are_those_of_f64() {
    // Sums that overflow and cancel, products that underflow, infinities and NaN.
    let numbers = [3e38_f32, -3e38, 1e-38, -1e-45, 1.0, 0.0, -0.0, f32::INFINITY, f32::NAN];
    let n = numbers.len();
    let wide = |at: usize| f64::from(numbers[at % n]);
    for scale in [1.0, -0.37, 0.0, 1e-20, 1e20, 1e-300] {
        let up = Array2::from_shape_fn((n * n, 2), |(i, k)| wide(if k == 0 { i } else { i / n }));
        let down = Array2::from_shape_fn((2, n * n), |(k, j)| wide(if k == 0 { j } else { j / n }));
        let factors = [Factors { up, down, scale }];
        for w in numbers {
            let base = Array2::from_elem((n * n, n * n), f64::from(w));
            let expected = encoded(Element::Bf16, &by_definition(&base, &factors));
            let bytes = encoded(Element::F32, &base);
            for level in Level::available() {
                let base = Encoded { element: Element::F32, bytes: &bytes };
                let found = merged(&at_level(level, &factors), 0, base, Element::Bf16);
                assert!(found == expected, "W {w}, scale {scale} at {level:?}");
            }
        }
    }
}

#[test]
fn nothing_is_fused() {
    // (1 + 2^-27)² is 1 + 2^-26 + 2^-54; rounded by itself, it loses the last term, and cancels.
    let (a, b) = (1.0 + 2.0_f64.powi(-27), -(1.0 + 2.0_f64.powi(-26)));
    for columns in [1, 16, 64, 300] {
        let up = Array2::from_shape_vec((1, 2), vec![1.0, a]).unwrap();
        let down = Array2::from_shape_fn((2, columns), |(k, _)| if k == 0 { b } else { a });
        let factors = [Factors { up, down, scale: 1.0 }];
        for level in Level::available() {
            let mut block = Array2::zeros((1, columns));
            at_level(level, &factors).add_to(0, block.view_mut()).unwrap();
            assert!(block.iter().all(|&value| value == 0.0), "{level:?}");
        }
    }
}

#[test]
fn a_nan_of_arithmetic_is_the_same_everywhere() {
    for level in Level::available() {
        for (w, up) in [(f64::INFINITY, f64::NEG_INFINITY), (-f64::NAN, 1.0), (1.0, -f64::NAN)] {
            let factors = [Factors {
                up: Array2::from_elem((1, 1), up),
                down: Array2::from_elem((1, 70), 1.0),
                scale: 1.0,
            }];
            let product = at_level(level, &factors);
            let mut block = Array2::from_elem((1, 70), w);
            product.add_to(0, block.view_mut()).unwrap();
            assert!(
                block.iter().all(|value| value.to_bits() == 0x7ff8_0000_0000_0000),
                "{w} + {up} at {level:?}"
            );
            let bytes = [(w as f32).to_le_bytes(); 70].concat();
            let found = merged(&product, 0, Encoded { element: Element::F32, bytes: &bytes }, Element::Bf16);
            assert_eq!(found, [0xc0_u8, 0x7f].repeat(70));
        }
    }
}

#[test]
fn a_packed_form_that_no_memory_holds_is_refused() {
    // A view of one number, repeated: its rows take no room, their panels would.
    let one = [1.0_f32];
    let down = ArrayView2::from_shape((1, 1), &one).unwrap();
    let down = Factor::F32(down.broadcast((1 << 56, 1)).unwrap());
    let refused = Error::TooLarge { rank: 1 << 56, width: 1 };
    assert_eq!(down.panels(64).unwrap_err(), refused);
    assert_eq!(down.rows().unwrap_err(), refused);
}

#[test]
fn gaps_between_rows_are_left_alone() {
    let mut random = Random(3);
    let factors = [Factors::random(&mut random, (5, 2, 40), false)];
    let mut wide = random.matrix(5, 50);
    let before = wide.clone();
    let expected = by_definition(&wide.slice(s![.., 4..44]).to_owned(), &factors);
    at_level(Level::detect(), &factors).add_to(0, wide.slice_mut(s![.., 4..44])).unwrap();
    assert_eq!(wide.slice(s![.., 4..44]), expected);
    assert_eq!(wide.slice(s![.., ..4]), before.slice(s![.., ..4]));
    assert_eq!(wide.slice(s![.., 44..]), before.slice(s![.., 44..]));
}
