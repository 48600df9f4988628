// The operator's console: pauses, clients, refused texts, forgetting and the audit log. See docs/console.md.

import { ask, begin, end } from "./admin.js";
import { showHistory } from "./console_history.js";
import { showJobs } from "./console_jobs.js";
import { showModels } from "./console_models.js";
import { showTrace } from "./console_trace.js";
import { saveUsage, showUsage } from "./console_usage.js";
import { $, Rows, age, h, say, short } from "./dom.js";

const EVERY_MS = 2000;
// Usage and history change slowly.
const SLOW_EVERY_MS = 20000;
const SURE_MS = 5000;
const HOLD_S = 600;
// The lanes in the words of the form.
const LANES = { interactive: "requests", bulk: "jobs" };

let cursor = "", shownAt = 0;

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
  await refresh().catch(() => {}); // the next look says so, and what is wrong with the action stays in sight
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

const shards = (down) => `${down.length === 1 ? "Shard" : "Shards"} ${down.join(", ")}`;
/** What was done, and which shards know nothing of it. */
const done = (words, { shards_down: down }) => down ? `${words} ${shards(down)} did not answer: repeat this once its Redis is back.` : words;
const counted = ({ shards_down, ...counts }) => done(Object.entries(counts).map(([name, count]) => `${count} ${name.replace("_", " ")}`).join(", "), { shards_down });

const pauses = new Rows($("#pauses"), ([lane]) => lane, ([lane]) => {
  const words = h("span");
  const resume = h("button", { class: "small end", type: "button", onclick: () => change(async () => {
    return done(`Resumed: ${LANES[lane] ?? lane}.`, await ask("DELETE", `pauses/${lane}`));
  }) }, "Resume");
  return {
    element: h("li", { "data-lane": lane }, words, resume),
    update: ([, { waiting, left_s }]) => say(words, `${LANES[lane] ?? lane} are paused for ${age(left_s)}; texts that wait ${{ keep: "go on waiting", refuse: "are refused", finish: "are classified" }[waiting]}`),
  };
});

const models = new Rows($("#models"), (name) => name, (name) => ({
  element: h("option", { value: `models/${encodeURIComponent(name)}` }, `the model ${name}`),
  update: () => {},
}));

const held = new Rows($("#held"), ({ client }) => client, ({ client }) => {
  const words = h("span");
  const resume = h("button", { class: "small end", type: "button", onclick: () => change(async () => {
    return done(`${client} is no longer held back.`, await ask("POST", "clients/resume", { client }));
  }) }, "Resume");
  return {
    element: h("li", { "data-held": client }, words, resume),
    update: ({ what, left_s }) => say(words, `${client}: ${what === "all" ? "every request" : "new texts"} refused for ${age(left_s)}`),
  };
});

