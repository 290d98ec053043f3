//! Devices by their names.

use crate::error::{Error, first_line};
use candle_core::{DType, Tensor};
use fitment_core::tensor::Dtype;
use fitment_math::round::Element;
use std::fmt;

/// The name of a device, as a user writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// The processor, through candle: `cpu-candle`.
    Cpu,
    /// A CUDA device: `cuda`, `cuda:1`.
    Cuda(usize),
    /// A Metal device: `metal`, `metal:1`.
    Metal(usize),
}

impl std::str::FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let unknown = || Error::UnknownDevice(text.to_owned());
        let (kind, number) = match text.split_once(':') {
            Some((kind, digits)) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                (kind, digits.parse().map_err(|_| unknown())?)
            }
            Some(_) => return Err(unknown()),
            None => (text, 0),
        };
        match kind {
            "cpu-candle" if kind == text => Ok(Name::Cpu),
            "cuda" => Ok(Name::Cuda(number)),
            "metal" => Ok(Name::Metal(number)),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Cpu => f.write_str("cpu-candle"),
            Name::Cuda(number) => write!(f, "cuda:{number}"),
            Name::Metal(number) => write!(f, "metal:{number}"),
        }
    }
}

impl Name {
    /// Opens the device.
    ///
    /// # Errors
    /// [`Error::NotBuilt`], [`Error::Absent`].
    pub fn open(self) -> Result<candle_core::Device, Error> {
        let (built, feature, opened) = match self {
            Name::Cpu => return Ok(candle_core::Device::Cpu),
            Name::Cuda(number) => (cfg!(feature = "cuda"), "cuda", candle_core::Device::new_cuda(number)),
            Name::Metal(number) => (cfg!(feature = "metal"), "metal", candle_core::Device::new_metal(number)),
        };
        let name = self.to_string();
        match opened {
            _ if !built => Err(Error::NotBuilt { name, feature }),
            Ok(device) => Ok(device),
            Err(error) => Err(Error::Absent { name, reason: first_line(&error) }),
        }
    }
}

/// Whether a device turns this dtype into numbers and back.
pub fn can_compute(device: &candle_core::Device, dtype: Dtype) -> bool {
    let Some(element) = Element::of(dtype) else { return false };
    let (stored, wide) = (stored_as(element), computed_in(element));
    let there_and_back = || {
        let number = Tensor::ones(1, stored, device)?.to_dtype(wide)?;
        (&number + &number)?.to_dtype(stored)?.to_device(&candle_core::Device::Cpu)
    };
    there_and_back().is_ok()
}

/// The dtype of stored numbers.
pub(crate) fn stored_as(element: Element) -> DType {
    match element {
        Element::F64 => DType::F64,
        Element::F32 => DType::F32,
        Element::F16 => DType::F16,
        Element::Bf16 => DType::BF16,
    }
}

/// The dtype in which they are computed.
pub(crate) fn computed_in(element: Element) -> DType {
    match element {
        Element::F64 => DType::F64,
        Element::F32 | Element::F16 | Element::Bf16 => DType::F32,
    }
}
