// The page: a shelf of adapters, one of which is shown.

import { load, start } from './client.js';
import { announce, failure, fill, h } from './dom.js';
import { mayAsk, remember, state } from './link.js';
import { fromDrop, fromPicker, fromUrl } from './source.js';
import { show } from './view.js';
import { welcome } from './welcome.js';

const main = document.getElementById('main');
const adapters = [];
let shown = null;

const app = {
  adapters,
  pick,
  openUrl: (text) => openAll([fromUrl(text)]),
  select,
  close,
};

/** Opens adapters one after the other, and shows the first. */
async function openAll(sources, options) {
  for (const source of sources) {
    const adapter = { source, options, name: source.name, client: null, result: null };
    adapters.push(adapter);
    await read(adapter);
  }
}

/** Reads an adapter anew: with options, with its values, or beside the headers of a base. */
async function read(adapter, { options = adapter.options, values = false, base = adapter.base } = {}) {
  adapter.client?.close();
  adapter.options = options;
  adapter.base = base;
  adapter.result = adapter.error = null;
  adapter.client = start((event) => adapter.on?.(event));
  shown = adapter;
  render();
  announce(`reading ${adapter.name}`);
  try {
    adapter.result = await adapter.client.call('open', { source: adapter.source, options, values, base });
  } catch (error) {
    adapter.error = error;
  }
  if (shown === adapter) render();
  announce(adapter.error ? `${adapter.name} could not be opened` : `${adapter.name} is open`);
}

app.read = read;

function select(adapter) {
  shown = adapter;
  render();
  main.focus();
}

function close(adapter) {
  adapter.client?.close();
  adapters.splice(adapters.indexOf(adapter), 1);
  select(adapters.at(-1) ?? null);
}

/** Lets the user choose files, or a folder. */
function pick(folder, then = openAll) {
  const input = h('input', { type: 'file', multiple: true, webkitdirectory: folder, class: 'hidden', 'aria-label': 'files' });
  input.addEventListener('change', () => {
    then(fromPicker(input.files));
    input.remove();
  });
  document.body.append(input);
  input.click();
}

function render() {
  document.body.classList.toggle('open', shown !== null);
  fill(document.getElementById('actions'), shown && [button('Open files', () => pick(false)), button('Open a folder', () => pick(true))]);
  fill(main, shelf(), shown ? show(app, shown) : welcome(app));
}

function shelf() {
  if (adapters.length < 2) return null;
  const tab = (adapter) =>
    h('li', {}, h('button', { type: 'button', 'aria-current': adapter === shown && 'true', onclick: () => select(adapter) }, adapter.name));
  return h('nav', { class: 'shelf', 'aria-label': 'Open adapters' }, h('ul', {}, adapters.map(tab)));
}

function button(text, onclick) {
  return h('button', { type: 'button', class: 'plain', onclick }, text);
}

function listen() {
  let inside = 0;
  const mark = () => document.body.classList.toggle('dropping', inside > 0);
  addEventListener('dragenter', (event) => (event.preventDefault(), (inside += 1), mark()));
  addEventListener('dragleave', () => ((inside -= 1), mark()));
  addEventListener('dragover', (event) => event.preventDefault());
  addEventListener('drop', async (event) => {
    event.preventDefault();
    inside = 0;
    mark();
    // A drop on the field of a base is that field's.
    const then = event.target.closest?.('[data-drop]')?.dropped ?? openAll;
    then(await fromDrop(event.dataTransfer));
  });
  document.getElementById('home').addEventListener('click', (event) => {
    event.preventDefault();
    remember({ url: null, module: null, filter: null });
    select(null);
  });
}

async function begin() {
  listen();
  if (mayAsk) document.getElementById('promise').textContent = 'Nothing leaves this page but requests for the address you give.';
  try {
    await load();
  } catch (error) {
    fill(main, failure({ message: `this browser cannot run the reader: ${error.message}`, hint: 'it takes WebAssembly and workers' }));
    return;
  }
  render();
  document.body.dataset.ready = 'true';
  const { url } = state();
  if (url && mayAsk) {
    try {
      await openAll([fromUrl(url)]);
    } catch (error) {
      main.prepend(failure(error));
    }
  }
}

begin();
