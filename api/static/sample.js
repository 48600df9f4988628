// The texts of a job that the model was least certain of, as a CSV to label. `millrace sample` chooses alike.

import { csv, stemOf, textsOf } from "./join.js";
import { request } from "./http.js";

const MAX_SHOWN = 200;
// Scores that add up to 1 within this are those of one label a text.
const ROUNDING = 0.01;

/** The name and content of the file. `file`: what was dropped here, for a job whose texts were not kept. */
export async function leastCertain(job, file) {
  const answers = await lines(job, "&texts=true").catch(async (problem) => {
    if (problem.status !== 404 || !file) throw problem;
    const [results, texts] = await Promise.all([lines(job, ""), textsOf(file, job.file)]);
    return results.map((result, index) => ({ text: texts[index], ...(Array.isArray(result) ? { prediction: result } : result) }));
  });
  const chosen = choose(answers).map(({ text, prediction }) => {
    const [best] = sorted(prediction);
    return [text, "", best.label, best.score.toFixed(4)];
  });
  return { name: `${stemOf(job)}-to-label.csv`, blob: csv([["text", "label", "predicted", "score"], ...chosen], ",") };
}

async function lines(job, more) {
  const response = await request(`jobs/${job.id}/predictions?limit=1000000${more}`, { headers: { Accept: "application/x-ndjson" } });
  return (await response.text()).split("\n").filter(Boolean).map((line) => JSON.parse(line));
}

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
