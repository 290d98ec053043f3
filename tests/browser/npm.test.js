// The npm package in Node: what its README promises.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { root, fixtures } from './place.js';

const fitment = await import(join(root, 'wasm/dist/npm/index.js'));
const folder = join(fixtures, 'example/adapter');
const files = Object.fromEntries(
  ['adapter_config.json', 'adapter_model.safetensors'].map((name) => [name, new Uint8Array(readFileSync(join(folder, name)))]),
);

await fitment.load();

test('the package converts there and back, bit for bit', () => {
  assert.equal(fitment.detect(files), 'peft');
  const { files: own, losses } = fitment.convert(files, 'fitment');
  assert.ok(losses.every((loss) => !loss.changes_function));
  assert.deepEqual(Object.keys(own), ['adapter.fitment.safetensors']);
  const verdict = fitment.validate(own, { name: 'mine' });
  assert.deepEqual([verdict.path, verdict.format, verdict.counts.error], ['mine', 'fitment', 0]);
  const { files: back } = fitment.convert(own, 'peft');
  for (const [name, bytes] of Object.entries(files)) assert.deepEqual(Buffer.from(back[name]), Buffer.from(bytes), name);
});

test('what cannot be read is an error with a hint, and a fault is a finding', () => {
  assert.throws(() => fitment.detect({ 'notes.txt': new Uint8Array([1]) }), (error) => error instanceof Error && Boolean(error.hint));
  assert.throws(() => fitment.convert(files, 'pft'), /no format "pft"/);
  assert.throws(() => fitment.convert(files, 'fitment', { alpah: '1' }), /alpah/);
  const cut = { ...files, 'adapter_model.safetensors': files['adapter_model.safetensors'].slice(0, 100) };
  assert.ok(fitment.validate(cut).counts.error > 0);
});

test('a result that would compute something else has to be wanted', () => {
  const { files: own } = fitment.convert(files, 'fitment');
  const refused = fitment.formats().filter(({ writes }) => writes).flatMap(({ name }) => {
    try {
      fitment.convert(own, name);
      return [];
    } catch (error) {
      return [error];
    }
  });
  assert.ok(refused.every((error) => error.message.length > 0));
});
