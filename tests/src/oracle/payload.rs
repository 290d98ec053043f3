use fitment_core::payload::{self, Word};
use fitment_core::tensor::Dtype;
use fitment_math::bits;

/// The first byte picks a dtype, two more the tensor's length, the rest is the payload of a `bits` edit: it is refused, or
/// makes a tensor of which the counted elements differ from the base.
pub fn payload(bytes: &[u8]) {
    let [kind, low, high, rest @ ..] = bytes else { return };
    let dtype = Dtype::ALL[usize::from(*kind) % Dtype::ALL.len()];
    let width = Word::of(dtype).width();
    let elements = usize::from(u16::from_le_bytes([*low, *high]));
    let base: Vec<u8> = (0..elements * width).map(|at| (at * 31) as u8).collect();
    let parsed = payload::parse(rest, Word::of(dtype), base.len() as u64);
    let mut tensor = base.clone();
    match (parsed, bits::decode(rest, dtype, &mut tensor)) {
        (Err(_), decoded) => assert!(decoded.is_err(), "a payload at fault was decoded"),
        (Ok(parsed), Ok(())) => {
            let changed = bits::changed(dtype, &base, &tensor).expect("one length");
            // A change that is told may be none: zeros are not forbidden.
            assert!(changed <= parsed.changed(), "{changed} of {} changed", parsed.changed());
        }
        (Ok(_), Err(_)) => {}
    }
}
