use crate::error::Error;
use crate::limits::MAX_NAME_BYTES;
use std::fmt;

/// What is wrong with a name, if anything: the rule of spec section 3.4.
pub fn name_fault(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("a name is not empty".to_owned());
    }
    if name.len() > MAX_NAME_BYTES {
        return Some(format!("{} bytes, at most {MAX_NAME_BYTES} are allowed", name.len()));
    }
    if let Some(control) = name.chars().find(|c| c.is_control()) {
        return Some(format!("holds the control character {:?}", control));
    }
    name.contains("::").then(|| "holds `::`, which separates the parts of stored names".to_owned())
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident $what:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Checks the name.
            ///
            /// # Errors
            /// [`Error::Invalid`] when it is empty, over 512 bytes, or holds a control character or `::`.
            pub fn new(name: impl Into<String>) -> Result<Self, Error> {
                let name = name.into();
                match name_fault(&name) {
                    None => Ok(Self(name)),
                    Some(message) => Err(Error::Invalid { place: format!(concat!($what, " {:?}"), name), message }),
                }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

names! {
    /// A tensor's name as the base checkpoint on disk has it, such as `model.layers.0.self_attn.q_proj.weight`.
    TensorName "tensor name";
    /// A part of a pipeline: `unet`, `text_encoder`.
    ComponentName "component name";
}
