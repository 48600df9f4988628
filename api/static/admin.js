// Requests to /admin. The session of an operator is a cookie that scripts cannot read.

import { $ } from "./dom.js";

/** Begins a session with the key of an operator, or with the secret of a link, which works once. */
export const begin = (secret) => send("POST", "session", undefined, { Authorization: `Bearer ${secret}` });

export async function end() {
  await send("DELETE", "session");
  $("#key-form").hidden = false;
}

/** Sends a request to /admin. Throws an Error with the server's words if it is refused. */
export async function send(method, path, body, more) {
  const headers = { ...more, ...(body && { "Content-Type": "application/json" }) };
  let response;
  try {
    response = await fetch(`admin/${path}`, { method, headers, body: body && JSON.stringify(body) });
  } catch {
    throw new Error("The server does not answer.");
  }
  $("#key-form").hidden = response.status !== 401;
  if (response.ok) return response;
  if (response.status === 401) throw new Error(more ? "This key is not valid, or the link has been used already." : "No session.");
  const { detail } = await response.json().catch(() => ({}));
  throw new Error(Array.isArray(detail) ? detail.map((one) => `${one.loc.at(-1)}: ${one.msg}`).join("; ") : detail ?? response.statusText);
}

/** As `send`, and returns the JSON of the answer. */
export async function ask(method, path, body) {
  return (await send(method, path, body)).json();
}
