use std::fmt;

macro_rules! dtypes {
    ($($variant:ident $name:literal $bits:literal $doc:literal,)*) => {
        /// Element types of the safetensors container (0.8), with the same names.
        ///
        /// Exhaustive on purpose: a new dtype makes the compiler list every place that must decide.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(non_camel_case_types, reason = "the container's own spelling")]
        pub enum Dtype { $(#[doc = $doc] $variant,)* }

        impl Dtype {
            /// Every dtype.
            pub const ALL: &'static [Dtype] = &[$(Dtype::$variant,)*];

            /// The name in a container header.
            pub fn name(self) -> &'static str {
                match self { $(Dtype::$variant => $name,)* }
            }

            /// Bits of one element.
            pub fn bits(self) -> u32 {
                match self { $(Dtype::$variant => $bits,)* }
            }

            /// The dtype that a header names, if there is one.
            pub fn from_name(name: &str) -> Option<Dtype> {
                match name { $($name => Some(Dtype::$variant),)* _ => None }
            }
        }
    };
}

dtypes! {
    F64 "F64" 64 "IEEE binary64.",
    I64 "I64" 64 "Signed, 64 bits.",
    U64 "U64" 64 "Unsigned, 64 bits.",
    C64 "C64" 64 "Two binary32: real, imaginary.",
    F32 "F32" 32 "IEEE binary32.",
    I32 "I32" 32 "Signed, 32 bits.",
    U32 "U32" 32 "Unsigned, 32 bits.",
    F16 "F16" 16 "IEEE binary16.",
    BF16 "BF16" 16 "The upper half of a binary32.",
    I16 "I16" 16 "Signed, 16 bits.",
    U16 "U16" 16 "Unsigned, 16 bits.",
    F8_E4M3 "F8_E4M3" 8 "OCP 8-bit float, 4 exponent bits.",
    F8_E5M2 "F8_E5M2" 8 "OCP 8-bit float, 5 exponent bits.",
    F8_E8M0 "F8_E8M0" 8 "OCP block scale: exponent only.",
    F8_E4M3FNUZ "F8_E4M3FNUZ" 8 "AMD's variant without infinities and negative zero.",
    F8_E5M2FNUZ "F8_E5M2FNUZ" 8 "AMD's variant without infinities and negative zero.",
    I8 "I8" 8 "Signed, 8 bits.",
    U8 "U8" 8 "Unsigned, 8 bits.",
    Bool "BOOL" 8 "One byte, 0 or 1.",
    F6_E2M3 "F6_E2M3" 6 "OCP 6-bit float, 2 exponent bits.",
    F6_E3M2 "F6_E3M2" 6 "OCP 6-bit float, 3 exponent bits.",
    F4 "F4" 4 "OCP 4-bit float, two to a byte.",
}

impl Dtype {
    /// Bytes of one element; `None` for the packed types under 8 bits.
    pub fn bytes(self) -> Option<usize> {
        let bits = self.bits() as usize;
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// Whether values of this type can be read as weights and computed with: F64, F32, F16, BF16.
    pub fn is_weight(self) -> bool {
        matches!(self, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
