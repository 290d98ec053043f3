//! Valid files with findings that are no errors.

use serde_json::json;

use super::Coded;
use super::file::File;
use super::parts::{ramp, ramp16, stored, tensor};
use fitment_core::tensor::Dtype;

pub(super) fn files() -> Vec<Coded> {
    let zeros = stored(&tensor(Dtype::F32, &[3, 1], vec![0; 12]));
    let plain = super::edits::plain();
    let with_magnitude = |first| {
        plain
            .clone()
            .set("/edits/0/magnitude", json!({ "axis": 0, "norm_of": "merged" }))
            .set("/edits/0/tensors/magnitude", json!("a.weight::0.lora.magnitude"))
            .store("a.weight::0.lora.magnitude", stored(&ramp(&[3], first)))
            .sealed()
            .bytes()
    };
    let files: Vec<Coded> = vec![
        ("M009", "unknown-field-of-the-manifest", plain.clone().set("/colour", json!("red")).bytes()),
        (
            "M009",
            "unknown-field-of-an-edit",
            plain.clone().set("/edits/0/colour", json!({ "red": 1 })).bytes(),
        ),
        ("M009", "unknown-field-of-about", plain.clone().set("/about", json!({ "author": "x" })).bytes()),
        ("E013", "up-factor-of-zeros", plain.clone().store("a.weight::0.lora.up", zeros).sealed().bytes()),
        ("E014", "factors-of-two-dtypes", mixed(&plain)),
        ("E015", "magnitude-with-a-zero", with_magnitude(0.0)),
        ("E015", "magnitude-below-zero", with_magnitude(-0.25 * 3.0)),
    ];
    files
}

fn mixed(plain: &File) -> Vec<u8> {
    plain.clone().store("a.weight::0.lora.up", stored(&ramp16(&[3, 1], 1.0))).sealed().bytes()
}
