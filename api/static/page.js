// Connects the parts of the page to the event stream. The forms send their own requests.

import { Batches } from "./batches.js";
import { Chart } from "./chart.js";
import { $, milliseconds, short } from "./dom.js";
import { follow } from "./http.js";
import { Jobs } from "./jobs.js";
import { Race } from "./race.js";
import { Try } from "./try.js";
import { Workers } from "./workers.js";

const race = new Race($("#race"));
const batches = new Batches($("#batches"));
const workers = new Workers($("#workers"));
const jobs = new Jobs();
const form = new Try();
const charts = [
  new Chart($("#chart-texts"), ["worked", "answered"], short, "texts per second"),
  new Chart($("#chart-p99"), ["p99_ms"], milliseconds, "99th percentile"),
  new Chart($("#chart-waiting"), ["waiting"], short, "entries waiting"),
];

function figure(name, value) {
  $(`[data-figure="${name}"]`).textContent = value;
}

// Says that workers do not run the requested arithmetic; the title of the element says why, for each of them.
function setFallback(workers) {
  const fallen = workers.filter((worker) => worker.fallback);
  const arithmetics = [...new Set(fallen.map((worker) => worker.arithmetic))].join(", ");
  const words = fallen.length ? `${fallen.length} of ${workers.length} workers fell back to ${arithmetics}` : "";
  if ($("#fallback").textContent !== words) $("#fallback").textContent = words;
  $("#fallback").title = fallen.map((worker) => `${worker.id}: ${worker.fallback}`).join("\n");
  $("#fallback").hidden = !fallen.length;
}

function setState(state, words) {
  $("#state").dataset.state = state;
  if ($("#state .words").textContent !== words) $("#state .words").textContent = words;
  document.body.classList.toggle("stale", state === "gone");
}

follow({
  history(history) {
    charts.forEach((chart) => chart.begin(history));
  },
  frame(frame) {
    const { now, model } = frame;
    setState(frame.ready ? "ready" : "unready", frame.ready ? "Ready" : `Not ready: ${frame.reason}`);
    $("#model").textContent = model ? `${model.name} · ${model.revision} · ${model.engine} ${model.precision}` : "";
    setFallback(frame.workers);
    figure("waiting", short(now.waiting));
    figure("in_flight", short(frame.in_flight));
    figure("worked", short(now.worked));
    figure("answered", short(now.answered));
    figure("hits", now.answered ? `${Math.round((100 * now.hits) / now.answered)} %` : "–");
    figure("p99", milliseconds(now.p99_ms));
    const fresh = batches.take(frame.workers);
    race.take(frame, fresh);
    charts.forEach((chart) => chart.add(now));
    workers.take(frame.workers);
    jobs.take(frame.jobs);
  },
  lost(problem) {
    if (problem.status === 401) form.askForKey();
    setState("gone", problem.status === 401 ? "An API key is required" : `${problem.message} Trying again …`);
    race.still();
  },
});
