// The form: classifies texts and shows their labels, the cache result, and where the time went.

import { $, h, milliseconds } from "./dom.js";
import { RequestError, request, useKey } from "./http.js";

const OUTCOMES = { HIT: "cache hit", PARTIAL: "partly cached", MISS: "computed" };
const STAGES = { cache: "cache", queue: "queue", tokenize: "tokenise", model: "model" };
const LABELS = 5;

export class Try {
  constructor() {
    $("#form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.classify();
    });
    $("#texts").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.classify();
    });
    $("#key-form").addEventListener("submit", (event) => {
      event.preventDefault();
      useKey($("#key").value.trim());
      $("#key-form").hidden = true;
      $("#problem").hidden = true;
    });
  }

  askForKey() {
    $("#key-form").hidden = false;
  }

  async classify() {
    const texts = $("#texts").value.split("\n").filter((line) => line.trim());
    if (!texts.length) return this.fail("Enter a text first.");
    $("#classify").disabled = true;
    try {
      const started = performance.now();
      const response = await request("predict", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ text: texts }) });
      const { predictions } = await response.json();
      this.show(texts, predictions, response.headers, performance.now() - started);
    } catch (problem) {
      if (!(problem instanceof RequestError)) throw problem;
      if (problem.status === 401) this.askForKey();
      this.fail(problem.message);
    } finally {
      $("#classify").disabled = false;
    }
  }

  fail(words) {
    $("#problem").textContent = words;
    $("#problem").hidden = false;
    $("#timing").hidden = true;
    $("#outcome").replaceChildren();
    $("#answers").replaceChildren();
  }

  show(texts, predictions, headers, elapsedMs) {
    $("#problem").hidden = true;
    const cache = headers.get("X-Cache") ?? "";
    const stages = serverTiming(headers.get("Server-Timing") ?? "");
    const batch = stages.batch?.desc;
    const cut = Number(headers.get("X-Truncated") ?? 0);
    const chips = [h("span", { class: cache === "HIT" ? "chip hit" : "chip", "data-cache": cache }, OUTCOMES[cache] ?? cache)];
    if (batch) chips.push(h("span", { class: "chip" }, batch === "1" ? "alone in its batch" : `in a batch of ${batch}`));
    if (cut) chips.push(h("span", { class: "chip warn" }, `${cut} truncated at the model's limit`));
    chips.push(h("span", { class: "chip" }, milliseconds(stages.total?.dur ?? elapsedMs)));
    $("#outcome").replaceChildren(...chips);
    $("#waterfall").replaceChildren(...waterfall(stages));
    $("#timing").hidden = false;
    $("#answers").replaceChildren(...texts.map((text, index) => answer(text, predictions[index])));
  }
}

/** `cache;dur=0.1, batch;desc="8"` -> {cache: {dur: 0.1}, batch: {desc: "8"}} */
export function serverTiming(header) {
  const stages = {};
  for (const part of header.split(",")) {
    const [name, ...parameters] = part.trim().split(";");
    if (!name) continue;
    const found = Object.fromEntries(parameters.map((one) => one.trim().split("=")));
    stages[name] = { dur: Number(found.dur ?? 0), desc: found.desc?.replaceAll('"', "") };
  }
  return stages;
}

/** The stages one after the other. The rest of the total is spent on Redis and the event loop. */
function waterfall(stages) {
  const total = Math.max(stages.total?.dur ?? 0, 0.001);
  const rows = [];
  let at = 0;
  for (const [name, title] of Object.entries(STAGES)) {
    if (!(name in stages)) continue;
    rows.push(stage(name, title, at, stages[name].dur, total));
    at += stages[name].dur;
  }
  if (total - at > 0.001) rows.push(stage("other", "other", at, total - at, total));
  return rows;
}

function stage(name, title, at, dur, total) {
  const left = Math.min((100 * at) / total, 100);
  const width = Math.min((100 * dur) / total, 100 - left);
  return h(
    "div",
    { class: "stage", "data-stage": name },
    h("span", { class: "quiet" }, title),
    h("span", { class: "track" }, h("i", { style: { left: `${left}%`, width: `${width}%` } })),
    h("span", { class: "number" }, milliseconds(dur)),
  );
}

function answer(text, pairs) {
  const best = pairs.reduce((one, other) => (other.score > one.score ? other : one));
  const shown = pairs.length > LABELS ? [...pairs].sort((one, other) => other.score - one.score).slice(0, LABELS) : pairs;
  const bars = shown.flatMap((pair) => {
    const mark = pair === best ? " best" : "";
    return [
      h("span", { class: `label${mark}` }, pair.label),
      h("span", { class: `bar${mark}` }, h("i", { style: { width: `${100 * pair.score}%` } })),
      h("span", { class: `number${mark}` }, `${(100 * pair.score).toFixed(1)} %`),
    ];
  });
  return h("li", { "data-label": best.label }, h("span", { class: "text" }, text), h("div", { class: "bars" }, ...bars));
}
