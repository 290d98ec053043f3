//! Alpha of LoRA factors, where their files do not say it and the user does.

use crate::error::{Error, one_line};
use crate::formats::Ask;

/// What the user says of LoRA.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Alpha {
    pub(crate) value: f64,
    /// The scale is alpha/√r.
    pub(crate) rslora: bool,
}

impl Alpha {
    /// `32`, or `rs:32` for a rank-stabilised one.
    ///
    /// # Errors
    /// [`Error::Option`] for anything else.
    pub(crate) fn of(text: &str) -> Result<Self, Error> {
        let (number, rslora) = text.strip_prefix("rs:").map_or((text, false), |rest| (rest, true));
        let value = number.parse().ok().filter(|value: &f64| value.is_finite());
        value.map(|value| Self { value, rslora }).ok_or_else(|| Error::Option {
            option: format!("{} {}", Ask::Alpha.option(), one_line(text)),
            reason: "is no alpha".to_owned(),
            hint: HOW.to_owned(),
        })
    }

    /// The same, for a tool that knows no rank-stabilised LoRA.
    ///
    /// # Errors
    /// [`Error::Option`] for anything but a number.
    pub(crate) fn plain(text: &str, tool: &str) -> Result<f64, Error> {
        let alpha = Self::of(text)?;
        if alpha.rslora {
            return Err(Error::Option {
                option: format!("{} {}", Ask::Alpha.option(), one_line(text)),
                reason: format!("is not for {tool}, which has no rank-stabilised LoRA"),
                hint: "say the number alone".to_owned(),
            });
        }
        Ok(alpha.value)
    }
}

/// How it is said.
pub(crate) const HOW: &str =
    "say it as in training: --alpha 32 (the scale is alpha/r), --alpha rs:32 (rank-stabilised: alpha/√r)";
