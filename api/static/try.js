// The form: classifies texts and shows their labels, the cache result, and where the time went.

import { $, h, milliseconds, say, short } from "./dom.js";
import { RequestError, request, useKey } from "./http.js";

const OUTCOMES = { HIT: "from the cache", PARTIAL: "partly from the cache", MISS: "computed" };
const STAGES = { cache: "cache", queue: "queue", tokenize: "tokenise", model: "model" };
const LABELS = 5;
// More texts than this have a summary above their answers.
const MANY = 10;
const WORKING_MS = 300;
// The service gives up after 10 s unless a client asks for longer; a little later nothing can come any more.
const BUDGET_MS = 12000;

export class Try {
  /** `race` and `batches` show the visitor's own texts, too; `models` knows which model is chosen. */
  constructor(race, models, batches) {
    Object.assign(this, { race, models, batches });
    this.running = false;
    this.unreachable = false;
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

  /** The texts. Blank lines are not sent, so the number of a line is kept beside its text. */
  lines() {
    return $("#texts").value.split("\n").map((text, index) => ({ text, line: index + 1 })).filter(({ text }) => text.trim());
  }

  /** The service is there: an error that says it is not is no longer true. */
  back() {
    if (this.unreachable) $("#problem").hidden = true;
    this.unreachable = false;
  }

  async classify() {
    if (this.running) return;
    const lines = this.lines();
    if (!lines.length) return this.fail("Enter a text first.");
    this.start(lines.length);
    const working = setTimeout(() => $("#outcome").replaceChildren(h("span", { class: "chip" }, "Working …")), WORKING_MS);
    try {
      const started = performance.now();
      const texts = lines.map(({ text }) => text);
      const response = await classify(texts, this.models.route);
      const { predictions } = await response.json();
      this.show(texts, predictions, response.headers, performance.now() - started);
    } catch (problem) {
      if (!(problem instanceof RequestError)) throw problem;
      if (problem.status === 401) this.askForKey();
      this.race.own(0);
      this.fail(inLines(problem, lines));
      this.unreachable = problem.problem?.code === "unreachable";
    } finally {
      clearTimeout(working);
      this.running = false;
      $("#classify").removeAttribute("aria-disabled");
    }
  }

  /** The button keeps the focus: `disabled` would give it to the top of the page. */
  start(count) {
    this.running = true;
    this.race.own(count);
    $("#classify").setAttribute("aria-disabled", "true");
    $("#problem").hidden = true;
    $("#outcome").replaceChildren();
  }

  fail(words) {
    say($("#problem"), words);
    $("#problem").hidden = false;
    $("#timing").hidden = true;
    $("#outcome").replaceChildren();
    $("#summary").replaceChildren();
    $("#answers").replaceChildren();
  }

  show(texts, predictions, headers, elapsedMs) {
    const cache = headers.get("X-Cache") ?? "";
    const stages = serverTiming(headers.get("Server-Timing") ?? "");
    const batch = Number(stages.batch?.desc ?? 0);
    const cut = Number(headers.get("X-Truncated") ?? 0);
    const unknown = Number(headers.get("X-Unknown") ?? 0);
    const chips = [h("span", { class: cache === "HIT" ? "chip hit" : "chip", "data-cache": cache }, OUTCOMES[cache] ?? cache)];
    if (batch) chips.push(h("span", { class: "chip" }, batch === 1 ? "alone in its batch" : `in a batch of ${batch}`));
    if (cut) chips.push(h("span", { class: "chip warn" }, `${cut} truncated at the model's limit`));
    if (unknown) chips.push(h("span", { class: "chip warn" }, unknown === 1 && texts.length === 1 ? "mostly unknown to the model" : `${unknown} mostly unknown to the model`));
    chips.push(h("span", { class: "chip" }, milliseconds(stages.total?.dur ?? elapsedMs)));
    $("#outcome").replaceChildren(...chips);
    this.race.answered(batch, texts.length);
    if (batch) {
      say($('[data-figure="batch"]'), short(batch)); // the event stream has it a second later
      this.batches.answered(batch, stages.model?.dur);
    }
    $("#waterfall").replaceChildren(...waterfall(stages));
    $("#timing").hidden = false;
    $("#summary").replaceChildren(...(texts.length > MANY ? summary(predictions) : []));
    $("#answers").replaceChildren(...texts.map((text, index) => answer(text, predictions[index])));
    $("#answers").scrollTop = 0;
    if (!inSight($("#answers"))) $("#answers-title").scrollIntoView({ block: "start" });
  }
}

/** POST /predict, or the route of another model, given up when no answer can come any more. */
export function classify(texts, route = "predict") {
  return request(route, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ text: texts }),
    signal: AbortSignal.timeout(BUDGET_MS),
  });
}

/** The service counts texts from 0; a visitor counts lines from 1. */
function inLines(problem, lines) {
  const at = lines[problem.problem.index];
  return at ? problem.message.replace(/^text \d+:?/, `Line ${at.line}:`) : problem.message;
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
  if (total - at > 0.001) rows.push(stage("other", "Redis, other", at, total - at, total));
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

/** Whether the first answers can be seen without scrolling. */
function inSight(list) {
  const { top } = list.getBoundingClientRect();
  return top >= 0 && top < innerHeight - 240;
}

const bestOf = (pairs) => pairs.reduce((one, other) => (other.score > one.score ? other : one));

/** How many texts have each label, most first. */
function summary(predictions) {
  const counts = new Map();
  for (const { label } of predictions.map(bestOf)) counts.set(label, (counts.get(label) ?? 0) + 1);
  return tally([...counts].sort(([, one], [, other]) => other - one), predictions.length);
}

/** A bar for each label and its number of texts. */
export function tally(counts, total) {
  return counts.flatMap(([label, count]) => [
    h("span", { class: "label" }, label),
    h("span", { class: "bar best" }, h("i", { style: { width: `${(100 * count) / total}%` } })),
    h("span", { class: "number" }, short(count)),
  ]);
}

function answer(text, pairs) {
  const best = bestOf(pairs);
  const sorted = pairs.length > LABELS ? [...pairs].sort((one, other) => other.score - one.score) : pairs;
  const rest = sorted.slice(LABELS);
  return h(
    "li",
    { "data-label": best.label },
    h("span", { class: "text" }, text),
    bars(sorted.slice(0, LABELS), best),
    rest.length ? h("details", {}, h("summary", { class: "quiet" }, rest.length === 1 ? "1 more label" : `${rest.length} more labels`), bars(rest, best)) : null,
  );
}

function bars(pairs, best) {
  const cells = pairs.flatMap((pair) => {
    const mark = pair === best ? " best" : "";
    return [
      h("span", { class: `label${mark}` }, pair.label),
      h("span", { class: `bar${mark}` }, h("i", { style: { width: `${100 * pair.score}%` } })),
      h("span", { class: `number${mark}` }, `${(100 * pair.score).toFixed(1)} %`),
    ];
  });
  return h("div", { class: "bars" }, ...cells);
}
