// Two adapters beside each other: how near their updates are, and what their configs say otherwise.

import { start } from './client.js';
import { announce, failure, fill, h, plural } from './dom.js';
import { grid } from './grid.js';

export function compareSection(app, adapter) {
  const answer = h('div');
  const look = async (other) => {
    fill(answer, h('p', { class: 'busy' }, `Comparing with ${other.name}…`));
    // A worker of its own: both adapters have to lie in one memory.
    const client = start();
    try {
      const sources = { first: adapter.source, second: other.source, options: [adapter.options, other.options] };
      fill(answer, shown(await client.call('compare', sources), adapter, other));
      announce('the comparison is shown');
    } catch (error) {
      fill(answer, failure(error));
    }
    client.close();
  };
  const fresh = ([source]) => source && look({ source, name: source.name });
  const others = app.adapters.filter((other) => other !== adapter && other.result?.adapter);
  const field = h(
    'div',
    { class: 'drop small', 'data-drop': true },
    h('p', {}, 'Drop another adapter here: cosine and norms of the updates, principal angles, what the configs say otherwise.'),
    h(
      'p',
      { class: 'buttons' },
      others.map((other) => h('button', { type: 'button', onclick: () => look(other) }, `Compare with ${other.name}`)),
      h('button', { type: 'button', onclick: () => app.pick(false, fresh) }, 'Choose files of the other'),
      h('button', { type: 'button', onclick: () => app.pick(true, fresh) }, 'Choose the folder of the other'),
    ),
  );
  field.dropped = fresh;
  return h('section', { 'aria-labelledby': 'compare' }, h('h2', { id: 'compare' }, 'Compare'), field, answer);
}

const COLUMNS = [
  { key: 'label', title: 'Target' },
  { key: 'cosine', title: 'Cosine', number: true },
  { key: 'ratio', title: 'Norm ratio', number: true },
  { key: 'first', title: '‖ΔA‖', number: true },
  { key: 'second', title: '‖ΔB‖', number: true },
  { key: 'ranks', title: 'Ranks', number: true },
  { key: 'scales', title: 'Scales', number: true },
  { key: 'outputs', title: 'Angles of outputs', number: true },
  { key: 'inputs', title: 'Angles of inputs', number: true },
];

function shown({ comparison, differences }, first, second) {
  const { pairs, only_first, only_second, not_compared, cosine } = comparison;
  const digits = (value) => (value === null ? 'none' : value.toPrecision(3));
  const row = (pair) => ({
    label: pair.label,
    cosine: digits(pair.cosine),
    ratio: pair.first_norm > 0 ? digits(pair.second_norm / pair.first_norm) : 'none',
    first: digits(pair.first_norm),
    second: digits(pair.second_norm),
    ranks: pair.ranks.join(' / '),
    scales: pair.scales.join(' / '),
    outputs: angles(pair.outputs),
    inputs: angles(pair.inputs),
  });
  return h(
    'div',
    { class: 'result' },
    h('p', { class: 'lead' }, cosine === null ? 'No update of the two can be compared.' : `Cosine of the updates: ${digits(cosine)}, over ${plural(pairs.length, 'target')} that both change.`),
    h('p', { class: 'quiet' }, `A is ${first.name}, B is ${second.name}. The norm ratio is that of B to A; angles are the least and the largest.`),
    pairs.length > 0 && grid({ name: 'Comparison', columns: COLUMNS, rows: pairs.map(row), one: 'target' }),
    names(`Only in ${first.name}`, only_first),
    names(`Only in ${second.name}`, only_second),
    names('Changed by both, not comparable', not_compared),
    configs(differences),
  );
}

/** The smallest and the largest principal angle. */
function angles(cosines) {
  if (cosines.length === 0) return 'none';
  const degrees = (cosine) => `${((Math.acos(Math.min(1, cosine)) * 180) / Math.PI).toFixed(1)}°`;
  return `${degrees(cosines[0])} to ${degrees(cosines.at(-1))}`;
}

function names(title, list) {
  return list.length > 0 && h('details', {}, h('summary', {}, `${title}: ${list.length}`), h('ul', { class: 'names' }, list.map((name) => h('li', {}, name))));
}

function configs(differences) {
  if (differences.length === 0) return h('p', {}, 'Their configs say the same.');
  const row = ({ field, first, second }) => h('tr', {}, h('th', { scope: 'row' }, field), h('td', {}, first ?? 'not said'), h('td', {}, second ?? 'not said'));
  const heads = ['Field', 'A', 'B'].map((title) => h('th', { scope: 'col' }, title));
  return [
    h('h3', {}, 'What the configs say otherwise'),
    h('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Differences of the configs' }, h('table', {}, h('thead', {}, h('tr', {}, heads)), h('tbody', {}, differences.map(row)))),
  ];
}
