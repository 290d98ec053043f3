//! Products through the public interface: exactness against f64, views of any strides, refusals.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use fitment_math::Error;
use fitment_math::lowrank::{LowRank, Pair, accumulate_rows};
use fitment_math::ndarray::{Array2, ArrayView2, Axis, arr2, concatenate, s};
use fitment_math::round::{Element, Encoded, EncodedMut, convert, decode, encode, f64_to_bf16};
use proptest::prelude::*;

/// Numbers that look normally distributed, the same in every run.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }

    fn normal(&mut self) -> f64 {
        (0..6).map(|_| self.uniform()).sum::<f64>() / 2.0_f64.sqrt()
    }

    /// A matrix of numbers that `element` holds.
    fn stored(&mut self, (rows, columns): (usize, usize), spread: f64, element: Element) -> Array2<f64> {
        let wide = Array2::from_shape_simple_fn((rows, columns), || self.normal() * spread);
        decoded(element, &encoded(element, &wide), (rows, columns))
    }
}

fn encoded(element: Element, values: &Array2<f64>) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * element.size()];
    encode(element, values.as_standard_layout().as_slice().unwrap(), &mut bytes).unwrap();
    bytes
}

fn decoded(element: Element, bytes: &[u8], shape: (usize, usize)) -> Array2<f64> {
    let mut values = vec![0.0; shape.0 * shape.1];
    decode(element, bytes, &mut values).unwrap();
    Array2::from_shape_vec(shape, values).unwrap()
}

/// Every stored result against `W + s·up·down`, in f64 by another program's order of additions, rounded once.
fn differing(element: Element, rank: usize, delta: f64) -> usize {
    let (shape, scale) = ((128, 1024), 1.7);
    let mut random = Random(element as u64 + 5);
    let base = random.stored(shape, 0.02, element);
    let up = random.stored((shape.0, rank), delta * 0.02 / (rank as f64).sqrt() / scale, Element::F32);
    let down = random.stored((rank, shape.1), 1.0, Element::F32);
    let (narrow_up, narrow_down) = (up.mapv(|value| value as f32), down.mapv(|value| value as f32));
    let product = LowRank::new(&[Pair::new(narrow_up.view(), narrow_down.view(), scale)]).unwrap();

    let bytes = encoded(element, &base);
    let mut merged = vec![0; bytes.len()];
    let out = EncodedMut { element, bytes: &mut merged };
    product.merge(0, Encoded { element, bytes: &bytes }, out).unwrap();
    let expected = encoded(element, &(&base + up.dot(&down) * scale));
    merged
        .chunks_exact(element.size())
        .zip(expected.chunks_exact(element.size()))
        .filter(|(a, b)| a != b)
        .count()
}

#[test]
fn every_result_is_the_f64_one_rounded_once() {
    for (rank, delta) in [(1, 0.1), (16, 0.1), (64, 1.0), (64, 10.0), (256, 1.0)] {
        for element in [Element::Bf16, Element::F16, Element::F32] {
            assert_eq!(differing(element, rank, delta), 0, "{element:?} at rank {rank}, delta {delta}");
        }
    }
}

#[test]
fn several_products_are_rounded_once() {
    // Each product alone is less than half a unit of bf16 at 1 and would be lost; together they are one.
    let one = arr2(&[[1.0_f32]]);
    let small = Pair::new(one.view(), one.view(), 2.0_f64.powi(-9));
    let mut out = [0; 2];
    let base = Encoded { element: Element::Bf16, bytes: &[0x80, 0x3f] };
    let product = LowRank::new(&[small; 4]).unwrap();
    product.merge(0, base, EncodedMut { element: Element::Bf16, bytes: &mut out }).unwrap();
    assert_eq!(u16::from_le_bytes(out), f64_to_bf16(1.0 + 2.0_f64.powi(-7)));
}

#[test]
fn rank_zero_changes_nothing() {
    let (up, down) = (Array2::<f32>::zeros((2, 0)), Array2::<f64>::zeros((0, 3)));
    let pair = Pair::new(up.view(), down.view(), 1.0);
    let mut w = arr2(&[[1.0, -0.0, 2.0], [3.0, 4.0, f64::INFINITY]]);
    let before = w.clone();
    accumulate_rows(w.view_mut(), pair).unwrap();
    assert_eq!(w, before);
    assert!(w[[0, 1]].is_sign_negative());

    let product = LowRank::new(&[pair]).unwrap();
    assert_eq!((product.rows(), product.columns()), (2, 3));
    let (element, nan) = (Element::F16, [0x01, 0x7c, 0x00, 0x80, 0xff, 0xff]);
    let mut out = [0; 6];
    product.merge(1, Encoded { element, bytes: &nan }, EncodedMut { element, bytes: &mut out }).unwrap();
    assert_eq!(out, nan);
}

