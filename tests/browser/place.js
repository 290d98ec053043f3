// The page in Chromium, as tests use it.

import { createReadStream, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { dirname, extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

export const root = join(dirname(fileURLToPath(import.meta.url)), '../..');
export const fixtures = join(root, 'fixtures');
export const screens = join(root, 'target/screens');

const dist = join(root, 'wasm/dist');
const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.wasm': 'application/wasm' };

/** A server of a folder, with ranges unless told otherwise; counts what it was asked for and what it sent. */
export async function serve(folder = dist, { ranges = true, cors = true } = {}) {
  const asked = [];
  const server = createServer((request, response) => {
    const path = join(folder, normalize(new URL(request.url, 'http://x').pathname));
    if (cors) response.setHeader('Access-Control-Allow-Origin', '*');
    if (cors) response.setHeader('Access-Control-Allow-Headers', 'Range');
    if (cors) response.setHeader('Access-Control-Expose-Headers', 'Content-Range');
    if (request.method === 'OPTIONS') return response.end();
    const stat = statSync(path, { throwIfNoEntry: false });
    if (!stat?.isFile()) return response.writeHead(404).end();
    response.setHeader('Content-Type', TYPES[extname(path)] ?? 'application/octet-stream');
    const range = ranges && /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '');
    const [start, end] = range ? [Number(range[1]), Math.min(Number(range[2]), stat.size - 1)] : [0, stat.size - 1];
    asked.push({ path: request.url, bytes: end - start + 1 });
    response.writeHead(range ? 206 : 200, range ? { 'Content-Range': `bytes ${start}-${end}/${stat.size}` } : {});
    createReadStream(path, { start, end }).pipe(response);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { url: `http://127.0.0.1:${server.address().port}`, asked, close: () => server.close() };
}

/** Debian's Chromium, or the one that is named. */
export async function browser() {
  const executablePath = process.env.FITMENT_CHROMIUM ?? '/usr/bin/chromium';
  return chromium.launch({ executablePath, args: ['--no-sandbox', '--js-flags=--expose-gc'] });
}

/** A page that is loaded and ready. Whatever it asks for from then on, and whatever goes wrong in it, is in the lists. */
export async function ready(chromium, address, options = {}) {
  const context = await chromium.newContext({ viewport: { width: 1200, height: 900 }, acceptDownloads: true, ...options });
  const page = await context.newPage();
  const faults = [];
  page.on('pageerror', (error) => faults.push(error.message));
  page.on('console', (message) => message.type() === 'error' && faults.push(message.text()));
  await page.goto(address);
  await page.waitForSelector('body[data-ready]', { timeout: 60_000 });
  const requests = [];
  // What a page makes itself, and gives itself back, leaves no machine.
  page.on('request', (request) => /^(blob|data):/.test(request.url()) || requests.push(request.url()));
  return { page, requests, faults, close: () => context.close() };
}

/** Chooses files, as by the button of the page. */
export async function choose(page, paths, button = 'Open files') {
  const [chooser] = await Promise.all([page.waitForEvent('filechooser'), page.getByRole('button', { name: button }).first().click()]);
  await chooser.setFiles(paths);
}

/** Opens an adapter and waits for its verdict. */
export async function open(page, paths, button) {
  await choose(page, paths, button);
  await page.waitForSelector('section.verdict, .failure', { timeout: 60_000 });
}
