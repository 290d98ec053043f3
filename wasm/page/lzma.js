// Unpacks LZMA, which packs the module a third smaller than what browsers unpack by themselves. Runs in the worker.
//
// The format is that of `xz --format=lzma` (Igor Pavlov, LZMA specification, 2015): 13 bytes that say how it was packed and how
// long the result is, then bits of a range coder whose probabilities adapt.

const TOP = 2 ** 24;

/** Bits of a probability, and how fast it moves. */
const MODEL_BITS = 11;
const MOVE_BITS = 5;

const models = (count) => new Uint16Array(count).fill(1 << (MODEL_BITS - 1));

/** The bytes that a packed file stands for. */
export function unpack(packed) {
  const header = packed[0];
  const [lc, lp, pb] = [header % 9, Math.floor(header / 9) % 5, Math.floor(header / 45)];
  const length = new DataView(packed.buffer, packed.byteOffset).getUint32(5, true);
  const out = new Uint8Array(length);
  const coder = new Decoder(packed, 13);
  const literals = models(0x300 << (lc + lp));
  const [isMatch, isRep0Long] = [models(192), models(192)];
  const [isRep, isRep0, isRep1, isRep2] = [models(12), models(12), models(12), models(12)];
  const [lengths, repLengths] = [lengthModels(), lengthModels()];
  const slots = [0, 1, 2, 3].map(() => models(64));
  const [near, aligned] = [models(115), models(16)];
  let [state, rep0, rep1, rep2, rep3] = [0, 0, 0, 0, 0];
  let at = 0;
  while (at < length) {
    const posState = at & ((1 << pb) - 1);
    const place = (state << 4) + posState;
    if (coder.bit(isMatch, place) === 0) {
      const before = at > 0 ? out[at - 1] : 0;
      const base = 0x300 * (((at & ((1 << lp) - 1)) << lc) + (before >> (8 - lc)));
      out[at] = state < 7 ? coder.literal(literals, base) : coder.matched(literals, base, out[at - rep0 - 1]);
      at += 1;
      state = state < 4 ? 0 : state < 10 ? state - 3 : state - 6;
      continue;
    }
    let copied;
    if (coder.bit(isRep, state) === 1) {
      if (coder.bit(isRep0, state) === 0) {
        if (coder.bit(isRep0Long, place) === 0) {
          out[at] = out[at - rep0 - 1];
          at += 1;
          state = state < 7 ? 9 : 11;
          continue;
        }
      } else if (coder.bit(isRep1, state) === 0) {
        [rep0, rep1] = [rep1, rep0];
      } else if (coder.bit(isRep2, state) === 0) {
        [rep0, rep1, rep2] = [rep2, rep0, rep1];
      } else {
        [rep0, rep1, rep2, rep3] = [rep3, rep0, rep1, rep2];
      }
      copied = coder.length(repLengths, posState);
      state = state < 7 ? 8 : 11;
    } else {
      [rep1, rep2, rep3] = [rep0, rep1, rep2];
      copied = coder.length(lengths, posState);
      state = state < 7 ? 7 : 10;
      rep0 = coder.distance(slots[Math.min(copied, 3)], near, aligned);
      if (rep0 === 0xffffffff) break;
    }
    if (rep0 >= at) throw new Error('the page is damaged: load it again');
    for (const end = Math.min(at + copied + 2, length); at < end; at += 1) out[at] = out[at - rep0 - 1];
  }
  return out;
}

function lengthModels() {
  return { choice: models(2), low: models(128), middle: models(128), high: models(256) };
}

/** The range coder, and the trees of bits that are read from it. */
class Decoder {
  constructor(bytes, at) {
    this.bytes = bytes;
    this.at = at + 1;
    this.range = 0xffffffff;
    this.code = 0;
    for (let index = 0; index < 4; index += 1) this.code = ((this.code << 8) | bytes[this.at++]) >>> 0;
  }

  bit(model, index) {
    const probability = model[index];
    const bound = (this.range >>> MODEL_BITS) * probability;
    let bit = 0;
    if (this.code < bound) {
      this.range = bound;
      model[index] = probability + (((1 << MODEL_BITS) - probability) >> MOVE_BITS);
    } else {
      this.range -= bound;
      this.code -= bound;
      model[index] = probability - (probability >> MOVE_BITS);
      bit = 1;
    }
    if (this.range < TOP) this.next();
    return bit;
  }

  next() {
    this.range = (this.range << 8) >>> 0;
    this.code = ((this.code << 8) | this.bytes[this.at++]) >>> 0;
  }

  tree(model, base, bits) {
    let node = 1;
    for (let index = 0; index < bits; index += 1) node = (node << 1) | this.bit(model, base + node);
    return node - (1 << bits);
  }

  reversed(model, base, bits) {
    let [node, value] = [1, 0];
    for (let index = 0; index < bits; index += 1) {
      const bit = this.bit(model, base + node);
      node = (node << 1) | bit;
      value |= bit << index;
    }
    return value;
  }

  literal(model, base) {
    return this.tree(model, base, 8);
  }

  /** A literal behind a match: the byte that would have gone on tells half of it. */
  matched(model, base, byte) {
    let [node, offset] = [1, 0x100];
    while (node < 0x100) {
      byte <<= 1;
      const expected = byte & offset;
      const bit = this.bit(model, base + offset + expected + node);
      node = (node << 1) | bit;
      offset &= bit ? expected : ~expected;
    }
    return node & 0xff;
  }

  length({ choice, low, middle, high }, posState) {
    if (this.bit(choice, 0) === 0) return this.tree(low, posState << 3, 3);
    if (this.bit(choice, 1) === 0) return 8 + this.tree(middle, posState << 3, 3);
    return 16 + this.tree(high, 0, 8);
  }

  distance(slots, near, aligned) {
    const slot = this.tree(slots, 0, 6);
    if (slot < 4) return slot;
    const bits = (slot >> 1) - 1;
    const high = ((2 | (slot & 1)) << bits) >>> 0;
    if (slot < 14) return high + this.reversed(near, high - slot, bits);
    return (high + ((this.direct(bits - 4) << 4) >>> 0) + this.reversed(aligned, 0, 4)) >>> 0;
  }

  direct(bits) {
    let value = 0;
    for (let index = 0; index < bits; index += 1) {
      this.range >>>= 1;
      const bit = this.code >= this.range ? 1 : 0;
      if (bit) this.code -= this.range;
      value = (value << 1) | bit;
      if (this.range < TOP) this.next();
    }
    return value;
  }
}
