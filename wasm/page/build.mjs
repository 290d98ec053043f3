// Puts the page together: modules into one script, the module of WebAssembly packed beside it, and a policy that names each by
// its hash.
//   node wasm/page/build.mjs MODULE-FOLDER OUTPUT-FOLDER

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { build, transform } from 'esbuild';

/** Bytes of the page as servers send it, above which it is no longer quick to load. */
const LARGEST = 1_010_000;

const [made, out] = process.argv.slice(2);
const here = dirname(fileURLToPath(import.meta.url));

async function script(entry) {
  const alias = { fitment: join(process.cwd(), made, 'fitment_wasm.js') };
  const options = { bundle: true, minify: true, write: false, target: 'es2022', charset: 'utf8', legalComments: 'none' };
  const result = await build({ ...options, entryPoints: [join(here, entry)], format: 'iife', alias, define: { 'import.meta.url': '""' } });
  // Nothing in a script element may look like its end.
  return result.outputFiles[0].text.trim().replaceAll('</script', '<\\/script');
}

const hash = (text) => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;

const main = await script('main.js');
const worker = await script('worker.js');
const style = (await transform(await readFile(join(here, 'style.css'), 'utf8'), { loader: 'css', minify: true })).code.trim();
const module = packed(await readFile(join(made, 'fitment_wasm_bg.wasm'))).toString('base64');
const template = await readFile(join(here, 'index.html'), 'utf8');

/** LZMA, a third smaller than what browsers unpack; its header says how long the result is, which `xz` leaves open. */
function packed(bytes) {
  const found = execFileSync('xz', ['--format=lzma', '--lzma1=preset=9e,lc=4,lp=0,pb=0', '--stdout'], { input: bytes, maxBuffer: 64 << 20 });
  found.writeUInt32LE(bytes.length, 5);
  found.writeUInt32LE(0, 9);
  return found;
}

/** The page; with `connect`, one that may ask other servers. */
function page(connect) {
  const policy = [
    "default-src 'none'",
    `script-src ${hash(main)} 'wasm-unsafe-eval' blob:`,
    `style-src ${hash(style)}`,
    'worker-src blob:',
    'img-src data: blob:',
    `connect-src ${connect}`,
    "base-uri 'none'",
    "form-action 'none'",
  ];
  const parts = { policy: policy.join('; '), style, main, worker, module };
  return template.replace(/\{\{(\w+)\}\}/g, (_, part) => parts[part]);
}

await mkdir(out, { recursive: true });
const pages = { 'index.html': page("'none'"), 'url.html': page('https: http:') };
for (const [name, text] of Object.entries(pages)) await writeFile(join(out, name), text);
const served = gzipSync(pages['index.html'], { level: 9 }).length;
console.log(`page: ${out}/index.html, ${Math.round(served / 1000)} KB gzipped`);
if (served > LARGEST) throw new Error(`the page has more than ${LARGEST / 1000} KB gzipped`);
