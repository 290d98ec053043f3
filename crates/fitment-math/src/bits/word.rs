//! Elements as integers, and their differences.

/// An unsigned integer of an element's width, in which differences are taken.
pub(super) trait Unsigned: Copy + PartialEq + Default {
    /// Bytes.
    const WIDTH: usize;

    fn load(bytes: &[u8]) -> Self;
    fn store(self, bytes: &mut [u8]);
    fn byte(self, number: usize) -> u8;
    fn with_byte(self, number: usize, byte: u8) -> Self;
    /// Zigzag of the wrapping difference of the ordered integers.
    fn float_change(base: Self, new: Self) -> Self;
    fn float_apply(base: Self, change: Self) -> Self;
    fn xor(self, other: Self) -> Self;
    fn is_zero(self) -> bool;
}

macro_rules! unsigned {
    ($($unsigned:ty, $signed:ty;)*) => {
        $(impl Unsigned for $unsigned {
            const WIDTH: usize = size_of::<$unsigned>();

            #[inline(always)]
            fn load(bytes: &[u8]) -> Self {
                <$unsigned>::from_le_bytes(bytes.try_into().expect("a slice of the width"))
            }

            #[inline(always)]
            fn store(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }

            #[inline(always)]
            fn byte(self, number: usize) -> u8 {
                (self >> (8 * number)) as u8
            }

            #[inline(always)]
            fn with_byte(self, number: usize, byte: u8) -> Self {
                self | (<$unsigned>::from(byte) << (8 * number))
            }

            #[inline(always)]
            fn float_change(base: Self, new: Self) -> Self {
                let difference = ordered(new as $signed).wrapping_sub(ordered(base as $signed));
                return ((difference << 1) ^ (difference >> (<$signed>::BITS - 1))) as $unsigned;

                /// Negative numbers have all bits flipped, others the sign bit: order is kept, and −0 lies next to +0.
                #[inline(always)]
                fn ordered(bits: $signed) -> $signed {
                    bits ^ ((bits >> (<$signed>::BITS - 1)) | <$signed>::MIN)
                }
            }

            #[inline(always)]
            fn float_apply(base: Self, change: Self) -> Self {
                let base = base as $signed;
                let ordered = base ^ ((base >> (<$signed>::BITS - 1)) | <$signed>::MIN);
                let difference = (change >> 1) as $signed ^ -((change & 1) as $signed);
                let new = ordered.wrapping_add(difference);
                // The map's inverse: its sign bit is set where that of the float is not.
                (new ^ (!(new >> (<$signed>::BITS - 1)) | <$signed>::MIN)) as $unsigned
            }

            #[inline(always)]
            fn xor(self, other: Self) -> Self {
                self ^ other
            }

            #[inline(always)]
            fn is_zero(self) -> bool {
                self == 0
            }
        })*
    };
}

unsigned! {
    u8, i8;
    u16, i16;
    u32, i32;
    u64, i64;
}

/// How elements differ.
pub(super) trait Change {
    type Word: Unsigned;

    /// 0 exactly where both are the same bits.
    fn between(base: Self::Word, new: Self::Word) -> Self::Word;
    fn apply(base: Self::Word, change: Self::Word) -> Self::Word;
}

/// Floats: neighbours differ by 1, whatever their sign.
pub(super) struct Ordered<U>(std::marker::PhantomData<U>);

/// Everything else.
pub(super) struct Bits<U>(std::marker::PhantomData<U>);

impl<U: Unsigned> Change for Ordered<U> {
    type Word = U;

    #[inline(always)]
    fn between(base: U, new: U) -> U {
        U::float_change(base, new)
    }

    #[inline(always)]
    fn apply(base: U, change: U) -> U {
        U::float_apply(base, change)
    }
}

impl<U: Unsigned> Change for Bits<U> {
    type Word = U;

    #[inline(always)]
    fn between(base: U, new: U) -> U {
        base.xor(new)
    }

    #[inline(always)]
    fn apply(base: U, change: U) -> U {
        base.xor(change)
    }
}

/// Calls a function with the change of a word.
macro_rules! with_change {
    ($word:expr, $function:ident ( $($argument:expr),* )) => {{
        use $crate::bits::word::{Bits, Ordered};
        use fitment_core::payload::Word;
        match $word {
            Word::Float(1) => $function::<Ordered<u8>>($($argument),*),
            Word::Float(2) => $function::<Ordered<u16>>($($argument),*),
            Word::Float(4) => $function::<Ordered<u32>>($($argument),*),
            Word::Float(_) => $function::<Ordered<u64>>($($argument),*),
            Word::Plain(1) => $function::<Bits<u8>>($($argument),*),
            Word::Plain(2) => $function::<Bits<u16>>($($argument),*),
            Word::Plain(4) => $function::<Bits<u32>>($($argument),*),
            Word::Plain(_) => $function::<Bits<u64>>($($argument),*),
        }
    }};
}
pub(super) use with_change;
