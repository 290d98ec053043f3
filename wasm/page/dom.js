// Elements without a framework.

/** Makes an element: `h('p', {class: 'quiet'}, 'text', child)`. Properties that begin with `on` are listeners. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An SVG or HTML text of our own module, as nodes. */
export function drawn(text) {
  return document.createRange().createContextualFragment(text);
}

/** Puts other children into an element. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat().filter(Boolean));
}

/** Says something to those who do not see the page. */
export function announce(text) {
  document.getElementById('live').textContent = text;
}

/** Bytes as people read them. */
export function size(bytes) {
  const units = ['B', 'KB', 'MB', 'GB'];
  let unit = 0;
  let value = bytes;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** A count with its thousands apart. */
export function count(number) {
  return number.toLocaleString('en-US');
}

/** `1 edit`, `2 edits`. */
export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

/** Offers a file for download. */
export function download(name, parts, type = 'application/octet-stream') {
  const url = URL.createObjectURL(new Blob(parts, { type }));
  const link = h('a', { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** A message in place of what could not be done. */
export function failure(error) {
  return h('div', { class: 'failure', role: 'alert' }, h('p', {}, error.message), error.hint && h('p', { class: 'quiet' }, error.hint));
}
