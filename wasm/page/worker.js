// Everything that computes: the module runs here, the page stays free.

import { Files, Headers, formats, headerBytes, initSync, measures } from 'fitment';
import { failed, place, read } from './bytes.js';
import { unpack } from './lzma.js';

/** Of files below this size all bytes are read at once: values are checked without asking. */
const WHOLE = 32_000_000;

/** The largest file that is read whole where its form leaves no other way. */
const LARGEST = 512_000_000;

/** The largest file of which all values are read, when asked. */
const LARGEST_VALUES = 2_000_000_000;

/** The largest safetensors file of which anything can be opened: no slice of the module is longer than 2³¹ − 1 bytes. */
const LARGEST_HEADER = 2 ** 31 - 1;

/** How often numbers are told, in milliseconds. */
const PACE = 100;

/** Bytes that are read at once. */
const SLICE = 4 << 20;

/** What is asked for first of a large file: most headers are no longer. */
const FIRST = 64 << 10;

/** Files of a training run that say nothing about the adapter, and are large. */
const BESIDE = /(^|\/)(optimizer|scheduler|rng_state|scaler)[^/]*$/;

let opened = null;
let places = new Map();
let name = '';
let said = null;

const calls = {
  /** The module of WebAssembly that stands in the page as text. */
  unpack(text) {
    return WebAssembly.compile(unpack(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))));
  },

  start(module) {
    initSync({ module });
  },

  /** Opens an adapter: what it is, and what the validator says. Where it cannot be read, the verdict says why, or `failure`. */
  async open({ source, options, values, base }) {
    name = source.name;
    said = options ? JSON.stringify(options) : undefined;
    const files = new Files();
    places = new Map();
    const left = await gather(source.files, files, values);
    const verdict = attempt(() => JSON.parse(files.verdict(name, said)).files[0]);
    const headers = base && (await headersOf(base));
    const adapter = attempt(() => files.open(said, headers));
    opened = adapter.value ?? null;
    return {
      verdict: verdict.value ?? null,
      failure: adapter.error ?? verdict.error ?? null,
      adapter: opened && described(),
      left,
      read: read.bytes,
    };
  },

  formats: () => JSON.parse(formats()),
  tensors: () => JSON.parse(opened.tensors()),
  texts: () => ({ manifest: opened.manifest() ?? null, files: JSON.parse(opened.texts()) }),

  modules: () => ({ modules: JSON.parse(opened.modules()), measures: JSON.parse(measures()) }),
  heatMap: (measure) => opened.heatMap(measure),
  spectrum: (edit) => opened.spectrum(edit) ?? null,
  report: (kind) => opened.report(kind, name, said),

  /** Analyses every edit, and says so from time to time; gives what could not be computed. */
  async analyse() {
    const modules = JSON.parse(opened.modules());
    const problems = [];
    let numbers = [];
    let told = performance.now();
    for (const [index, { edit }] of modules.entries()) {
      try {
        numbers.push([edit, await analysed(edit)]);
      } catch (error) {
        if (error instanceof WebAssembly.RuntimeError) throw error;
        problems.push(shown(error).message);
      }
      if (performance.now() - told < PACE && index + 1 < modules.length) continue;
      postMessage({ event: 'analysis', numbers, done: index + 1, of: modules.length });
      numbers = [];
      // Others have their turn: a picture, a table.
      await new Promise((resolve) => setTimeout(resolve));
      told = performance.now();
    }
    return problems;
  },

  /** Reads two adapters whole and compares them. */
  async compare({ first, second, options }) {
    const [a, b] = [await whole(first, options[0]), await whole(second, options[1])];
    return { comparison: JSON.parse(a.compare(b)), differences: differences(configs(a), configs(b)) };
  },

  /** What of a base the adapter changes, from headers, index and config. */
  async base(source) {
    const base = await headersOf(source);
    const coverage = JSON.parse(opened.coverage(base));
    const fit = base.hasShapes ? attempt(() => JSON.parse(opened.fit(name, said, base)).files[0]) : {};
    return { count: base.count, coverage, verdict: fit.value ?? null, failure: fit.error ?? null };
  },

  /** Writes the adapter in a format: the files, and what they lack. */
  convert(to) {
    const output = opened.convert(to);
    const files = JSON.parse(output.files()).map(({ path }, index) => ({ path, bytes: output.take(index) }));
    return { losses: JSON.parse(output.losses()), files };
  },
};

async function analysed(edit) {
  if (!opened.isPartial) return JSON.parse(opened.analyse(edit));
  const found = opened.places(edit);
  if (found === undefined) throw failed('its tensors do not lie in the file as they are: check the values to see it', null);
  const parts = [];
  for (const { path, start, end } of JSON.parse(found)) parts.push(await places.get(path).slice(start, end));
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return JSON.parse(opened.analyse(edit, bytes));
}

