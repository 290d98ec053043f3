// All that the page shows, as a file.

import { announce, download, failure, fill, h } from './dom.js';

const FORMS = [
  { kind: 'html', title: 'Web page', type: 'text/html' },
  { kind: 'markdown', title: 'Markdown', type: 'text/markdown' },
  { kind: 'json', title: 'JSON', type: 'application/json' },
];

export function reportSection(adapter) {
  const faults = h('div');
  const save = async ({ kind, type }) => {
    try {
      const text = await adapter.client.call('report', kind);
      download(`${adapter.name.replace(/\.\w+$/, '')}-report.${kind === 'markdown' ? 'md' : kind}`, [text], type);
      announce('the report is saved');
    } catch (error) {
      fill(faults, failure(error));
    }
  };
  const buttons = FORMS.map((form) => h('button', { type: 'button', onclick: () => save(form) }, form.title));
  return h(
    'section',
    { 'aria-labelledby': 'report' },
    h('h2', { id: 'report' }, 'Report'),
    h('p', {}, 'Sentence, verdict, pictures and numbers as one file, as ', h('code', {}, 'fitment inspect --html'), ' writes it.'),
    h('p', { class: 'buttons' }, buttons),
    faults,
  );
}
