//! Bit-exact changes: base tensor and payload to the tuned tensor, its digest checked on the way.

use super::compute::Pass;
use super::digest::Hasher;
use super::work::Item;
use super::{Context, Error};
use crate::plan::{Restore, Restored};
use fitment_core::checkpoint::OutputTensor;
use fitment_core::payload::{self, CHUNK, Word};
use fitment_math::bits;
use sha2::{Digest as _, Sha256};

/// Writes the result chunk by chunk. A result that is not the recorded one ends the run, and what was written is
/// worthless; so does a base that is not the one of the change.
pub(super) fn run(
    context: &Context<'_>,
    (tensor, job): (&OutputTensor, &Restored<'_>),
    item: &Item<'_>,
    buffer: &mut Vec<u8>,
) -> Result<(), Error> {
    let base = context.base.read(&job.from)?;
    let damaged = |source: bits::Error| Error::Payload { tensor: tensor.name.clone(), source };
    let word = Word::of(tensor.info.dtype);
    let payload = payload::parse(job.change.payload, word, base.len() as u64);
    let payload = payload.map_err(|fault| damaged(fault.into()))?;
    let mut hasher = Hasher::new(item.expected);
    let mut result = Sha256::new();
    let size = usize::try_from(CHUNK).unwrap_or(usize::MAX).saturating_mul(word.width());
    for (index, (chunk, before)) in payload.chunks.iter().zip(base.chunks(size)).enumerate() {
        hasher.update(before);
        buffer.clear();
        buffer.extend_from_slice(before);
        bits::decode_chunk(chunk, job.change.payload, payload.layout, word, buffer).map_err(damaged)?;
        result.update(&*buffer);
        context.write(tensor, index * size, buffer)?;
    }
    let differs = result.finalize()[..] != job.change.result;
    context.judge(&job.from, hasher, item)?;
    if differs && !context.stops() {
        return Err(Error::OtherResult { tensor: tensor.name.clone() });
    }
    Ok(())
}

/// The tuned tensor as a whole, for arithmetic with it.
pub(super) fn whole(pass: &Pass<'_>, change: &Restore<'_>) -> Result<Vec<u8>, Error> {
    let mut bytes = pass.bytes().to_vec();
    let tensor = || pass.name().to_owned();
    bits::decode(change.payload, pass.dtype(), &mut bytes)
        .map_err(|source| Error::Payload { tensor: tensor(), source })?;
    if Sha256::digest(&bytes)[..] != change.result {
        return Err(Error::OtherResult { tensor: tensor() });
    }
    Ok(bytes)
}
