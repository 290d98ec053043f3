// Bytes of files and of addresses, by parts. Runs in the worker.

/** How many bytes were read, of all files. */
export const read = { bytes: 0 };

/** `{path, size, slice(start, end) -> Uint8Array}` of what the page names. */
export async function place({ path, blob, url }) {
  return blob ? ofBlob(path, blob) : ofUrl(path, url);
}

function ofBlob(path, blob) {
  const slice = async (start, end) => {
    let buffer;
    try {
      buffer = await blob.slice(start, end).arrayBuffer();
    } catch (fault) {
      throw failed(`${path}: cannot be read any more: ${fault.message}`, 'it was changed, moved or removed after it was opened: open it again');
    }
    if (buffer.byteLength !== end - start) {
      throw failed(`${path}: ends at byte ${start + buffer.byteLength}, expected ${end}`, 'open it again');
    }
    read.bytes += buffer.byteLength;
    return new Uint8Array(buffer);
  };
  return { path, size: blob.size, slice };
}

/** An address is asked for ranges; a server that sends the whole file instead is refused before it does. */
async function ofUrl(path, url) {
  const ask = async (start, end) => {
    const abort = new AbortController();
    let answer;
    try {
      answer = await fetch(url, {
        headers: { Range: `bytes=${start}-${end - 1}` },
        credentials: 'omit',
        referrerPolicy: 'no-referrer',
        signal: abort.signal,
      });
    } catch {
      throw failed(`${url}: no answer that a page may read`, 'the server must allow other pages to read it (CORS), with ranges');
    }
    if (answer.status === 206) return { answer, bytes: new Uint8Array(await answer.arrayBuffer()) };
    abort.abort();
    if (answer.ok) throw failed(`${url}: the server does not answer ranges`, 'download the file and open it here');
    throw failed(`${url}: the server answers ${answer.status}`, null);
  };
  const first = await ask(0, 8);
  const total = Number(/\/(\d+)$/.exec(first.answer.headers.get('Content-Range') ?? '')?.[1]);
  if (!Number.isSafeInteger(total)) {
    throw failed(`${url}: the server does not say how long the file is`, 'it must let other pages see Content-Range');
  }
  const slice = async (start, end) => {
    if (start === end) return new Uint8Array();
    const { bytes } = await ask(start, end);
    if (bytes.length !== end - start) throw failed(`${url}: ${bytes.length} bytes came, expected ${end - start}`, 'try again');
    read.bytes += bytes.length;
    return bytes;
  };
  return { path, size: total, slice };
}

/** An error as the page shows it. */
export function failed(message, hint) {
  return Object.assign(new Error(message), { hint });
}
