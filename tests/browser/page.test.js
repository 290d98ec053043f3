// What the page shows of adapters of every family and format, and what it never does.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { browser, choose, fixtures, open, ready, root, serve } from './place.js';

let chromium, server, tab;

before(async () => {
  chromium = await browser();
  server = await serve();
  tab = await ready(chromium, `${server.url}/index.html`);
});

after(async () => {
  await chromium?.close();
  server?.close();
});

beforeEach(() => tab.page.locator('#home').click());

const FOLDER = 'Open a folder';
const verdict = () => tab.page.locator('section.verdict').last().innerText();
const analysed = () => tab.page.waitForSelector('table[aria-label="Modules"]');

const FORMATS = {
  fitment: ['fold/linear.fitment.safetensors'],
  peft: ['peft/linear/adapter', 'peft/dora_linear/adapter', 'peft/embedding/adapter', 'peft/experts_mixtral/adapter'],
  pyreft: ['pyreft/loreft_trained/adapter'],
  gguf: ['gguf-lora/llama/lora.gguf', 'gguf/repeng/vector.gguf'],
  adapters: ['adapters/noreft/adapter', 'adapters/bn_pfeiffer_llama/adapter'],
  trl: ['trl/pr5417/adapter'],
  mlx: ['mlx/lora/adapter'],
  torchtune: ['torchtune/phi3/adapter'],
  litgpt: ['litgpt/falcon/adapter'],
  tinker: ['tinker/qwen3/adapter'],
};

/** What files do not say, said: options, or the headers of a base. */
async function say(path) {
  const fields = tab.page.locator('form.ask input');
  const said = { positions: 'f1+l1', activation: 'none', formula: 'noreft', alpha: '16' };
  if (await fields.count()) {
    for (const field of await fields.all()) await field.fill(said[await field.getAttribute('name')] ?? '');
    await tab.page.getByRole('button', { name: 'Read again' }).click();
    await tab.page.waitForSelector('section.verdict');
  }
  if (await tab.page.locator('section.verdict .drop').count()) {
    await choose(tab.page, join(dirname(path), 'base'), 'Choose its folder');
  }
  await tab.page.waitForSelector('article[data-format]');
}

for (const [format, paths] of Object.entries(FORMATS)) {
  for (const path of paths.map((path) => join(fixtures, path))) {
    test(`${path.slice(fixtures.length + 1)} is ${format}, as the validator says`, async () => {
      await open(tab.page, path, /\.\w+$/.test(path) ? 'Open files' : FOLDER);
      await say(path);
      assert.equal(await tab.page.locator('article').getAttribute('data-format'), format);
      assert.doesNotMatch(await verdict(), /Broken|Nothing could be checked/);
    });
  }
}

test('a LoRA: the sentence, the picture, the spectrum on click, the numbers', async () => {
  await open(tab.page, join(fixtures, 'peft/linear/adapter'), FOLDER);
  assert.match(await tab.page.locator('h1').innerText(), /LoRA of rank/);
  await analysed();
  const cells = tab.page.locator('svg.heat [data-edit]');
  assert.equal(await cells.count(), 14);
  await cells.first().click();
  await tab.page.waitForSelector('svg.spectrum');
  assert.match(await tab.page.locator('.spectrum-of').innerText(), /90 % of the energy in \d/);
  assert.match(tab.page.url(), /module=model\.layers/);
  await tab.page.getByRole('button', { name: 'model.layers.1.mlp.up_proj.weight' }).click();
  assert.match(await tab.page.locator('.spectrum-of h3').innerText(), /layers\.1\.mlp\.up_proj/);
});

test('a ReFT: layers and positions, rank, error of its rotation', async () => {
  await open(tab.page, join(fixtures, 'pyreft/loreft_trained/adapter'), FOLDER);
  await say('');
  await analysed();
  const table = await tab.page.locator('table[aria-label="Modules"]').innerText();
  assert.match(table, /Acts on/);
  assert.match(table, /UᵀU/);
});

test('a diff: the changed share, and its size beside the raw tensors', async () => {
  const folder = join(root, 'spec/conformance/valid');
  const file = join(folder, 'bits-planes.fitment.safetensors');
  await open(tab.page, file);
  await analysed();
  assert.match(await tab.page.locator('table[aria-label="Modules"]').innerText(), /Changed/);
});

