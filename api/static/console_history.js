// The last hours, minute by minute.

import { ask } from "./admin.js";
import { Chart } from "./chart.js";
import { $, milliseconds, short } from "./dom.js";

const MINUTE_S = 60;
const CHARTS = [
  ["#history-texts", ["worked", "answered"], short, "texts per second"],
  ["#history-p99", ["p99_ms"], milliseconds, "time within which 99 of 100 requests are answered"],
  ["#history-waiting", ["waiting"], short, "texts waiting"],
  ["#history-shed", ["shed", "refused"], short, "texts per second that were shed, and refused"],
  ["#history-workers", ["workers"], short, "workers"],
];

/** One value for each minute up to the newest; null where no API process ran. */
function byMinute(history, name) {
  const known = new Map(history.map((point) => [point.at_s, point[name]]));
  const [first, last] = [history.at(0).at_s, history.at(-1).at_s];
  return Array.from({ length: (last - first) / MINUTE_S + 1 }, (_, index) => known.get(first + index * MINUTE_S) ?? null);
}

export async function showHistory() {
  const hours = Number($("#hours").value);
  const { history } = await ask("GET", `history?minutes=${hours * 60}`);
  $("#no-history").hidden = history.length > 0;
  $("#history").hidden = history.length === 0;
  if (!history.length) return;
  for (const [element, names, format, title] of CHARTS) {
    const lines = Object.fromEntries(names.map((name) => [name, byMinute(history, name)]));
    new Chart($(element), names, format, title, hours * 60, `last ${hours} hours`).begin(lines);
  }
}