async function whole(source, options) {
  const files = new Files();
  await gather(source.files, files, true);
  return files.open(options ? JSON.stringify(options) : undefined);
}

/** The fields of all JSON files that say what an adapter does, each by its path. */
function configs(adapter) {
  const fields = new Map();
  const walk = (path, value) => {
    if (value === null || typeof value !== 'object' || Array.isArray(value)) return fields.set(path, JSON.stringify(value));
    for (const [key, inner] of Object.entries(value)) walk(path ? `${path}.${key}` : key, inner);
  };
  for (const { path, text } of JSON.parse(adapter.texts()).filter(({ path }) => /(config|parameters)[^/]*\.json$/.test(path))) {
    try {
      walk('', JSON.parse(text));
    } catch {
      fields.set(path, 'not JSON');
    }
  }
  return fields;
}

function differences(first, second) {
  const all = new Set([...first.keys(), ...second.keys()]);
  const apart = [...all].filter((field) => first.get(field) !== second.get(field));
  return apart.sort().map((field) => ({ field, first: first.get(field) ?? null, second: second.get(field) ?? null }));
}

/** What headers, index and config of a base say. */
async function headersOf(source) {
  const base = new Headers();
  for (const file of source.files.filter(({ path }) => /\.(safetensors|json)$/.test(path))) {
    const from = await place(file);
    if (file.path.endsWith('.safetensors')) {
      base.addHeader(file.path, from.size, await headerOf(from));
    } else if (/(^|[./])(config|index)\.json$/.test(file.path)) {
      base.addJson(file.path, new TextDecoder().decode(await from.slice(0, from.size)));
    }
  }
  if (base.count === 0) throw failed(`${source.name}: no names of tensors in it`, 'give a safetensors file, its index, or the folder of the base');
  return base;
}

function described() {
  return { sentence: opened.sentence(), format: opened.format, partial: opened.isPartial, losses: JSON.parse(opened.losses()) };
}

/** Puts the files of an adapter into memory, as much of them as is needed; gives what was left out. */
async function gather(list, files, values) {
  const left = [];
  let rest = values ? LARGEST_VALUES : LARGEST;
  for (const file of list) {
    const from = await place(file);
    const size = from.size;
    if (BESIDE.test(file.path) && list.length > 1 && size > 1_000_000) {
      left.push(file.path);
      continue;
    }
    places.set(file.path, from);
    if (size > WHOLE && !values && file.path.endsWith('.safetensors')) {
      await addHeader(from, files);
      continue;
    }
    rest -= size;
    if (rest < 0) throw failed(`${file.path}: too large to be read whole in a browser`, 'the command line tool `fitment` reads files of any size');
    files.add(file.path, await all(from));
  }
  await fillSmall(files);
  return left;
}

async function addHeader(from, files) {
  if (from.size > LARGEST_HEADER) {
    throw failed(`${from.path}: larger than the 2.1 GB that can be opened in a browser`, '`fitment inspect` and `fitment validate` read files of any size');
  }
  files.addHeader(from.path, from.size, await headerOf(from));
}

/** Index tensors of files of which else only the header is read. */
async function fillSmall(files) {
  for (const { path, start, end } of JSON.parse(files.wants())) {
    files.fill(path, start, await places.get(path).slice(start, end));
  }
}

async function headerOf(from) {
  const first = await from.slice(0, Math.min(FIRST, from.size));
  const needed = headerBytes(first);
  if (needed === undefined || needed > from.size) throw failed(`${from.path}: not a safetensors file: its header is longer than it`, null);
  if (needed <= first.length) return first.subarray(0, needed);
  const rest = await from.slice(first.length, needed);
  const header = new Uint8Array(needed);
  header.set(first);
  header.set(rest, first.length);
  return header;
}

async function all(from) {
  const bytes = new Uint8Array(from.size);
  for (let start = 0; start < from.size; start += SLICE) {
    bytes.set(await from.slice(start, Math.min(start + SLICE, from.size)), start);
    if (from.size > WHOLE) postMessage({ event: 'read', done: start, of: from.size });
  }
  return bytes;
}

function attempt(call) {
  try {
    return { value: call() };
  } catch (error) {
    if (error instanceof WebAssembly.RuntimeError) throw error;
    return { error: shown(error) };
  }
}

/** An error as the page gets it. A trap leaves the module in no state to go on. */
function shown(error) {
  const fatal = error instanceof WebAssembly.RuntimeError;
  const message = fatal ? `the reader stopped: ${error.message}` : String(error.message ?? error);
  return { message, hint: error.hint ?? null, fatal };
}

onmessage = async ({ data: { id, name: call, argument } }) => {
  try {
    const result = await calls[call](argument);
    postMessage({ id, result });
  } catch (error) {
    postMessage({ id, error: shown(error) });
  }
};
