// How fast the page is: spectra of 312 modules of rank 128, and the first picture of that adapter of 204 MB.

import { closeSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { browser, open, ready, root, serve } from './place.js';

const folder = join(root, 'target/bench/browser');
const [MODULES, RANK, WIDE] = [312, 128, 1280];

/** Random BF16 factors, small ones: 312 × 2 × 128 × 1280 × 2 bytes, 204 MB. */
function generate() {
  const file = join(folder, 'adapter_model.safetensors');
  if (existsSync(file)) return;
  mkdirSync(folder, { recursive: true });
  const header = {};
  const bytes = 2 * RANK * WIDE;
  const shapes = { lora_A: [RANK, WIDE], lora_B: [WIDE, RANK] };
  let at = 0;
  for (let module = 0; module < MODULES; module += 1) {
    for (const [part, shape] of Object.entries(shapes)) {
      const name = `base_model.model.model.layers.${Math.floor(module / 4)}.self_attn.${'qkvo'[module % 4]}_proj.${part}.weight`;
      header[name] = { dtype: 'BF16', shape, data_offsets: [at, at + bytes] };
      at += bytes;
    }
  }
  const text = JSON.stringify(header);
  const padded = Buffer.from(text + ' '.repeat((8 - (text.length % 8)) % 8));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));
  const out = openSync(file, 'w');
  writeSync(out, length);
  writeSync(out, padded);
  let seed = 1;
  for (let tensor = 0; tensor < 2 * MODULES; tensor += 1) {
    const values = new Uint16Array(RANK * WIDE);
    for (let index = 0; index < values.length; index += 1) {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      // A sign, an exponent about that of 0.01, and a mantissa.
      values[index] = ((seed >>> 31) << 15) | (((seed >>> 29) & 3) + 119) << 7 | ((seed >>> 20) & 127);
    }
    writeSync(out, new Uint8Array(values.buffer));
  }
  closeSync(out);
  const config = { peft_type: 'LORA', r: RANK, lora_alpha: RANK, target_modules: ['q_proj', 'k_proj', 'v_proj', 'o_proj'] };
  writeFileSync(join(folder, 'adapter_config.json'), JSON.stringify(config));
}

/** Anonymous memory of the largest renderer, in MB. */
function memory() {
  const of = (pid) => {
    try {
      if (!readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('--type=renderer')) return 0;
      return Number(/RssAnon:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]) / 1000;
    } catch {
      return 0;
    }
  };
  return Math.max(...readdirSync('/proc').filter((name) => /^\d+$/.test(name)).map(of));
}

generate();
const [chromium, server] = [await browser(), await serve()];
const { page, close } = await ready(chromium, `${server.url}/index.html`);
const before = memory();
const begin = performance.now();
const since = () => `${Math.round(performance.now() - begin)} ms`;
await open(page, folder, 'Open a folder');
console.log(`verdict: ${since()}`);
await page.waitForSelector('svg.heat', { timeout: 120_000 });
console.log(`first picture: ${since()}`);
await page.waitForSelector('body[data-analysed]', { timeout: 300_000 });
console.log(`all ${MODULES} spectra of rank ${RANK}: ${since()}`);
console.log(`memory: ${Math.round(memory() - before)} MB more than before`);
await close();
await chromium.close();
server.close();
