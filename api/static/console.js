// The operator's console: pauses, clients, refused texts, forgetting and the audit log. See docs/console.md.

import { $, Rows, age, h, say, short } from "./dom.js";

// Apart from the key of the live view: operators have their own keys.
const KEY = "millrace-admin-key";
const EVERY_MS = 2000;
const SURE_MS = 5000;
const HOLD_S = 600;

let cursor = "";

/** Sends a request to /admin and returns its JSON. Throws an Error with the server's words. */
async function ask(method, path, body) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...(key && { Authorization: `Bearer ${key}` }), ...(body && { "Content-Type": "application/json" }) };
  let response;
  try {
    response = await fetch(`admin/${path}`, { method, headers, body: body && JSON.stringify(body) });
  } catch {
    throw new Error("The server does not answer.");
  }
  const answer = await response.json().catch(() => ({}));
  $("#key-form").hidden = response.status !== 401;
  if (response.ok) return answer;
  throw new Error(Array.isArray(answer.detail) ? answer.detail.map((one) => `${one.loc.at(-1)}: ${one.msg}`).join("; ") : answer.detail ?? response.statusText);
}

/** Runs an action, says what it did or why not, and shows what has changed. */
async function attempt(action) {
  try {
    const words = await action();
    $("#problem").hidden = true;
    if (words) say($("#done"), words);
  } catch (error) {
    say($("#problem"), error.message);
    $("#problem").hidden = false;
  }
}

async function change(action) {
  await attempt(action);
  await attempt(refresh);
}

/** A button that acts only when it is pressed a second time within five seconds. */
function twice(words, action) {
  let timer = 0;
  const button = h("button", { class: "small", type: "button" }, words);
  const reset = () => {
    clearTimeout(timer);
    timer = 0;
    button.classList.remove("sure");
    say(button, words);
  };
  button.addEventListener("click", () => {
    if (timer) {
      reset();
      change(action);
    } else {
      button.classList.add("sure");
      say(button, `Really ${words.toLowerCase()}?`);
      timer = setTimeout(reset, SURE_MS);
    }
  });
  return button;
}

const counted = (counts) => Object.entries(counts).map(([name, count]) => `${count} ${name.replace("_", " ")}`).join(", ");

const pauses = new Rows($("#pauses"), ([lane]) => lane, ([lane]) => {
  const words = h("span");
  const resume = h("button", { class: "small end", type: "button", onclick: () => change(async () => {
    await ask("DELETE", `pauses/${lane}`);
    return `${lane} goes on.`;
  }) }, "Resume");
  return {
    element: h("li", { "data-lane": lane }, words, resume),
    update: ([, { waiting, left_s }]) => say(words, `${lane} is paused for ${age(left_s)}: what waits ${{ keep: "waits", refuse: "is refused", finish: "is classified" }[waiting]}`),
  };
});

const held = new Rows($("#held"), ({ client }) => client, ({ client }) => {
  const words = h("span");
  const resume = h("button", { class: "small end", type: "button", onclick: () => change(async () => {
    await ask("POST", "clients/resume", { client });
    return `${client} may go on.`;
  }) }, "Resume");
  return {
    element: h("li", { "data-held": client }, words, resume),
    update: ({ what, left_s }) => say(words, `${client}: ${what === "all" ? "every request" : "new texts"} refused for ${age(left_s)}`),
  };
});

const clients = new Rows($("#clients"), ({ client }) => client, ({ client }) => {
  const cells = Array.from({ length: 4 }, () => h("td"));
  const hold = (what) => async () => {
    await ask("POST", "clients/hold", { client, what, for_s: HOLD_S });
    return `${client} is held back for ${age(HOLD_S)}.`;
  };
  return {
    element: h("tr", { "data-client": client }, h("td", {}, client), ...cells, h("td", {}, twice("Pause", hold("all")), " ", twice("Shed", hold("uncached")))),
    update: ({ waiting, texts_s, hits_s, refused_s }) => {
      const words = [short(waiting), short(texts_s), texts_s ? `${Math.round(100 * hits_s / texts_s)} %` : "–", short(refused_s)];
      words.forEach((word, index) => say(cells[index], word));
    },
  };
});

