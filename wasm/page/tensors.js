// Every stored tensor.

import { count, h } from './dom.js';
import { grid } from './grid.js';
import { remember, state } from './link.js';

const COLUMNS = [
  { key: 'target', title: 'Target' },
  { key: 'kind', title: 'Edit' },
  { key: 'role', title: 'Role' },
  { key: 'dtype', title: 'Type' },
  { key: 'shape', title: 'Shape' },
  { key: 'bytes', title: 'Bytes', number: true },
];

export function tensorSection(adapter) {
  const section = h('section', { 'aria-labelledby': 'tensors' }, h('h2', { id: 'tensors' }, 'Tensors'));
  adapter.client.call('tensors').then((all) => {
    const rows = all.map((tensor) => ({ ...tensor, shape: tensor.shape.join(' × ') || 'scalar', bytes: count(tensor.bytes) }));
    const { filter } = state();
    section.append(grid({ name: 'Table of tensors', columns: COLUMNS, rows, one: 'tensor', filter, filtered: (filter) => remember({ filter }) }));
  }, () => {});
  return section;
}