test('the tensor table narrows, and says how many are left', async () => {
  await open(tab.page, join(fixtures, 'peft/linear/adapter'), FOLDER);
  const section = tab.page.locator('section', { has: tab.page.locator('#tensors') });
  await section.getByLabel('Filter').fill('layers.0 q_proj');
  assert.match(await section.innerText(), /2 of 28 tensors/);
});

test('a base: all targets of its own, none of another', async () => {
  await open(tab.page, join(fixtures, 'peft/linear/adapter'), FOLDER);
  const section = tab.page.locator('section', { has: tab.page.locator('#base') });
  await choose(tab.page, join(fixtures, 'peft/linear/base'), 'Choose its folder');
  await section.locator('.fit .lead').waitFor();
  assert.match(await section.innerText(), /All 14 targets are in base/);
  await choose(tab.page, join(fixtures, 'peft/conv2d/base'), 'Choose its folder');
  await section.locator('.fit.broken').waitFor();
  assert.match(await section.innerText(), /14 of 14 targets are not in base/);
});

test('two adapters: an adapter is as near to itself as can be', async () => {
  await open(tab.page, join(fixtures, 'peft/linear/adapter'), FOLDER);
  await choose(tab.page, join(fixtures, 'peft/linear/adapter'), 'Choose the folder of the other');
  const section = tab.page.locator('section', { has: tab.page.locator('#compare') });
  await section.locator('.result .lead').waitFor();
  assert.match(await section.innerText(), /Cosine of the updates: 1\.00, over 14 targets/);
  assert.match(await section.innerText(), /configs say the same/);
});

test('a conversion is saved, and reads back as the same', async () => {
  await open(tab.page, join(fixtures, 'peft/linear/adapter'), FOLDER);
  await tab.page.getByLabel('To', { exact: true }).selectOption('fitment');
  await tab.page.getByRole('button', { name: 'Convert', exact: true }).click();
  const save = tab.page.getByRole('button', { name: /^Save adapter\.fitment/ });
  const [download] = await Promise.all([tab.page.waitForEvent('download'), save.click()]);
  const path = await download.path();
  assert.ok(readFileSync(path).length > 4000);
  assert.match(download.suggestedFilename(), /\.fitment\.safetensors$/);
});

test('what a conversion would lose stands there before, and has to be taken', async () => {
  await open(tab.page, join(fixtures, 'peft/linear/adapter'), FOLDER);
  await tab.page.getByLabel('To', { exact: true }).selectOption('pyreft');
  await tab.page.getByRole('button', { name: 'Convert', exact: true }).click();
  const section = tab.page.locator('section', { has: tab.page.locator('#convert') });
  await section.locator('.failure, .losses').first().waitFor();
  const save = section.getByRole('button', { name: /^Save/ });
  if (await save.count()) assert.ok(await save.isDisabled());
});

test('a report is a whole page', async () => {
  await open(tab.page, join(fixtures, 'peft/linear/adapter'), FOLDER);
  await analysed();
  const [download] = await Promise.all([tab.page.waitForEvent('download'), tab.page.getByRole('button', { name: 'Web page' }).click()]);
  assert.match(readFileSync(await download.path(), 'utf8'), /<svg[^]*<\/html>/);
});

test('several at once stand beside each other', async () => {
  const files = ['fold/linear.fitment.safetensors', 'fold/mixed.fitment.safetensors'].map((path) => join(fixtures, path));
  await open(tab.page, files);
  await tab.page.locator('nav.shelf li').nth(1).waitFor();
  await tab.page.locator('nav.shelf button').first().click();
  assert.match(await tab.page.locator('.name').innerText(), /linear/);
});

test('nothing was asked of any server, and nothing went wrong', () => {
  assert.deepEqual(tab.requests, []);
  assert.deepEqual(tab.faults, []);
});

test('the page works as a file', async () => {
  const own = await ready(chromium, pathToFileURL(join(root, 'wasm/dist/index.html')).href);
  await open(own.page, join(fixtures, 'fold/linear.fitment.safetensors'));
  assert.equal(await own.page.locator('article').getAttribute('data-format'), 'fitment');
  assert.deepEqual([own.requests, own.faults], [[], []]);
  await own.close();
});