const clients = new Rows($("#clients"), ({ client }) => client, ({ client }) => {
  const cells = Array.from({ length: 4 }, () => h("td"));
  const hold = (what) => async () => {
    return done(`${client} is held back for ${age(HOLD_S)}.`, await ask("POST", "clients/hold", { client, what, for_s: HOLD_S }));
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
  const act = (action, name) => async () => counted(await ask("POST", `refused/${action}`, { ids: [id], model: filter().model ?? "" })) || name;
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

const refused = new Rows($("#refused"), ({ id, revision }) => `${id} ${revision}`, refusedRow);

const refusedModels = new Rows($("#refused-model"), (name) => name, (name) => ({
  element: h("option", {}, name),
  update: () => {},
}));

const audit = new Rows($("#audit"), (line) => JSON.stringify(line), ({ at, operator, address, action, ...facts }) => ({
  element: h("li", {}, h("span", {}, `${new Date(at).toLocaleString()} · ${operator} (${address}) · ${action}`), h("span", {}, Object.entries(facts).map((pair) => pair.join(" ")).join(", "))),
  update: () => {},
}));

const filter = () => Object.fromEntries([...new FormData($("#filter"))].filter(([, value]) => value));

/** All refused texts that the filter matches, of its model. */
const selected = () => {
  const { model = "", ...others } = filter();
  return { model, filter: others };
};

async function showRefused() {
  const page = await ask("GET", `refused?${new URLSearchParams({ ...filter(), ...(cursor && { cursor }) })}`);
  refused.show(page.refused);
  $("#no-refused").hidden = page.refused.length > 0;
  $("#texts-hidden").hidden = page.texts_shown;
  $("#more").hidden = !page.next_cursor;
  $("#more").dataset.cursor = page.next_cursor ?? "";
}

async function showPauses() {
  const { pauses: lanes, models: names, shards_down: down } = await ask("GET", "pauses");
  pauses.show(Object.entries(lanes));
  $("#resume-all").hidden = Object.keys(lanes).length < 2;
  models.show(names);
  refusedModels.show(names);
  $("#refused-model").parentElement.hidden = names.length < 2;
  $("#shards").hidden = !down;
  say($("#shards"), down ? `${shards(down)} of the queue ${down.length === 1 ? "does" : "do"} not answer. The figures below are those of the others.` : "");
}

async function showClients() {
  const load = await ask("GET", "clients");
  held.show(load.held);
  clients.show(load.clients);
  $("#no-clients").hidden = load.clients.length > 0;
}

async function showAudit() {
  audit.show((await ask("GET", "audit?limit=20")).audit);
}

/** Shows what can be shown, and throws what went wrong first. */
async function refresh() {
  const slow = !shownAt || performance.now() - shownAt > SLOW_EVERY_MS;
  const parts = [showPauses(), showClients(), showAudit(), showRefused(), showJobs(), ...(slow ? [showUsage(), showHistory(), showModels()] : [])];
  const failed = (await Promise.allSettled(parts)).find(({ status }) => status === "rejected");
  if (slow) shownAt = performance.now();
  if (failed) throw failed.reason;
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

/** Begins the session of a link: its secret is behind the #, and leaves the address and the history at once. */
async function enter() {
  const secret = location.hash.match(/^#link=([\w-]+)$/)?.[1];
  if (!secret) return;
  history.replaceState(null, "", location.pathname + location.search);
  await attempt(async () => {
    await begin(secret);
  });
}

function onSubmit(form, action) {
  $(form).addEventListener("submit", (event) => {
    event.preventDefault();
    change(() => action(new FormData(event.target)));
  });
}

onSubmit("#key-form", async () => {
  await begin($("#key").value.trim());
  $("#key").value = "";
});
$("#end").addEventListener("click", () => change(end));
onSubmit("#pause", () => {});
$("#pause-button").append(twice("Pause", async () => {
  if (!$("#pause").reportValidity()) return "";
  const data = new FormData($("#pause"));
  return done("Paused.", await ask("PUT", `pauses/${data.get("lane")}`, { waiting: data.get("waiting"), for_s: 60 * Number(data.get("minutes")) }));
}));
$("#resume-all").append(h("button", { class: "small", type: "button", onclick: () => change(async () => done("Resumed: all.", await ask("DELETE", "pauses/all"))) }, "Resume all"));
onSubmit("#filter", () => {
  cursor = "";
});
onSubmit("#forget", () => {});
onSubmit("#jobs-filter", () => showJobs(""));
onSubmit("#trace", (data) => showTrace(data.get("id").trim()));
$("#older-jobs").addEventListener("click", () => attempt(() => showJobs($("#older-jobs").dataset.cursor)));
$("#hours").addEventListener("change", () => attempt(showHistory));
$("#usage-csv").addEventListener("click", (event) => {
  event.preventDefault();
  attempt(saveUsage);
});
$("#more").addEventListener("click", () => {
  cursor = $("#more").dataset.cursor;
  attempt(showRefused);
});
$("#all-refused").append(twice("Try all again", async () => counted(await ask("POST", "refused/retry", selected()))), " ", twice("Delete all", async () => counted(await ask("POST", "refused/delete", selected()))));
$("#forget-button").append(twice("Forget", async () => {
  const { kind, which } = Object.fromEntries(new FormData($("#forget")));
  const answer = await ask("POST", "forget", { [kind]: which });
  return done(`${answer.keys} keys removed or changed: ${counted(answer.removed)}.`, answer);
}));
addEventListener("hashchange", () => enter().then(refresh).catch(() => {}));
enter().then(follow);
