// One adapter: what it is, whether it is right, what it changes, where it fits.

import { baseSection } from './base.js';
import { compareSection } from './compare.js';
import { convertSection } from './convert.js';
import { failure, h, plural, size } from './dom.js';
import { modulesSection } from './modules.js';
import { reportSection } from './reports.js';
import { tensorSection } from './tensors.js';
import { textSection } from './texts.js';
import { verdictSection } from './verdict.js';

export function show(app, adapter) {
  const { result, error, name } = adapter;
  if (error) return h('article', {}, heading(app, adapter, name), failure(error));
  if (!result) return h('article', {}, heading(app, adapter, name), h('p', { class: 'busy' }, 'Reading…'));
  const opened = result.adapter;
  const sections = opened && [
    modulesSection(app, adapter),
    baseSection(app, adapter),
    compareSection(app, adapter),
    convertSection(app, adapter),
    tensorSection(adapter),
    textSection(adapter),
    reportSection(adapter),
  ];
  return h('article', { 'data-read': result.read, 'data-format': opened?.format, 'data-partial': opened?.partial }, heading(app, adapter, sentence(adapter)), facts(adapter), verdictSection(app, adapter), sections);
}

/** One sentence; of what could not be read, its name. */
function sentence({ result, name }) {
  return result.adapter?.sentence ?? name;
}

function heading(app, adapter, text) {
  return h(
    'div',
    { class: 'title' },
    h('p', { class: 'name' }, adapter.name),
    h('h1', {}, text),
    h('button', { type: 'button', class: 'plain', onclick: () => app.close(adapter) }, 'Close'),
  );
}

function facts({ result, base }) {
  const total = result.adapter ? [`${size(result.read)} read`] : [];
  if (base && result.adapter) total.push(`read beside the headers of ${base.name}: what may be a copy of the base counts as changed`);
  if (result.left.length) total.push(`${plural(result.left.length, 'file')} of the training run left out: ${result.left.join(', ')}`);
  return total.length ? h('p', { class: 'quiet' }, total.join(' · ')) : null;
}
