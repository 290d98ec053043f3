// Where the files of an adapter come from: a drop, a picker, or an address.

/** Files inside folders inside folders: as many as the command line follows. */
const MAX_DEPTH = 5;

/** Files of one folder: a training run with every checkpoint stays far below. */
const MAX_FILES = 10_000;

/** What was dropped: `{name, files: [{path, blob}]}` for each folder or file; files that were dropped together are one adapter. */
export async function fromDrop(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const loose = [];
  const sources = [];
  for (const entry of entries) {
    if (entry.isDirectory) {
      const files = [];
      await walk(entry, '', MAX_DEPTH, files);
      sources.push({ name: entry.name, files });
    } else {
      loose.push({ path: entry.name, blob: await fileOf(entry) });
    }
  }
  return sources.concat(together(loose));
}

/** What a picker gives; of a folder, every file has its path. */
export function fromPicker(list) {
  const files = [...list].slice(0, MAX_FILES);
  if (!files.some((file) => file.webkitRelativePath)) {
    return together(files.map((blob) => ({ path: blob.name, blob })));
  }
  const name = files[0].webkitRelativePath.split('/')[0];
  const inside = files.map((blob) => ({ path: blob.webkitRelativePath.split('/').slice(1).join('/'), blob }));
  return [{ name, files: inside.filter(({ path }) => !hidden(path)) }];
}

/** Several adapters of one file each, or the files of one: a config beside weights belongs to them. */
function together(files) {
  if (files.length === 0) return [];
  const alone = files.every(({ path }) => /\.(safetensors|gguf)$/.test(path));
  if (alone) return files.map((file) => ({ name: file.path, files: [file] }));
  const weights = files.find(({ path }) => !path.endsWith('.json')) ?? files[0];
  return [{ name: weights.path, files }];
}

async function walk(folder, prefix, depth, into) {
  const reader = folder.createReader();
  for (;;) {
    const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (entries.length === 0) return;
    for (const entry of entries) {
      const path = prefix + entry.name;
      if (hidden(path) || into.length >= MAX_FILES) continue;
      if (!entry.isDirectory) into.push({ path, blob: await fileOf(entry) });
      else if (depth > 0) await walk(entry, `${path}/`, depth - 1, into);
    }
  }
}

function fileOf(entry) {
  return new Promise((resolve, reject) => entry.file(resolve, reject));
}

function hidden(path) {
  return path.split('/').some((part) => part.startsWith('.'));
}

/** An address: its last part is the name. What lies beside it under the names that tools give is asked for too. */
export function fromUrl(text) {
  const url = new URL(text, location.href);
  if (url.protocol !== 'https:' && url.protocol !== 'http:') throw new Error(`${text}: not an address of the web`);
  const path = decodeURIComponent(url.pathname.split('/').pop() || 'adapter');
  const files = [{ path, url: url.href }];
  if (path === 'adapter_model.safetensors') files.push({ path: 'adapter_config.json', url: new URL('adapter_config.json', url).href });
  return { name: path, files };
}
