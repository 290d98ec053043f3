// Files at fault: each shows its finding or a plain message, and the page goes on.

import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, readFileSync, readdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { browser, fixtures, open, ready, root, serve } from './place.js';

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

const sound = join(fixtures, 'fold/linear.fitment.safetensors');
const invalid = join(root, 'spec/conformance/invalid');

async function shown(path, button) {
  await tab.page.locator('#home').click();
  await open(tab.page, path, button);
  return tab.page.locator('article').innerText();
}

test('each class of broken file shows its code', async () => {
  // One of each code; all of them are the conformance test's.
  const byCode = new Map(readdirSync(invalid).filter((name) => name.endsWith('.safetensors')).map((name) => [name.slice(0, 4), name]));
  const missing = [];
  for (const [code, name] of byCode) {
    const text = await shown(join(invalid, name));
    if (!text.includes(code)) missing.push(`${name}: ${text.split('\n').slice(0, 12).join(' ')}`);
  }
  assert.deepEqual(missing, []);
  assert.match(await shown(sound), /Sound/);
});

test('what is no adapter gets a plain message', async () => {
  const notes = join(room, 'notes.txt');
  writeFileSync(notes, 'hello');
  assert.match(await shown(notes), /no known adapter format fits/);
  assert.match(await shown(join(fixtures, 'peft/linear/base/model.safetensors')), /no known adapter format|weights alone/);
});

test('a hostile pickle is named, and not run', async () => {
  const hostile = join(fixtures, 'torch/hostile');
  const name = 'reduce_system.bin';
  assert.match(await shown(join(hostile, name)), /T00\d/);
});

test('a folder with two adapters asks which', async () => {
  const folder = join(room, 'two');
  for (const name of ['first', 'second']) cpSync(join(fixtures, 'peft/linear/adapter'), join(folder, name), { recursive: true });
  const text = await shown(folder, 'Open a folder');
  assert.match(text, /first/);
  await tab.page.getByLabel('adapter', { exact: true }).fill('second');
  await tab.page.getByRole('button', { name: 'Read again' }).click();
  await tab.page.waitForSelector('section.verdict.sound');
});

test('a file that is cut while it is open is told of', async () => {
  const path = join(room, 'cut.safetensors');
  const bytes = readFileSync(sound);
  writeFileSync(path, bytes);
  await tab.page.locator('#home').click();
  // Chosen first, and changed before it is read.
  const [chooser] = await Promise.all([tab.page.waitForEvent('filechooser'), tab.page.getByRole('button', { name: 'Open files' }).first().click()]);
  await tab.page.evaluate(() => document.addEventListener('change', (event) => event.stopImmediatePropagation(), { capture: true, once: true }));
  await chooser.setFiles(path);
  truncateSync(path, 50);
  await tab.page.evaluate(() => document.querySelector('input[type=file]').dispatchEvent(new Event('change')));
  await tab.page.waitForSelector('.failure');
  assert.match(await tab.page.locator('.failure').first().innerText(), /cannot be read any more|ends at byte/);
  assert.match(await shown(sound), /Sound/);
});

test('nothing stopped and nothing was asked of a server', () => {
  assert.deepEqual([tab.requests, tab.faults.filter((fault) => !/ERR_|could not be read/.test(fault))], [[], []]);
});
