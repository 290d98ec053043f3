// Where the adapter fits: which tensors of a base it changes, from the base's headers alone.

import { announce, failure, fill, h, plural } from './dom.js';

export function baseSection(app, adapter) {
  const answer = h('div');
  const look = async (sources) => {
    if (!sources.length) return;
    fill(answer, h('p', { class: 'busy' }, 'Reading headers…'));
    const source = together(sources);
    try {
      fill(answer, fit(await adapter.client.call('base', source), source.name));
      announce('the fit to the base is shown');
    } catch (error) {
      fill(answer, failure(error));
    }
  };
  if (adapter.base) look([adapter.base]);
  return h('section', { 'aria-labelledby': 'base' }, h('h2', { id: 'base' }, 'Base and fit'), baseField(app, look), answer);
}

/** Where a base is dropped or chosen. */
export function baseField(app, look) {
  const field = h(
    'div',
    { class: 'drop small', 'data-drop': true },
    h('p', {}, 'Drop a base here: its folder, its index, or its safetensors files. Only headers are read.'),
    h(
      'p',
      { class: 'buttons' },
      h('button', { type: 'button', onclick: () => app.pick(false, look) }, 'Choose files of the base'),
      h('button', { type: 'button', onclick: () => app.pick(true, look) }, 'Choose its folder'),
    ),
  );
  field.dropped = look;
  return field;
}

/** Several files of a base as one source. */
export function together(sources) {
  return { name: sources.map(({ name }) => name).join(', '), files: sources.flatMap(({ files }) => files) };
}

function fit({ coverage, verdict, failure: fault }, name) {
  const { targets, hits, missing, kinds } = coverage;
  const word =
    missing.length === 0 ? `All ${plural(targets, 'target')} are in ${name}.` : `${missing.length} of ${plural(targets, 'target')} are not in ${name}.`;
  const problems = verdict?.findings.filter(({ severity }) => severity !== 'note') ?? [];
  return h(
    'div',
    { class: missing.length || problems.some(({ severity }) => severity === 'error') ? 'fit broken' : 'fit' },
    h('p', { class: 'lead' }, targets === 0 ? 'The adapter changes no tensor of a base by name.' : word),
    fault && failure(fault),
    problems.length > 0 && h('ol', { class: 'findings' }, problems.map(problem)),
    kinds.length > 0 && table(kinds),
    missing.length > 0 && h('details', {}, h('summary', {}, plural(missing.length, 'target that the base lacks', 'targets that the base lacks')), h('ul', { class: 'names' }, missing.map(({ name }) => h('li', {}, name)))),
    h('p', { class: 'quiet' }, `${plural(hits, 'tensor')} found by name${verdict ? ', shapes compared' : '; the index tells no shapes'}. Values of the base were not read.`),
  );
}

function problem({ code, severity, place, message }) {
  return h('li', { class: severity }, h('p', {}, h('span', { class: 'code' }, code), h('span', { class: 'place' }, place)), h('p', {}, message));
}

function table(kinds) {
  const row = ({ module, hit, missing, hits, of }) =>
    h('tr', {}, h('th', { scope: 'row' }, module), h('td', { class: 'number' }, `${hits} of ${of}`), h('td', {}, hit || '—'), h('td', {}, missing || 'none'));
  const head = ['Kind of tensor', 'Changed', 'In layers', 'Not in layers'].map((title, at) => h('th', { scope: 'col', class: at === 1 && 'number' }, title));
  return h('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Tensors of the base' }, h('table', {}, h('thead', {}, h('tr', {}, head)), h('tbody', {}, kinds.map(row))));
}
