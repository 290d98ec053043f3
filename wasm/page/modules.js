// What the adapter changes: layers × modules as a picture, each module's spectrum, and the same numbers as a table.

import { announce, download, drawn, failure, fill, h, plural, size } from './dom.js';
import { grid } from './grid.js';
import { remember, state } from './link.js';

/** Pictures are drawn anew at most this often, in milliseconds, while numbers come in. */
const PACE = 250;

export function modulesSection(app, adapter) {
  const parts = { progress: h('p', { class: 'quiet', role: 'status' }), choice: h('div', { class: 'choice' }), picture: h('div'), spectrum: h('div'), table: h('div') };
  const section = h('section', { 'aria-labelledby': 'changes' }, h('h2', { id: 'changes' }, 'What it changes'), Object.values(parts));
  fillSection(adapter, parts).catch((error) => error.message !== 'closed' && fill(parts.picture, failure(error)));
  return section;
}

async function fillSection(adapter, parts) {
  const { modules, measures } = await adapter.client.call('modules');
  if (modules.length === 0) return fill(parts.picture, h('p', {}, 'Nothing: it has no edits.'));
  const view = { adapter, parts, modules, measures, numbers: new Map(), measure: state().measure, picked: null };
  let drawn = 0;
  adapter.on = ({ event, numbers, done, of }) => {
    if (event !== 'analysis') return;
    for (const [edit, analysis] of numbers) view.numbers.set(edit, analysis);
    parts.progress.textContent = `computing: ${done} of ${plural(of, 'module')}`;
    if (performance.now() - drawn < PACE) return;
    drawn = performance.now();
    draw(view);
  };
  const problems = await adapter.client.call('analyse');
  parts.progress.textContent = problems.length ? `of ${plural(problems.length, 'module')} nothing could be computed: ${problems[0]}` : '';
  await draw(view);
  table(view);
  document.body.dataset.analysed = 'true';
  const first = modules.find(({ label }) => label === state().module);
  if (first) pick(view, first.edit);
}

/** Measures with something to tell; one scale for all is said in the sentence. */
function telling({ modules, measures, numbers }) {
  const values = ({ name }) => modules.map((module) => of(name, module, numbers.get(module.edit))).filter((value) => value !== null && value !== undefined);
  const least = ({ name }) => (name === 'scale' || name === 'rank' ? 2 : 1);
  return measures.filter((measure) => new Set(values(measure)).size >= least(measure));
}

function of(measure, module, analysis) {
  if (measure === 'norm') return analysis?.norm;
  if (measure === 'stable-rank') return analysis?.stable_rank;
  return module[measure];
}

async function draw(view) {
  const offered = telling(view);
  if (offered.length === 0) return;
  const measure = offered.find(({ name }) => name === view.measure) ?? offered[0];
  const focused = view.parts.choice.contains(document.activeElement);
  fill(view.parts.choice, offered.map((each) => option(view, each, each === measure)));
  if (focused) view.parts.choice.querySelector(':checked')?.focus();
  const svg = await view.adapter.client.call('heatMap', measure.name);
  const figure = h('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': measure.title }, drawn(svg));
  figure.addEventListener('click', (event) => {
    const edit = event.target.closest('[data-edit]')?.dataset.edit;
    if (edit !== undefined) pick(view, Number(edit));
  });
  const save = h('button', { type: 'button', class: 'plain', onclick: () => download(`${measure.name}.svg`, [svg], 'image/svg+xml') }, 'Save the picture');
  fill(view.parts.picture, figure, h('p', { class: 'under' }, h('span', { class: 'quiet' }, 'A click on a cell shows its spectrum; the table below says the same in numbers.'), save));
}

function option(view, { name, title }, checked) {
  const change = () => {
    view.measure = name;
    remember({ measure: name });
    draw(view);
  };
  return h('label', {}, h('input', { type: 'radio', name: 'measure', value: name, checked, onchange: change }), h('span', {}, title));
}

