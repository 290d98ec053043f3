// For people: light and dark, narrow and wide, without a mouse, and for those who do not see the page.

import assert from 'node:assert/strict';
import { mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { browser, choose, fixtures, open, ready, root, screens, serve } from './place.js';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
let chromium, server;

before(async () => {
  chromium = await browser();
  server = await serve();
  mkdirSync(screens, { recursive: true });
});

after(async () => {
  await chromium?.close();
  server?.close();
});

async function violations(page) {
  await page.evaluate(axe);
  const found = await page.evaluate(() => globalThis.axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }));
  return found.violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html.slice(0, 120)).join(' | ')}`);
}

const VIEWS = {
  light: { colorScheme: 'light' },
  dark: { colorScheme: 'dark' },
  narrow: { colorScheme: 'light', viewport: { width: 320, height: 720 }, reducedMotion: 'reduce' },
};

for (const [name, options] of Object.entries(VIEWS)) {
  test(`${name}: no violation of WCAG, nothing wider than the screen`, async () => {
    // The page forbids scripts; the checker is one.
    const tab = await ready(chromium, `${server.url}/index.html`, { ...options, bypassCSP: true });
    const { page } = tab;
    const found = await violations(page);
    await page.screenshot({ path: join(screens, `welcome-${name}.png`) });
    for (const [what, path, button] of [
      ['lora', join(fixtures, 'peft/linear/adapter'), 'Open a folder'],
      ['steer', join(fixtures, 'fold/mixed.fitment.safetensors'), 'Open files'],
      ['broken', join(root, 'spec/conformance/invalid/C001-empty-file.safetensors'), 'Open files'],
    ]) {
      await page.locator('#home').click();
      await open(page, path, button);
      if (what !== 'broken') await page.waitForSelector('table[aria-label="Modules"]');
      if (what === 'lora') {
        await page.getByRole('button', { name: 'model.layers.0.mlp.up_proj.weight' }).click();
        await page.waitForSelector('svg.spectrum');
        await choose(page, join(fixtures, 'peft/linear/base'), 'Choose its folder');
        await page.waitForSelector('.fit');
        await page.getByRole('button', { name: 'Convert', exact: true }).click();
        await page.waitForSelector('.result');
      }
      found.push(...(await violations(page)).map((line) => `${what}: ${line}`));
      const [wide, room] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      if (wide > room) found.push(`${what}: ${wide} pixels wide`);
      await page.screenshot({ path: join(screens, `${what}-${name}.png`), fullPage: true });
    }
    assert.deepEqual(found, []);
    await tab.close();
  });
}

test('the keyboard alone reaches the spectrum of a module', async () => {
  const tab = await ready(chromium, `${server.url}/index.html`);
  const { page } = tab;
  await open(page, join(fixtures, 'peft/linear/adapter'), 'Open a folder');
  await page.waitForSelector('table[aria-label="Modules"]');
  for (let step = 0; step < 60; step += 1) {
    await page.keyboard.press('Tab');
    const text = await page.evaluate(() => document.activeElement.textContent);
    if (text === 'model.layers.0.mlp.down_proj.weight') break;
  }
  await page.keyboard.press('Enter');
  await page.waitForSelector('svg.spectrum');
  assert.match(await page.locator('#live').innerText(), /spectrum of model\.layers\.0\.mlp\.down_proj/);
  await tab.close();
});