#[test]
fn arguments_that_do_not_fit_are_refused_by_name() {
    let matrix = |rows, columns| Array2::<f64>::zeros((rows, columns));
    let (up, down, longer, wider) = (matrix(4, 2), matrix(2, 5), matrix(3, 5), matrix(2, 6));
    fn pair<'a>(up: &'a Array2<f64>, down: &'a Array2<f64>) -> Pair<'a> {
        Pair::new(up.view(), down.view(), 1.0)
    }
    assert_eq!(LowRank::new(&[]).unwrap_err(), Error::NoFactors);
    let refused = Error::Rank { up: 2, other: "down", found: 3 };
    assert_eq!(LowRank::new(&[pair(&up, &down), pair(&up, &longer)]).unwrap_err(), refused);
    assert_eq!(LowRank::transposed(&[pair(&up, &longer)]).unwrap_err(), refused);
    let refused = Error::Shape { what: "another product", expected: [4, 5], found: [4, 6] };
    assert_eq!(LowRank::new(&[pair(&up, &down), pair(&up, &wider)]).unwrap_err(), refused);

    let product = LowRank::new(&[pair(&up, &down)]).unwrap();
    let found = product.add_to(0, matrix(4, 6).view_mut());
    assert_eq!(found, Err(Error::Columns { expected: 5, found: 6 }));
    let found = product.add_to(2, matrix(3, 5).view_mut());
    assert_eq!(found, Err(Error::Rows { first: 2, end: 5, available: 4 }));
    let found = product.add_to(usize::MAX, matrix(3, 5).view_mut());
    assert_eq!(found, Err(Error::Rows { first: usize::MAX, end: usize::MAX, available: 4 }));

    let element = Element::F16;
    let merge = |base: &[u8], out: &mut [u8], first_row| {
        product.merge(first_row, Encoded { element, bytes: base }, EncodedMut { element, bytes: out })
    };
    let what = "bytes of the base in whole rows";
    assert_eq!(merge(&[0; 22], &mut [0; 22], 0), Err(Error::Length { what, expected: 20, found: 22 }));
    let what = "bytes of the output";
    assert_eq!(merge(&[0; 20], &mut [0; 18], 0), Err(Error::Length { what, expected: 20, found: 18 }));
    assert_eq!(merge(&[0; 20], &mut [0; 20], 3), Err(Error::Rows { first: 3, end: 5, available: 4 }));
}

fn matrix(rows: usize, columns: usize) -> impl Strategy<Value = Array2<f32>> {
    prop::collection::vec(-2.0_f32..2.0, rows * columns)
        .prop_map(move |cells| Array2::from_shape_vec((rows, columns), cells).unwrap())
}

/// `W`, `up`, `down`.
fn problem() -> impl Strategy<Value = (Array2<f64>, Array2<f32>, Array2<f32>)> {
    (0..9_usize, 0..4_usize, 0..70_usize).prop_flat_map(|(rows, rank, columns)| {
        let w = matrix(rows, columns).prop_map(|w| w.mapv(f64::from));
        (w, matrix(rows, rank), matrix(rank, columns))
    })
}

fn bits(matrix: ArrayView2<'_, f64>) -> Vec<u64> {
    matrix.iter().map(|value| value.to_bits()).collect()
}

fn merge_bf16(product: &LowRank, first_row: usize, base: &[u8]) -> Vec<u8> {
    let mut out = vec![0; base.len()];
    let element = Element::Bf16;
    product
        .merge(first_row, Encoded { element, bytes: base }, EncodedMut { element, bytes: &mut out })
        .unwrap();
    out
}

