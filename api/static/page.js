// Connects the parts of the page to the event stream. The forms send their own requests.

import { Banners } from "./banners.js";
import { Batches } from "./batches.js";
import { Chart } from "./chart.js";
import { Compare } from "./compare.js";
import { Copy } from "./copy.js";
import { $, milliseconds, say, short } from "./dom.js";
import { follow, hasKey } from "./http.js";
import { Jobs } from "./jobs.js";
import { Models } from "./models.js";
import { Race } from "./race.js";
import { Try } from "./try.js";
import { Workers } from "./workers.js";

const race = new Race($("#race"));
const banners = new Banners();
const batches = new Batches($("#batches"));
const workers = new Workers($("#workers"));
const models = new Models();
const jobs = new Jobs(models);
const form = new Try(race, models, batches);
const charts = [
  new Chart($("#chart-texts"), ["worked", "answered"], short, "texts per second"),
  new Chart($("#chart-p99"), ["p99_ms"], milliseconds, "time within which 99 of 100 requests are answered"),
  new Chart($("#chart-waiting"), ["waiting"], short, "texts waiting"),
];
new Compare(race);
const copy = new Copy(() => form.lines().map(({ text }) => text));

function figure(name, value) {
  say($(`[data-figure="${name}"]`), value);
}

function setState(state, words) {
  $("#state").dataset.state = state;
  say($("#state .words"), words);
  document.body.classList.toggle("stale", state === "gone");
}

/** What the service says of itself, unless all of its workers are stopping, or none has been heard of lately. */
function describe(frame) {
  if (!frame.ready) return ["unready", "Not ready"];
  if (Object.keys(frame.pauses).length) return ["paused", "Paused"];
  if (!frame.workers.length) return ["ready", "Ready"];
  if (frame.workers.every((worker) => worker.state === "stopping")) return ["unready", "Stopping"];
  return frame.workers.every((worker) => worker.silent_s) ? ["unready", "Ready?"] : ["ready", "Ready"];
}

follow({
  history(history) {
    charts.forEach((chart) => chart.begin(history));
  },
  frame(frame) {
    const { now, model } = frame;
    setState(...describe(frame));
    form.back();
    banners.take(frame);
    say($("#model"), model ? `${model.name} · ${model.revision} · ${model.engine} ${model.precision}` : "");
    models.take(frame.models);
    if (model) copy.model = model.name;
    figure("waiting", short(now.waiting));
    figure("worked", `${short(now.worked)}/s`);
    figure("answered", `${short(now.answered)}/s`);
    figure("hits", now.answered ? `${Math.round((100 * now.hits) / now.answered)} %` : "–");
    figure("p99", milliseconds(now.p99_ms));
    const fresh = batches.take(frame.workers);
    if (fresh.length) figure("batch", short(Math.max(...fresh.map((batch) => batch.size))));
    race.take(frame, fresh);
    charts.forEach((chart) => chart.add(now));
    workers.take(frame.workers);
    jobs.take(frame.jobs);
    // 50 requests would count against the limits of a key, so they are offered only where keys are not set.
    $("#compare").hidden = hasKey();
  },
  lost(problem) {
    if (problem.problem.code === "unreachable") banners.clear();
    if (problem.status === 401) form.askForKey();
    setState("gone", problem.status === 401 ? "An API key is required" : `${problem.message} Trying again …`);
    race.still();
  },
});