/** The spectrum of one module. */
async function pick(view, edit) {
  const module = view.modules.find((module) => module.edit === edit);
  const analysis = view.numbers.get(edit);
  remember({ module: module.label });
  const svg = analysis?.spectrum.length ? await view.adapter.client.call('spectrum', edit) : null;
  const keeps = (part, rank) => rank !== null && `${part} of the energy in ${plural(rank, 'direction')}`;
  const words = analysis && [keeps('90 %', analysis.rank_90), keeps('99 %', analysis.rank_99), analysis.stable_rank !== null && `stable rank ${number(analysis.stable_rank)}`];
  fill(
    view.parts.spectrum,
    h(
      'div',
      { class: 'spectrum-of' },
      h('h3', { tabindex: -1 }, module.label),
      svg ? h('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Singular values' }, drawn(svg)) : h('p', {}, 'It is no low-rank update: it has no spectrum.'),
      words && h('p', {}, words.filter(Boolean).join(' · ')),
      svg && values(analysis.spectrum),
      svg && h('button', { type: 'button', class: 'plain', onclick: () => download('spectrum.svg', [svg], 'image/svg+xml') }, 'Save the picture'),
    ),
  );
  for (const cell of view.parts.picture.querySelectorAll('[data-edit]')) cell.classList.toggle('picked', Number(cell.dataset.edit) === edit);
  view.parts.spectrum.scrollIntoView({ block: 'nearest' });
  announce(`spectrum of ${module.label}`);
}

/** The numbers of a spectrum, with what each and those before it hold of the energy. */
function values(spectrum) {
  const whole = spectrum.reduce((sum, value) => sum + value * value, 0);
  let sum = 0;
  const row = (value, index) => {
    sum += value * value;
    return h('tr', {}, h('th', { scope: 'row' }, `σ${index + 1}`), h('td', { class: 'number' }, number(value)), h('td', { class: 'number' }, `${(100 * sum / whole).toFixed(2)} %`));
  };
  const heads = ['', 'Value', 'Energy so far'].map((title) => h('th', { scope: 'col', class: title && 'number' }, title || h('span', { class: 'hidden' }, 'Place')));
  return h('details', {}, h('summary', {}, 'As a table'), h('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Singular values as a table' }, h('table', { class: 'short' }, h('thead', {}, h('tr', {}, heads)), h('tbody', {}, spectrum.map(row)))));
}

const COLUMNS = [
  { key: 'label', title: 'Module' },
  { key: 'kind', title: 'Edit' },
  { key: 'positions', title: 'Acts on' },
  { key: 'rank', title: 'Rank', number: true },
  { key: 'scale', title: 'Scale', number: true },
  { key: 'norm', title: '‖ΔW‖', number: true },
  { key: 'spectral', title: 'σ₁', number: true },
  { key: 'stable_rank', title: 'Stable rank', number: true },
  { key: 'rank_90', title: '90 % in', number: true },
  { key: 'rank_99', title: '99 % in', number: true },
  { key: 'orthogonality', title: '|UᵀU − I|', number: true },
  { key: 'share', title: 'Changed', number: true },
  { key: 'size', title: 'Stored', number: true },
  { key: 'raw', title: 'Raw', number: true },
];

/** One row for each edit, with the columns that any of them has something in. */
function table(view) {
  const percent = (share) => (share === null ? null : `${(100 * share).toPrecision(3)} %`);
  const some = (value) => (value === null || value === undefined ? null : number(value));
  const row = (module) => {
    const { norm, spectral, stable_rank, rank_90, rank_99, orthogonality } = view.numbers.get(module.edit) ?? {};
    const numbers = { norm, spectral, stable_rank, rank_90, rank_99, orthogonality, rank: module.rank, scale: module.scale };
    return {
      ...module,
      kind: module.magnitude ? `${module.kind} + magnitude` : module.kind,
      ...Object.fromEntries(Object.entries(numbers).map(([key, value]) => [key, some(value)])),
      share: percent(module.share),
      size: size(module.bytes),
      raw: module.target_bytes === null ? null : size(module.target_bytes),
    };
  };
  const rows = view.modules.map(row);
  const columns = COLUMNS.filter(({ key }) => rows.some((row) => row[key] !== null && row[key] !== undefined));
  fill(view.parts.table, h('h3', {}, 'Module by module'), grid({ name: 'Modules', columns, rows, one: 'edit', pick: ({ edit }) => pick(view, edit) }));
}

/** Three digits of what is measured; whole numbers as they are. */
function number(value) {
  if (Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(2) : String(Number(value.toPrecision(3)));
}
