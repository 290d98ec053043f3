// The page's side of the worker. One worker for each adapter: closing it gives all of its memory back, and a fault in it
// ends nothing else.

let module = null;
let script = null;

/** Unpacks the module that stands in the page, in a worker of its own. */
export async function load() {
  const text = document.getElementById('worker').textContent;
  script = URL.createObjectURL(new Blob([text], { type: 'text/javascript' }));
  const unpacking = start();
  module = await unpacking.call('unpack', document.getElementById('module').textContent);
  unpacking.close();
}

/** A worker with the module in it; `call('name', argument)` asks it, `on` hears what it says unasked. */
export function start(on = () => {}) {
  const worker = new Worker(script, { name: 'fitment' });
  const waiting = new Map();
  let last = 0;
  const end = (error) => {
    worker.terminate();
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
  };
  worker.onmessage = ({ data }) => {
    if (data.event) return on(data);
    const call = waiting.get(data.id);
    waiting.delete(data.id);
    if (data.error?.fatal) return call?.reject(data.error), end(data.error);
    return data.error ? call?.reject(data.error) : call?.resolve(data.result);
  };
  worker.onerror = (event) => end({ message: `the reader stopped: ${event.message}`, hint: 'open the adapter again' });
  const call = (name, argument, transfer = []) =>
    new Promise((resolve, reject) => {
      last += 1;
      waiting.set(last, { resolve, reject });
      worker.postMessage({ id: last, name, argument }, transfer);
    });
  if (module) call('start', module).catch(end);
  return { call, close: () => end({ message: 'closed', hint: null }) };
}
