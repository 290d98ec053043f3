// What a link says: where to look, and at which address. Never what is in a file.

const KEYS = ['url', 'measure', 'module', 'filter'];

/** The state of the link, such as `{url, measure}`. */
export function state() {
  const fields = new URLSearchParams(location.hash.slice(1));
  return Object.fromEntries(KEYS.filter((key) => fields.has(key)).map((key) => [key, fields.get(key)]));
}

/** Changes fields of the link; nothing takes a field away. */
export function remember(changes) {
  const fields = new URLSearchParams(Object.entries({ ...state(), ...changes }).filter(([, value]) => value));
  history.replaceState(null, '', `#${fields}`);
}

/** The page that may ask servers, at the same place with the same state. */
export function withUrl(changes) {
  const fields = new URLSearchParams(Object.entries({ ...state(), ...changes }).filter(([, value]) => value));
  return `url.html#${fields}`;
}

/** Whether this page may ask servers: the other one is forbidden to by its own policy. */
export const mayAsk = !/connect-src 'none'/.test(document.querySelector('meta[http-equiv]').content);
