//! The one place that chooses an instruction set, and the crate's only `unsafe`.
//!
//! A kernel is plain Rust, compiled once per level. Levels differ in the width of registers and the shape of tiles,
//! never in the operations on one number: none of them enables FMA, and Rust does not contract `a * b + c` by itself.

use crate::Wide;
use crate::lowrank::tile;

/// A computation to compile once per level. `run` and whatever it calls must be `#[inline(always)]`, or it is
/// compiled for the baseline instruction set.
pub(crate) trait Kernel {
    type Output;

    /// The level's tiles: `R32` rows of `C` f32, `R64` rows of `C` f64, as many as its registers hold.
    fn run<I: Isa, const R32: usize, const R64: usize, const C: usize>(self, isa: I) -> Self::Output;
}

/// An instruction set that this machine has: who holds a value of it has asked.
pub(crate) trait Isa: Copy {
    /// [`tile::product`], compiled for this set, as a function of its own: inlined into a larger one, the optimiser
    /// loses its sums from the registers (measured: three to eight times slower).
    fn product<T: Wide, const R: usize, const C: usize>(
        self,
        left: &[[T; R]],
        right: &[[T; C]],
        sum: [&mut [T; C]; R],
    );
}

/// A level of this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Level {
    #[cfg(test)]
    /// One number at a time: the definition of the arithmetic, against which tests hold the others.
    Scalar,
    /// What the target has without asking: SSE2, NEON, WebAssembly.
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(x86::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(x86::Avx512),
}

impl Level {
    /// The widest level of this machine. The standard library caches the answer.
    pub(crate) fn detect() -> Level {
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(isa) = x86::Avx512::detect() {
                return Level::Avx512(isa);
            }
            if let Some(isa) = x86::Avx2::detect() {
                return Level::Avx2(isa);
            }
        }
        Level::Portable
    }

    #[cfg(test)]
    /// Every level of this machine.
    pub(crate) fn available() -> Vec<Level> {
        let mut levels = vec![Level::Scalar, Level::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            levels.extend(x86::Avx2::detect().map(Level::Avx2));
            levels.extend(x86::Avx512::detect().map(Level::Avx512));
        }
        levels
    }

    /// The columns of a tile.
    pub(crate) fn panel_width(self) -> usize {
        self.run(PanelWidth)
    }

    /// Runs a kernel at this level.
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            #[cfg(test)]
            Level::Scalar => kernel.run::<_, 1, 1, 1>(Portable),
            Level::Portable => kernel.run::<_, 4, 2, 8>(Portable),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(isa) => isa.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(isa) => isa.run(kernel),
        }
    }
}

struct PanelWidth;

impl Kernel for PanelWidth {
    type Output = usize;

    #[inline(always)]
    fn run<I: Isa, const R32: usize, const R64: usize, const C: usize>(self, _: I) -> usize {
        C
    }
}

#[derive(Clone, Copy)]
struct Portable;

impl Isa for Portable {
    #[inline(never)]
    fn product<T: Wide, const R: usize, const C: usize>(
        self,
        left: &[[T; R]],
        right: &[[T; C]],
        sum: [&mut [T; C]; R],
    ) {
        tile::product(left, right, sum);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    #![expect(
        unsafe_code,
        reason = "a #[target_feature] function may be called only where the CPU has the features"
    )]

    use std::arch::is_x86_feature_detected as has;

    use super::{Isa, Kernel};
    use crate::Wide;
    use crate::lowrank::tile;

    macro_rules! level {
        ($name:ident, $doc:literal, [$($feature:tt)+], $features:literal, $r32:literal, $r64:literal, $c:literal) => {
            #[doc = $doc]
            #[derive(Clone, Copy, Debug)]
            pub(crate) struct $name(());

            impl $name {
                pub(super) fn detect() -> Option<Self> {
                    (true $(&& has!($feature))+).then_some(Self(()))
                }

                pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
                    #[target_feature(enable = $features)]
                    fn run<K: Kernel>(isa: $name, kernel: K) -> K::Output {
                        kernel.run::<_, $r32, $r64, $c>(isa)
                    }
                    // SAFETY: the CPU has the features: only `detect` makes a value of this type, after asking for each.
                    unsafe { run(self, kernel) }
                }
            }

            impl Isa for $name {
                #[inline(never)]
                fn product<T: Wide, const R: usize, const C: usize>(
                    self,
                    left: &[[T; R]],
                    right: &[[T; C]],
                    sum: [&mut [T; C]; R],
                ) {
                    #[target_feature(enable = $features)]
                    fn product<T: Wide, const R: usize, const C: usize>(
                        left: &[[T; R]],
                        right: &[[T; C]],
                        sum: [&mut [T; C]; R],
                    ) {
                        tile::product(left, right, sum);
                    }
                    // SAFETY: the CPU has the features: only `detect` makes a value of this type, after asking for each.
                    unsafe { product(left, right, sum) }
                }
            }
        };
    }

    level!(Avx2, "AVX2.", ["avx2"], "avx2", 4, 2, 16);
    level!(
        Avx512,
        "AVX-512 as in every server CPU that has any.",
        ["avx512f"  "avx512bw" "avx512dq" "avx512vl"],
        "avx512f,avx512bw,avx512dq,avx512vl",
        4,
        2,
        64
    );
}
