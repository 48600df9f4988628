// Requests to /admin.

import { $ } from "./dom.js";

// Apart from the key of the live view: operators have their own keys.
const KEY = "millrace-admin-key";

export const keepKey = (key) => sessionStorage.setItem(KEY, key);

/** Sends a request to /admin. Throws an Error with the server's words if it is refused. */
export async function send(method, path, body) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...(key && { Authorization: `Bearer ${key}` }), ...(body && { "Content-Type": "application/json" }) };
  let response;
  try {
    response = await fetch(`admin/${path}`, { method, headers, body: body && JSON.stringify(body) });
  } catch {
    throw new Error("The server does not answer.");
  }
  $("#key-form").hidden = response.status !== 401;
  if (response.ok) return response;
  const { detail } = await response.json().catch(() => ({}));
  throw new Error(Array.isArray(detail) ? detail.map((one) => `${one.loc.at(-1)}: ${one.msg}`).join("; ") : detail ?? response.statusText);
}

/** As `send`, and returns the JSON of the answer. */
export async function ask(method, path, body) {
  return (await send(method, path, body)).json();
}
