//! Activation functions (spec section 5.6), in f64 by `libm`: the platform's own `exp` differs between machines.

use fitment_core::model::Activation;
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI};

/// `act(x)`, computed in f64 and rounded once to f32.
pub fn activate(activation: Activation, x: f32) -> f32 {
    let wide = f64::from(x);
    let value = match activation {
        Activation::Relu => return positive(x),
        Activation::SquaredRelu => f64::from(positive(x)) * f64::from(positive(x)),
        Activation::Relu6 => return if x > 6.0 { 6.0 } else { positive(x) },
        Activation::LeakyRelu => return if x > 0.0 { x } else { (0.01 * wide) as f32 },
        Activation::Gelu => wide / 2.0 * (1.0 + libm::erf(wide * FRAC_1_SQRT_2)),
        Activation::GeluTanh => {
            let inner = FRAC_2_PI.sqrt() * (wide + 0.044715 * wide * wide * wide);
            wide / 2.0 * (1.0 + libm::tanh(inner))
        }
        Activation::QuickGelu => wide * sigmoid(1.702 * wide),
        Activation::Silu => wide * sigmoid(wide),
        Activation::Tanh => libm::tanh(wide),
        Activation::Sigmoid => sigmoid(wide),
        Activation::Mish => wide * libm::tanh(softplus(wide)),
    };
    value as f32
}

/// `max(x, 0)`; NaN stays NaN, as in torch.
fn positive(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-x))
}

/// `ln(1 + eˣ)`, which is `x` where `eˣ` would overflow.
fn softplus(x: f64) -> f64 {
    if x > 40.0 { x } else { libm::log1p(libm::exp(x)) }
}
