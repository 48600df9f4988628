// Sends requests to this API, with an API key if there is one, and follows its event stream.

const KEY = "millrace-key";

/** Whether this visitor uses an API key. */
export const hasKey = () => Boolean(sessionStorage.getItem(KEY));

export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

function headers(more = {}) {
  const key = sessionStorage.getItem(KEY);
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

/** A failed request, with the server's message and the rest of its answer. `status` is 0 without an answer. */
export class RequestError extends Error {
  constructor(status, message, problem = {}) {
    super(message);
    this.status = status;
    this.problem = problem;
  }
}

export async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: headers(options.headers) });
  } catch {
    if (options.signal?.aborted) throw new RequestError(0, "The server took too long to answer, so the request was cancelled. Try again.");
    throw new RequestError(0, "The server does not answer.", { code: "unreachable" });
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  throw refused(response.status, response.statusText, problem, response.headers.get("Retry-After"));
}

function refused(status, text, problem, wait) {
  const detail = Array.isArray(problem.detail) ? problem.detail.map((one) => one.msg).join("; ") : problem.detail;
  return new RequestError(status, `${detail ?? text}${wait ? ` (try again in ${wait} s)` : ""}`, problem);
}

/** Sends a file and calls `progress` with the part that is sent, from 0 to 1; fetch cannot report it. */
export function upload(path, file, progress) {
  return new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest();
    sending.open("POST", path);
    for (const [name, value] of Object.entries(headers({ "Content-Type": "application/octet-stream" }))) sending.setRequestHeader(name, value);
    sending.responseType = "json";
    sending.upload.addEventListener("progress", (event) => progress(event.total ? event.loaded / event.total : 1));
    sending.addEventListener("error", () => reject(new RequestError(0, "The server does not answer.")));
    sending.addEventListener("load", () => {
      if (sending.status < 300) resolve(sending.response);
      else reject(refused(sending.status, sending.statusText, sending.response ?? {}, sending.getResponseHeader("Retry-After")));
    });
    sending.send(file);
  });
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
