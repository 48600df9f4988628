// Sends requests to this API, with an API key if there is one, and follows its event stream.

const KEY = "millrace-key";

export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

function headers(more = {}) {
  const key = sessionStorage.getItem(KEY);
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

/** A failed request, with the server's message if there is one. `status` is 0 if there was no response. */
export class RequestError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: headers(options.headers) });
  } catch {
    throw new RequestError(0, "The server does not answer.");
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  const detail = Array.isArray(problem.detail) ? problem.detail.map((one) => one.msg).join("; ") : problem.detail;
  const wait = response.headers.get("Retry-After");
  throw new RequestError(response.status, `${detail ?? response.statusText}${wait ? ` (try again in ${wait} s)` : ""}`);
}

/** Follows the event stream and reconnects forever. Calls `on.history`, `on.frame`, and `on.lost` with the error when it ends. */
export async function follow(on) {
  for (;;) {
    const timeout = new AbortController();
    let timer;
    const restartTimer = () => {
      clearTimeout(timer);
      timer = setTimeout(() => timeout.abort(), 5000);
    };
    try {
      restartTimer();
      const response = await request("stats", { headers: { Accept: "text/event-stream" }, signal: timeout.signal, cache: "no-store" });
      await read(response.body, (name, data) => {
        restartTimer();
        on[name]?.(JSON.parse(data));
      });
      on.lost(new RequestError(0, "The server closed the connection."));
    } catch (problem) {
      on.lost(problem instanceof RequestError ? problem : new RequestError(0, "The server stopped responding."));
    }
    clearTimeout(timer);
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

async function read(body, onEvent) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const fields = Object.fromEntries(event.split("\n").map((line) => line.split(/: (.*)/s)));
      if (fields.event) onEvent(fields.event, fields.data);
    }
  }
}