proptest! {
    #[test]
    fn a_row_split_changes_no_bit((w, up, down) in problem(), at in any::<prop::sample::Index>(), scale in -3.0..3.0) {
        let product = LowRank::new(&[Pair::new(up.view(), down.view(), scale)]).unwrap();
        let at = at.index(w.nrows() + 1);
        let mut whole = w.clone();
        product.add_to(0, whole.view_mut()).unwrap();
        let mut parts = w.clone();
        let (head, tail) = parts.view_mut().split_at(Axis(0), at);
        product.add_to(at, tail).unwrap();
        product.add_to(0, head).unwrap();
        prop_assert_eq!(bits(whole.view()), bits(parts.view()));

        let base = encoded(Element::Bf16, &w);
        let (head, tail) = base.split_at(at * w.ncols() * 2);
        let parts = [merge_bf16(&product, 0, head), merge_bf16(&product, at, tail)].concat();
        prop_assert_eq!(merge_bf16(&product, 0, &base), parts);
    }

    #[test]
    fn a_transposed_base_gets_the_same_bits((w, up, down) in problem(), scale in -3.0..3.0) {
        let pair = Pair::new(up.view(), down.view(), scale);
        let mut plain = w.clone();
        LowRank::new(&[pair]).unwrap().add_to(0, plain.view_mut()).unwrap();
        let mut turned = w.t().as_standard_layout().into_owned();
        LowRank::transposed(&[pair]).unwrap().add_to(0, turned.view_mut()).unwrap();
        prop_assert_eq!(bits(plain.view()), bits(turned.t()));
    }

    #[test]
    fn strides_and_the_type_of_the_factors_change_no_bit((w, up, down) in problem(), scale in -3.0..3.0) {
        let mut plain = w.clone();
        accumulate_rows(plain.view_mut(), Pair::new(up.view(), down.view(), scale)).unwrap();
        // The same numbers, each in its own place: columns first, every second one, backwards.
        let up_turned = up.t().as_standard_layout().into_owned();
        let mut down_wide = Array2::zeros((down.nrows(), down.ncols() * 2));
        down_wide.slice_mut(s![.., ..;2]).assign(&down.mapv(f64::from));
        let mut w_back = w.slice(s![..;-1, ..;-1]).to_owned();
        let block = w_back.slice_mut(s![..;-1, ..;-1]);
        accumulate_rows(block, Pair::new(up_turned.t(), down_wide.slice(s![.., ..;2]), scale)).unwrap();
        prop_assert_eq!(bits(plain.view()), bits(w_back.slice(s![..;-1, ..;-1])));
    }

    #[test]
    fn where_sums_are_exact_a_concatenation_equals_its_parts(
        (w, up, down) in problem(),
        power in -3..4_i32,
        element in prop::sample::select(&[Element::Bf16, Element::F16, Element::F32, Element::F64][..]),
    ) {
        // Short factors: no f64 operation rounds, so that the one rounding at the end is all there is.
        let short = |x: &f32| (x * 256.0).round() / 256.0;
        let (w, up, down) = (w.mapv(|x| (x * 256.0).round() / 256.0 + 0.0), up.map(short), down.map(short));
        let scale = 2.0_f64.powi(power);
        let base = encoded(element, &w);
        let exact = decoded(element, &base, w.dim()) + up.mapv(f64::from).dot(&down.mapv(f64::from)) * scale;

        let at = up.ncols() / 2;
        let (up_0, up_1) = up.view().split_at(Axis(1), at);
        let (down_0, down_1) = down.view().split_at(Axis(0), at);
        let parts = [Pair::new(up_0, down_0, scale), Pair::new(up_1, down_1, scale)];
        let whole_up = concatenate![Axis(1), up_0, up_1];
        for pairs in [&parts[..], &[Pair::new(whole_up.view(), down.view(), scale)]] {
            let mut out = vec![0; base.len()];
            let product = LowRank::new(pairs).unwrap();
            product.merge(0, Encoded { element, bytes: &base }, EncodedMut { element, bytes: &mut out }).unwrap();
            prop_assert_eq!(&out, &encoded(element, &exact));
        }
    }

    #[test]
    fn converting_equals_decode_and_encode(values in prop::collection::vec(any::<f64>(), 0..2100)) {
        for from in [Element::F32, Element::F64, Element::Bf16] {
            let mut bytes = vec![0; values.len() * from.size()];
            encode(from, &values, &mut bytes).unwrap();
            for to in [Element::Bf16, Element::F16, Element::F32] {
                let mut wide = vec![0.0; values.len()];
                decode(from, &bytes, &mut wide).unwrap();
                let mut expected = vec![0; values.len() * to.size()];
                encode(to, &wide, &mut expected).unwrap();
                let mut found = vec![0; expected.len()];
                convert(Encoded { element: from, bytes: &bytes }, EncodedMut { element: to, bytes: &mut found }).unwrap();
                prop_assert!(found == expected);
            }
        }
    }
}