function refusedRow({ id }) {
  const act = (action, name) => async () => counted(await ask("POST", `refused/${action}`, { ids: [id] })) || name;
  const words = h("span"), facts = h("span", { class: "quiet" }), text = h("code");
  const retry = h("button", { class: "small end", type: "button", onclick: () => change(act("retry")) }, "Try again");
  const release = h("button", { class: "small", type: "button", onclick: () => change(act("release")) }, "Release");
  return {
    element: h("li", { "data-refused": id }, words, facts, text, retry, release, twice("Delete", act("delete"))),
    update: (record) => {
      say(words, `${record.code} · ${new Date(record.at_ms).toLocaleString()}`);
      say(facts, [record.client, `${record.attempts} attempts`, record.workers.join(", "), record.revision.slice(0, 12), id.slice(0, 12)].filter(Boolean).join(" · "));
      say(text, record.text ?? "");
      retry.hidden = !record.text_held;
      release.hidden = record.code !== "poison";
    },
  };
}

const refused = new Rows($("#refused"), ({ id }) => id, refusedRow);

const audit = new Rows($("#audit"), (line) => JSON.stringify(line), ({ at, operator, address, action, ...facts }) => ({
  element: h("li", {}, h("span", {}, `${new Date(at).toLocaleString()} · ${operator} (${address}) · ${action}`), h("span", {}, Object.entries(facts).map((pair) => pair.join(" ")).join(", "))),
  update: () => {},
}));

const filter = () => Object.fromEntries([...new FormData($("#filter"))].filter(([, value]) => value));

async function showRefused() {
  const page = await ask("GET", `refused?${new URLSearchParams({ ...filter(), ...(cursor && { cursor }) })}`);
  refused.show(page.refused);
  $("#no-refused").hidden = page.refused.length > 0;
  $("#texts-hidden").hidden = page.texts_shown;
  $("#more").hidden = !page.next_cursor;
  $("#more").dataset.cursor = page.next_cursor ?? "";
}

async function refresh() {
  const [paused, load, lines] = await Promise.all([ask("GET", "pauses"), ask("GET", "clients"), ask("GET", "audit?limit=20"), showRefused()]);
  pauses.show(Object.entries(paused.pauses));
  held.show(load.held);
  clients.show(load.clients);
  $("#no-clients").hidden = load.clients.length > 0;
  audit.show(lines.audit);
}

async function follow() {
  for (;;) {
    let ready = true;
    try {
      await refresh();
      $("#problem").hidden ||= $("#problem").textContent === "The server does not answer.";
    } catch (error) {
      ready = false;
      say($("#problem"), error.message);
      $("#problem").hidden = false;
    }
    $("#state").dataset.state = ready ? "ready" : "gone";
    say($("#state .words"), ready ? "Connected" : "Not connected");
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}

function onSubmit(form, action) {
  $(form).addEventListener("submit", (event) => {
    event.preventDefault();
    change(() => action(new FormData(event.target)));
  });
}

onSubmit("#key-form", () => {
  sessionStorage.setItem(KEY, $("#key").value);
});
onSubmit("#pause", async (data) => {
  await ask("PUT", `pauses/${data.get("lane")}`, { waiting: data.get("waiting"), for_s: 60 * Number(data.get("minutes")) });
  return "Paused.";
});
onSubmit("#filter", () => {
  cursor = "";
});
onSubmit("#forget", () => {});
$("#more").addEventListener("click", () => {
  cursor = $("#more").dataset.cursor;
  attempt(showRefused);
});
$("#all-refused").append(twice("Try all again", async () => counted(await ask("POST", "refused/retry", { filter: filter() }))), " ", twice("Delete all", async () => counted(await ask("POST", "refused/delete", { filter: filter() }))));
$("#forget-button").append(twice("Forget", async () => {
  const { kind, which } = Object.fromEntries(new FormData($("#forget")));
  const answer = await ask("POST", "forget", { [kind]: which });
  return `${answer.keys} keys removed or changed: ${counted(answer.removed)}.`;
}));
follow();
