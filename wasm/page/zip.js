// Several files as one archive, stored as they are: weights do not compress.

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

function crc32(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = TABLE[(value ^ byte) & 255] ^ (value >>> 8);
  return ~value >>> 0;
}

/** The first of January 1980: no time is told, so that the same files give the same archive. */
const DATE = 33;

/** UTF-8 names, flag 11 of the format. */
const UTF8 = 0x800;

/** The parts of a ZIP archive of files `{path, bytes}`, in all less than 4 GB (PKWARE's APPNOTE 4.3). */
export function packed(files) {
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const { path, bytes } of files) {
    const name = new TextEncoder().encode(path);
    const common = [20, UTF8, 0, 0, DATE, [crc32(bytes)], [bytes.length], [bytes.length], name.length, 0];
    const local = record(0x04034b50, common);
    directory.push(record(0x02014b50, [20, ...common, 0, 0, 0, [0], [offset]]), name);
    parts.push(local, name, bytes);
    offset += local.length + name.length + bytes.length;
  }
  const length = directory.reduce((sum, part) => sum + part.length, 0);
  return [...parts, ...directory, record(0x06054b50, [0, 0, files.length, files.length, [length], [offset], 0])];
}

/** A signature and fields: numbers have two bytes, numbers in brackets four. */
function record(signature, fields) {
  const all = [[signature], ...fields];
  const view = new DataView(new ArrayBuffer(all.reduce((sum, field) => sum + (Array.isArray(field) ? 4 : 2), 0)));
  let at = 0;
  for (const field of all) {
    if (Array.isArray(field)) view.setUint32(at, field[0], true);
    else view.setUint16(at, field, true);
    at += Array.isArray(field) ? 4 : 2;
  }
  return new Uint8Array(view.buffer);
}
