// An address: only ranges are asked for, and a server without them is refused.

import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { browser, fixtures, ready, serve } from './place.js';

let chromium, page, files, whole;

before(async () => {
  chromium = await browser();
  page = await serve();
  files = await serve(fixtures);
  whole = await serve(fixtures, { ranges: false });
});

after(async () => {
  await chromium?.close();
  for (const server of [page, files, whole]) server?.close();
});

const at = (server) => `${page.url}/url.html#url=${encodeURIComponent(`${server.url}/peft/linear/adapter/adapter_model.safetensors`)}`;

test('a link opens an adapter of another server, with the config beside it', async () => {
  const tab = await ready(chromium, at(files));
  await tab.page.waitForSelector('section.verdict.sound', { timeout: 60_000 });
  assert.equal(await tab.page.locator('article').getAttribute('data-format'), 'peft');
  assert.ok(files.asked.length > 0 && files.asked.every(({ path }) => path.startsWith('/peft/linear/adapter/')));
  await tab.close();
});

test('a server that sends the whole file is refused', async () => {
  const tab = await ready(chromium, at(whole));
  await tab.page.waitForSelector('.failure');
  assert.match(await tab.page.locator('.failure').innerText(), /does not answer ranges/);
  await tab.close();
});

test('the page that works without servers has no way to ask one', async () => {
  const tab = await ready(chromium, `${page.url}/index.html`);
  const refused = await tab.page.evaluate((url) => fetch(url).then(() => false, () => true), files.url);
  assert.ok(refused);
  await tab.close();
});
