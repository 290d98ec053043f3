// What the validator says: the same findings as the command line's, in the same words.

import { baseField, together } from './base.js';
import { failure, h, plural } from './dom.js';

const WORDS = { error: 'Error', warning: 'Warning', note: 'Note' };

/** Findings shown at once; the rest is behind a button. */
const SHOWN = 50;

export function verdictSection(app, adapter) {
  const { verdict, failure: fault } = adapter.result;
  const title = h('h2', { id: 'verdict' }, 'Verdict');
  if (!verdict) return h('section', { class: 'verdict unchecked', 'aria-labelledby': 'verdict' }, title, failure(fault), ask(app, adapter, fault));
  const { word, level } = judged(verdict, adapter.result);
  const findings = verdict.findings.slice(0, SHOWN).map(finding);
  const more = verdict.findings.length - findings.length;
  const known = verdict.findings.some((found) => fault?.message.includes(found.message));
  return h(
    'section',
    { class: `verdict ${level}`, 'aria-labelledby': 'verdict', 'data-level': level },
    title,
    h('p', { class: 'lead' }, word),
    verdict.refusal && failure(verdict.refusal),
    fault && !known && fault.message !== verdict.refusal?.message && failure(fault),
    fault && ask(app, adapter, fault),
    fault?.hint?.includes('--base') && needed(app, adapter),
    findings.length > 0 && h('ol', { class: 'findings' }, findings),
    more > 0 && h('p', { class: 'quiet' }, `and ${plural(more, 'more finding')}: the report lists all of them`),
    adapter.result.adapter?.partial && values(app, adapter),
  );
}

function judged({ counts, refusal, checked }, { adapter }) {
  const parts = ['error', 'warning', 'note'].filter((level) => counts[level] > 0).map((level) => plural(counts[level], level));
  if (counts.error > 0) return { level: 'error', word: `Broken: ${parts.join(', ')}.` };
  if (refusal || !checked.format) return { level: 'unchecked', word: 'Nothing could be checked.' };
  const looked = adapter?.partial ? ' Its values were not looked at.' : '';
  if (counts.warning > 0) return { level: 'warning', word: `Sound, with ${parts.join(' and ')}.${looked}` };
  return { level: 'sound', word: `Sound${counts.note > 0 ? `, with ${parts.join()}` : ': nothing to say against it'}.${looked}` };
}

function finding({ code, severity, place, message, remedy, section }) {
  return h(
    'li',
    { class: severity },
    h('p', {}, h('span', { class: 'code', title: section && `Specification, section ${section}` }, `${WORDS[severity]} ${code}`), place && h('span', { class: 'place' }, place)),
    h('p', {}, message),
    remedy && h('p', { class: 'quiet' }, remedy),
  );
}

function values(app, adapter) {
  const check = () => app.read(adapter, { values: true });
  return h(
    'p',
    {},
    h('button', { type: 'button', onclick: check }, 'Check the values too'),
    h('span', { class: 'quiet' }, ' reads the whole file, here in the browser'),
  );
}

/** Of some adapters only a base tells what they do: its headers are enough. */
function needed(app, adapter) {
  const read = (sources) => sources.length > 0 && app.read(adapter, { base: together(sources) });
  return h('div', {}, h('p', {}, 'The headers of its base say what the files do not:'), baseField(app, read));
}

/** What the files do not say, and how the user says it: the options of the command line. */
function ask(app, adapter, fault) {
  const asked = [...`${fault?.message} ${fault?.hint ?? ''}`.matchAll(/--(from|adapter|positions|activation|formula|alpha|moe-b-layout|moe-layout)\b/g)];
  const names = [...new Set(asked.map(([, name]) => name.replaceAll('-', '_')))];
  if (names.length === 0) return null;
  const say = (event) => {
    event.preventDefault();
    const said = Object.fromEntries([...new FormData(event.target)].filter(([, value]) => value !== ''));
    app.read(adapter, { options: { ...adapter.options, ...said } });
  };
  const field = (name) =>
    h('p', {}, h('label', { for: `say-${name}` }, name.replaceAll('_', ' ')), h('input', { id: `say-${name}`, name, value: adapter.options?.[name] }));
  return h('form', { class: 'ask', onsubmit: say }, h('p', {}, 'Say what the files do not:'), names.map(field), h('button', { type: 'submit' }, 'Read again'));
}
