// A table of which only the rows in sight are elements, with a filter and a copy for other programs.

import { announce, count, h, plural } from './dom.js';

const ROW = 32;
const HEIGHT = 448;

/**
 * The table as elements. `columns`: `[{key, title, number}]`; `rows`: objects of texts; `one`: what a row is. With `pick`, the first
 * cell of a row is a button. `filtered` hears the text of the filter, which begins as `filter`.
 */
export function grid({ name, columns, rows: all, one, pick, filter = '', filtered = () => {} }) {
  let rows = all;
  const body = h('tbody');
  const heads = columns.map(({ title, number }) => h('th', { scope: 'col', class: number && 'number' }, title));
  const table = h('table', { class: 'grid', 'aria-label': name }, h('thead', {}, h('tr', {}, heads)), body);
  const window = h('div', { class: 'window', tabindex: 0, role: 'region', 'aria-label': name }, table);
  const found = h('p', { class: 'quiet', role: 'status' });
  const gap = (rows) => h('tr', { class: 'gap', 'aria-hidden': 'true' }, h('td', { colspan: columns.length, height: rows * ROW }));
  const cell = (row, { key, number }, at) => {
    const content = at === 0 && pick ? h('button', { type: 'button', class: 'link', onclick: () => pick(row) }, row[key]) : (row[key] ?? '');
    return h('td', { class: number && 'number' }, content);
  };
  let drawn = '';
  const draw = () => {
    const first = Math.max(0, Math.floor(window.scrollTop / ROW) - 8);
    const last = Math.min(rows.length, first + Math.ceil(HEIGHT / ROW) + 16);
    // A row that is there already stays: it may be under a finger.
    if (drawn === `${first} ${last}`) return;
    drawn = `${first} ${last}`;
    const line = (row, at) => h('tr', { 'aria-rowindex': first + at + 2 }, columns.map((column, index) => cell(row, column, index)));
    body.replaceChildren(gap(first), ...rows.slice(first, last).map(line), gap(rows.length - last));
  };
  const narrow = (text) => {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const searched = (row) => columns.map(({ key }) => row[key] ?? '').join(' ').toLowerCase();
    rows = words.length === 0 ? all : all.filter((row) => words.every((word) => searched(row).includes(word)));
    table.setAttribute('aria-rowcount', rows.length + 1);
    found.textContent = rows.length === all.length ? plural(all.length, one) : `${count(rows.length)} of ${plural(all.length, one)}`;
    window.scrollTop = 0;
    drawn = '';
    draw();
  };
  const copy = async () => {
    const lines = [columns.map(({ title }) => title), ...rows.map((row) => columns.map(({ key }) => row[key] ?? ''))];
    await navigator.clipboard.writeText(lines.map((cells) => cells.join('\t')).join('\n'));
    announce(`${plural(rows.length, 'row')} copied`);
  };
  const change = (event) => {
    narrow(event.target.value);
    filtered(event.target.value);
  };
  const id = `filter-${name.toLowerCase().replace(/\W+/g, '-')}`;
  window.addEventListener('scroll', draw, { passive: true });
  narrow(filter);
  return h(
    'div',
    {},
    h(
      'div',
      { class: 'field' },
      h('label', { for: id }, 'Filter'),
      h('input', { id, type: 'search', value: filter, oninput: change }),
      h('button', { type: 'button', onclick: copy }, 'Copy'),
    ),
    found,
    window,
  );
}
