// What stands there before anything is open.

import { failure, fill, h } from './dom.js';
import { mayAsk, state, withUrl } from './link.js';

export function welcome(app) {
  const faults = h('div');
  const open = (event) => {
    event.preventDefault();
    const address = new FormData(event.target).get('url').trim();
    if (!mayAsk) {
      location.href = withUrl({ url: address });
      return;
    }
    try {
      app.openUrl(address);
    } catch (error) {
      fill(faults, failure(error));
    }
  };
  const address = h('input', { id: 'url', name: 'url', type: 'url', required: true, placeholder: 'https://…/adapter_model.safetensors', value: state().url });
  return h(
    'div',
    { class: 'welcome' },
    h('h1', {}, 'What is this adapter, is it right, and where does it fit?'),
    h(
      'div',
      { class: 'drop' },
      h('p', { class: 'lead' }, 'Drop an adapter here'),
      h('p', { class: 'quiet' }, 'A file or its folder: LoRA, DoRA, ReFT, steering vectors, diffs. Several at once, of any size.'),
      h(
        'p',
        { class: 'buttons' },
        h('button', { type: 'button', class: 'main', onclick: () => app.pick(false) }, 'Open files'),
        h('button', { type: 'button', onclick: () => app.pick(true) }, 'Open a folder'),
      ),
    ),
    h(
      'details',
      { open: mayAsk },
      h('summary', {}, 'Open an address'),
      h(
        'form',
        { onsubmit: open },
        h('label', { for: 'url' }, 'Address of a safetensors file'),
        h('div', { class: 'field' }, address, h('button', { type: 'submit' }, 'Open')),
        h('p', { class: 'quiet' }, mayAsk ? 'Only the parts that are shown are fetched, by ranges.' : 'This page is forbidden to reach any server. The address is opened by its other half, which may.'),
      ),
      faults,
    ),
  );
}
