// Manifest, configs and identity, as they are written.

import { download, h } from './dom.js';

export function textSection(adapter) {
  const section = h('section', { 'aria-labelledby': 'texts' }, h('h2', { id: 'texts' }, 'As it is written'));
  adapter.client.call('texts').then(({ manifest, files }) => {
    const id = manifest && idOf(manifest);
    section.append(
      ...[
        id && h('p', {}, 'Content id ', h('code', { class: 'id' }, id)),
        manifest && text('Manifest', spaced(manifest), 'manifest.json', manifest),
        ...files.map((file) => text(file.path, file.text, file.path.split('/').at(-1), file.text)),
        !manifest && files.length === 0 && h('p', { class: 'quiet' }, 'Its files hold no text but names.'),
      ].filter(Boolean),
    );
  });
  return section;
}

function idOf(manifest) {
  try {
    return JSON.parse(manifest).id;
  } catch {
    return null;
  }
}

/** Lines for the eye; the file that is saved is the one that was written. */
function spaced(manifest) {
  try {
    return JSON.stringify(JSON.parse(manifest), null, 2);
  } catch {
    return manifest;
  }
}

function text(title, content, name, whole) {
  return h(
    'details',
    {},
    h('summary', {}, title),
    h('pre', { tabindex: 0, role: 'region', 'aria-label': title }, content),
    h('button', { type: 'button', onclick: () => download(name, [whole]) }, `Save ${name}`),
  );
}
