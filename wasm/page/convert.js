// Another format of the same adapter: what it would lack first, then the files.

import { announce, download, failure, fill, h, plural, size } from './dom.js';
import { packed } from './zip.js';

export function convertSection(app, adapter) {
  const section = h('section', { 'aria-labelledby': 'convert' }, h('h2', { id: 'convert' }, 'Convert'));
  if (adapter.result.adapter.partial) {
    const read = () => app.read(adapter, { values: true });
    section.append(h('p', {}, 'Only the header was read. ', h('button', { type: 'button', onclick: read }, 'Read the whole file'), ' to convert it.'));
    return section;
  }
  const answer = h('div');
  const choice = h('select', { id: 'to' });
  adapter.client.call('formats').then((formats) => {
    const writable = formats.filter(({ writes }) => writes);
    const first = adapter.result.adapter.format === 'fitment' ? 'peft' : 'fitment';
    choice.append(...writable.map(({ name, title }) => h('option', { value: name, selected: name === first }, title)));
  });
  const convert = async (event) => {
    event.preventDefault();
    try {
      fill(answer, result(adapter, choice.value, await adapter.client.call('convert', choice.value)));
    } catch (error) {
      fill(answer, failure(error));
    }
    announce('the result is shown');
  };
  section.append(h('form', { class: 'field', onsubmit: convert }, h('label', { for: 'to' }, 'To'), choice, h('button', { type: 'submit' }, 'Convert')), answer);
  return section;
}

function result(adapter, to, { losses, files }) {
  const serious = losses.some((loss) => loss.changes_function);
  const total = files.reduce((sum, { bytes }) => sum + bytes.length, 0);
  const save = h('button', { type: 'button', class: 'main', disabled: serious, onclick: () => give(adapter, to, files) }, `Save ${files.length === 1 ? files[0].path : plural(files.length, 'file')}, ${size(total)}`);
  const accept = h('input', { type: 'checkbox', id: 'allow-loss', onchange: (event) => (save.disabled = !event.target.checked) });
  return h(
    'div',
    { class: 'result' },
    losses.length === 0 ? h('p', {}, 'Nothing is lost.') : h('ul', { class: 'losses' }, losses.map(loss)),
    serious && h('p', { class: 'accept' }, accept, h('label', { for: 'allow-loss' }, 'The result computes something else; I take it all the same')),
    h('p', {}, save),
  );
}

function loss({ id, changes_function: serious, message }) {
  return h('li', { class: serious ? 'error' : 'note' }, h('span', { class: 'code' }, serious ? `Lost: ${id}` : id), message);
}

/** One file as it is; several as an archive, since a page cannot write a folder. */
function give(adapter, to, files) {
  if (files.length === 1) return download(nameOf(adapter, to, files[0].path), [files[0].bytes]);
  return download(`${stem(adapter)}-${to}.zip`, packed(files), 'application/zip');
}

function stem({ name }) {
  return name.replace(/(\.fitment)?\.\w+$/, '');
}

function nameOf(adapter, to, path) {
  return to === 'fitment' ? `${stem(adapter)}.fitment.safetensors` : path;
}
