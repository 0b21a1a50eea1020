// Requests to the server that this page came from, and what goes wrong with them, in a sentence.

const KEY = "propulsion-key";
const GONE = "The server cannot be reached: it has ended, or the network is down.";
const BROKEN_OFF = "The answer broke off: the server has ended, or the network is down.";

export class Problem extends Error {
  constructor(sentence, status = 0) {
    super(sentence);
    this.status = status;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

export const isAbort = (error) => error.name === "AbortError";

export const text = async (path, signal) => (await answered(path, undefined, signal)).text();

export async function json(path, body, signal) {
  const response = await answered(path, body, signal);
  try {
    return await response.json();
  } catch (error) {
    throw isAbort(error) ? error : new Problem(BROKEN_OFF);
  }
}

// The events of a stream, without the last, which says that it is whole.
export async function* events(path, body, signal) {
  const response = await answered(path, body, signal);
  for await (const line of lines(response.body)) {
    if (!line.startsWith("data: ")) continue;
    const data = line.slice(6);
    if (data === "[DONE]") return;
    const event = parsed(data);
    if (event.error) throw new Problem(event.error.message);
    yield event;
  }
  throw new Problem(BROKEN_OFF);
}

function parsed(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new Problem(BROKEN_OFF);
  }
}

async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const parts = (rest + value).split("\n");
      rest = parts.pop();
      yield* parts;
    }
  } catch (error) {
    throw isAbort(error) ? error : new Problem(BROKEN_OFF);
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function answered(path, body, signal) {
  const response = await sent(path, body, signal);
  if (!response.ok) throw new Problem(await sentence(response), response.status);
  return response;
}

async function sent(path, body, signal) {
  const headers = {};
  // A header holds bytes: those of the key in UTF-8, as the server compares them.
  if (key.get()) headers.Authorization = `Bearer ${String.fromCharCode(...new TextEncoder().encode(key.get()))}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const method = body === undefined ? "GET" : "POST";
  try {
    return await fetch(new URL(path, document.baseURI), { method, headers, body: JSON.stringify(body), signal, cache: "no-store" });
  } catch (error) {
    throw isAbort(error) ? error : new Problem(GONE);
  }
}

async function sentence(response) {
  if (response.status === 401) return "The server does not take this key.";
  const told = await response.json().then((body) => body?.error?.message, () => undefined);
  const wait = response.headers.get("Retry-After");
  const again = wait && /^\d+$/.test(wait) ? ` It asks to wait for ${wait} s.` : "";
  const plain = `The request was refused with the status ${response.status}, by something before the server if not by it.`;
  return (typeof told === "string" && told ? told : plain) + again;
}
