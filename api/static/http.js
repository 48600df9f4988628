// Requests to this API, with the key it may ask for, and its stream of events.

const KEY = "millrace-key";

export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

function headers(more = {}) {
  const key = sessionStorage.getItem(KEY);
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

/** What went wrong, in the words of the server where it had any. `status` 0: there was no answer. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: headers(options.headers) });
  } catch {
    throw new Refused(0, "The server does not answer.");
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  const detail = Array.isArray(problem.detail) ? problem.detail.map((one) => one.msg).join("; ") : problem.detail;
  const wait = response.headers.get("Retry-After");
  throw new Refused(response.status, `${detail ?? response.statusText}${wait ? ` (again in ${wait} s)` : ""}`);
}

/** Follows the stream for ever: `on.history`, `on.frame`, and `on.lost` with the problem each time it ends. */
export async function follow(on) {
  for (;;) {
    const silence = new AbortController();
    let timer;
    const heard = () => {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), 5000);
    };
    try {
      heard();
      const response = await ask("stats", { headers: { Accept: "text/event-stream" }, signal: silence.signal, cache: "no-store" });
      await read(response.body, (name, data) => {
        heard();
        on[name]?.(JSON.parse(data));
      });
      on.lost(new Refused(0, "The server has ended the stream."));
    } catch (problem) {
      on.lost(problem instanceof Refused ? problem : new Refused(0, "The server has fallen silent."));
    }
    clearTimeout(timer);
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

async function read(body, tell) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const fields = Object.fromEntries(event.split("\n").map((line) => line.split(/: (.*)/s)));
      if (fields.event) tell(fields.event, fields.data);
    }
  }
}
