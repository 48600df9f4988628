// The texts of a job that the model was least certain of, as a CSV to label. `millrace sample` chooses alike.

import { request } from "./http.js";

const MAX_SHOWN = 200;
// Scores that add up to 1 within this are those of one label a text.
const ROUNDING = 0.01;

/** What the names of files that are made of this job begin with. */
export const stemOf = (job) => (job.file?.name ?? job.id.slice(0, 8)).replace(/\.(gz|zst)$/i, "").replace(/\.[^.]*$/, "");

/** The name and content of the file. The texts of files that are sent here are kept. */
export async function leastCertain(job) {
  const response = await request(`jobs/${job.id}/predictions?limit=${job.total}&texts=true`, { headers: { Accept: "application/x-ndjson" } });
  const answers = (await response.text()).split("\n").filter(Boolean).map((line) => JSON.parse(line));
  const chosen = choose(answers).map(({ text, prediction }) => {
    const [best] = sorted(prediction);
    return [text, "", best.label, best.score.toFixed(4)];
  });
  return { name: `${stemOf(job)}-to-label.csv`, blob: csv([["text", "label", "predicted", "score"], ...chosen]) };
}

const quoted = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);

const csv = (rows) => new Blob(rows.map((row) => `${row.map(quoted).join(",")}\r\n`), { type: "text/csv" });

/** The most doubtful answers first, each text once, without those that failed. */
function choose(answers) {
  const different = new Map();
  for (const answer of answers) {
    const key = answer.text?.toLowerCase().split(/\s+/).join(" ").trim();
    if (answer.prediction && key !== undefined && !different.has(key)) different.set(key, answer);
  }
  return [...different.values()].sort((one, other) => doubt(other.prediction) - doubt(one.prediction)).slice(0, MAX_SHOWN);
}

/** From 0 to 1: how near the best two scores are or, where a text may have several labels, how near one is to 0.5. */
function doubt(prediction) {
  const scores = sorted(prediction).map((pair) => pair.score);
  const sum = scores.reduce((total, score) => total + score, 0);
  if (scores.length > 1 && Math.abs(sum - 1) < ROUNDING) return 1 - (scores[0] - scores[1]);
  return 1 - 2 * Math.min(...scores.map((score) => Math.abs(score - 0.5)));
}

const sorted = (prediction) => [...prediction].sort((one, other) => other.score - one.score);
