// The package's front: plain objects in, plain objects out.

import start, { Files, formats as table } from './fitment_wasm.js';

let loading;

/** Loads the module, once; from its place in the package, or from where the caller says. */
export function load(source = new URL('fitment_wasm_bg.wasm', import.meta.url)) {
  loading ??= begin(source);
  return loading;
}

async function begin(source) {
  let module = source;
  // Node fetches no files.
  if (source instanceof URL && source.protocol === 'file:') {
    const { readFile } = await import(/* @vite-ignore */ 'node:fs/promises');
    module = await readFile(source);
  }
  await start({ module_or_path: module });
}

/** Calls with files in the module's memory, which is given back whatever happens. */
function held(files, call) {
  const native = new Files();
  try {
    for (const [path, bytes] of Object.entries(files)) native.add(path, bytes);
    return call(native);
  } finally {
    native.free();
  }
}

const said = (options) => (options && Object.keys(options).length > 0 ? JSON.stringify(options) : undefined);

export function formats() {
  return JSON.parse(table());
}

export function detect(files) {
  return held(files, (native) => native.detect());
}

export function validate(files, { name = 'adapter', ...options } = {}) {
  return held(files, (native) => JSON.parse(native.verdict(name, said(options))).files[0]);
}

export function convert(files, to, { allowLoss = false, ...options } = {}) {
  return held(files, (native) => {
    const output = native.convert(to, said(options));
    try {
      const losses = JSON.parse(output.losses());
      const serious = losses.filter((loss) => loss.changes_function);
      if (serious.length > 0 && !allowLoss) {
        const error = new Error(`the result would compute something else: ${serious.map((loss) => loss.message).join('; ')}`);
        throw Object.assign(error, { hint: 'allowLoss: true converts it all the same', losses });
      }
      const written = JSON.parse(output.files()).map(({ path }, index) => [path, output.take(index)]);
      return { files: Object.fromEntries(written), losses };
    } finally {
      output.free();
    }
  });
}
