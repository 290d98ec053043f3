//! Errors as JavaScript has them: an `Error` with the message, and with a `hint` where there is one.

use js_sys::Reflect;
use wasm_bindgen::JsValue;

/// What a call gives that cannot go on.
pub(crate) type Result<T> = std::result::Result<T, JsValue>;

/// An error with or without a hint.
pub(crate) fn error(message: &str, hint: Option<&str>) -> JsValue {
    let error = js_sys::Error::new(message);
    if let Some(hint) = hint {
        // A plain object of ours takes any property.
        let _ = Reflect::set(&error, &"hint".into(), &hint.into());
    }
    error.into()
}

/// The error of a reader or writer.
pub(crate) fn of_convert(failed: &fitment_convert::Error) -> JsValue {
    error(&failed.to_string(), failed.hint().as_deref())
}
