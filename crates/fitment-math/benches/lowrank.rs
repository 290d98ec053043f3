//! Merging `s · up · down` into a 4096 x 4096 base at the widest level of this machine, by one thread unless the
//! feature `parallel` is on. Rotates over matrices of 256 MiB together, so that nothing stays in a cache.
//!
//! `cargo bench -p fitment-math` prints the best and the median of each case, and of a plain copy beside it.
#![expect(clippy::print_stdout, reason = "a benchmark prints its result")]

use std::time::Instant;

use fitment_math::lowrank::{LowRank, Pair};
use fitment_math::ndarray::Array2;
use fitment_math::round::{Element, Encoded, EncodedMut, encode};

const SIDE: usize = 4096;

/// Root mean square of `s · up · down`, as a share of the weights': an adapter of the usual size, and a violent one, of
/// which the fast path must compute more again.
const SHARES: [f64; 2] = [0.05, 1.0];

fn main() {
    for share in SHARES {
        for (element, rank) in [
            (Element::Bf16, 16),
            (Element::Bf16, 64),
            (Element::F16, 16),
            (Element::F32, 16),
            (Element::F64, 16),
        ] {
            measure(element, rank, share);
        }
    }
}

fn measure(element: Element, rank: usize, share: f64) {
    let mut random = Random(1);
    // Uniform numbers up to 1 have the variance 1/3.
    let spread = (share * (3.0 / rank as f64).sqrt()) as f32;
    let up = Array2::from_shape_simple_fn((SIDE, rank), || random.next() as f32 * spread);
    let down = Array2::from_shape_simple_fn((rank, SIDE), || random.next() as f32);
    let product = LowRank::new(&[Pair::new(up.view(), down.view(), 1.0)]).expect("the ranks agree");

    let weights: Vec<f64> = (0..SIDE * SIDE).map(|_| random.next()).collect();
    let mut base = vec![0; SIDE * SIDE * element.size()];
    encode(element, &weights, &mut base).expect("the lengths agree");
    let matrices = (256 << 20) / base.len();
    let bases = vec![base; matrices];
    let mut outs = bases.clone();

    let copies = times(&bases, &mut outs, |base, out| out.copy_from_slice(base));
    let merges = times(&bases, &mut outs, |base, out| {
        let (base, out) = (Encoded { element, bytes: base }, EncodedMut { element, bytes: out });
        product.merge(0, base, out).expect("the lengths agree");
    });
    let name = format!("{element:?} r={rank} delta {share}");
    println!(
        "{name:<22} merge best {:5.1} median {:5.1} ms, copy best {:4.1} ms",
        merges.0, merges.1, copies.0
    );
}

fn times(bases: &[Vec<u8>], outs: &mut [Vec<u8>], work: impl Fn(&[u8], &mut [u8])) -> (f64, f64) {
    let mut times = Vec::new();
    while times.len() < 48 {
        for (base, out) in bases.iter().zip(&mut *outs) {
            let start = Instant::now();
            work(base, out);
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    times.sort_by(f64::total_cmp);
    (times[0], times[times.len() / 2])
}

/// A linear congruential generator: numbers from -1 to 1, the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }
}
