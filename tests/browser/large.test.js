// A file of 2 GB: its header is read and nothing else, until more is asked for.

import assert from 'node:assert/strict';
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { browser, open, ready, serve } from './place.js';

let chromium, server, tab, room;

before(async () => {
  chromium = await browser();
  server = await serve();
  tab = await ready(chromium, `${server.url}/index.html`);
  room = mkdtempSync(join(tmpdir(), 'fitment-'));
});

after(async () => {
  await chromium?.close();
  server?.close();
  rmSync(room, { recursive: true });
});

/** A PEFT adapter of LoRA on 64 layers, with holes for its weights. */
function sparse(folder, layers, [out, rank, input]) {
  const header = {};
  let at = 0;
  for (let layer = 0; layer < layers; layer += 1) {
    for (const [part, shape] of [['lora_A', [rank, input]], ['lora_B', [out, rank]]]) {
      const end = at + 4 * shape[0] * shape[1];
      header[`base_model.model.model.layers.${layer}.mlp.up_proj.${part}.weight`] = { dtype: 'F32', shape, data_offsets: [at, end] };
      at = end;
    }
  }
  const text = JSON.stringify(header);
  const padded = text + ' '.repeat((8 - (text.length % 8)) % 8);
  const file = openSync(join(folder, 'adapter_model.safetensors'), 'w');
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));
  writeSync(file, length);
  writeSync(file, padded);
  ftruncateSync(file, 8 + padded.length + at);
  closeSync(file);
  const config = openSync(join(folder, 'adapter_config.json'), 'w');
  writeSync(config, JSON.stringify({ peft_type: 'LORA', r: rank, lora_alpha: rank, target_modules: ['up_proj'], base_model_name_or_path: 'base' }));
  closeSync(config);
  return at;
}

test('2 GB open by their header: less than a second, less than a megabyte', async () => {
  const bytes = sparse(room, 42, [45_056, 256, 1024]);
  assert.ok(bytes > 1_900_000_000 && bytes < 2 ** 31, `${bytes}`);
  const begin = Date.now();
  await open(tab.page, room, 'Open a folder');
  const took = Date.now() - begin;
  const article = tab.page.locator('article');
  assert.equal(await article.getAttribute('data-partial'), '');
  assert.ok(Number(await article.getAttribute('data-read')) < 1_000_000);
  assert.match(await tab.page.locator('section.verdict').innerText(), /Sound[^]*values were not looked at/);
  console.log(`2 GB: ${took} ms to the verdict`);
  assert.ok(took < 10_000, `${took} ms`);
  await tab.page.locator('#home').click();
});

test('a file of 3 GB is told to be too large, and what reads it', async () => {
  sparse(room, 64, [45_056, 256, 1024]);
  await open(tab.page, room, 'Open a folder');
  assert.match(await tab.page.locator('.failure').first().innerText(), /larger than the 2\.1 GB[^]*fitment inspect/);
});
