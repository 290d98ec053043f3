use crate::round::{Element, bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use half::{bf16, f16};

/// A type in which a model keeps its hidden states.
pub trait State: Copy + Send + Sync + 'static {
    /// Its format.
    const ELEMENT: Element;

    /// The number, exactly.
    fn widen(self) -> f32;

    /// The nearest one, ties to even.
    fn narrow(value: f32) -> Self;
}

impl State for f32 {
    const ELEMENT: Element = Element::F32;

    fn widen(self) -> f32 {
        self
    }

    fn narrow(value: f32) -> Self {
        value
    }
}

impl State for bf16 {
    const ELEMENT: Element = Element::Bf16;

    fn widen(self) -> f32 {
        bf16_to_f32(self.to_bits())
    }

    fn narrow(value: f32) -> Self {
        bf16::from_bits(f32_to_bf16(value))
    }
}

impl State for f16 {
    const ELEMENT: Element = Element::F16;

    fn widen(self) -> f32 {
        f16_to_f32(self.to_bits())
    }

    fn narrow(value: f32) -> Self {
        f16::from_bits(f32_to_f16(value))
    }
}

/// The nearest number of that format. Numbers of F32 and F64 are those of f32 here.
pub(super) fn round_to(element: Element, value: f32) -> f32 {
    match element {
        Element::Bf16 => bf16_to_f32(f32_to_bf16(value)),
        Element::F16 => f16_to_f32(f32_to_f16(value)),
        Element::F32 | Element::F64 => value,
    }
}
