// What is wrong now, above everything else. Each problem is one line, with its details on tap.

import { $, Rows, age, h, say, short } from "./dom.js";

export class Banners {
  constructor() {
    this.rows = new Rows($("#banners"), (problem) => problem.kind, (problem) => new Banner(problem));
  }

  take(frame) {
    this.rows.show([...problems(frame)]);
  }

  /** What was wrong is not known to be so any more. */
  clear() {
    this.rows.show([]);
  }
}

function* problems({ ready, reason, pauses, now, shards, workers, jobs }) {
  if (!ready) yield { kind: "unready", words: `Not ready: ${reason}.`, details: "Only texts in the cache are answered; other requests get an error with Retry-After." };
  const paused = Object.entries(pauses);
  if (paused.length) {
    const lanes = paused.map(([lane]) => (lane === "bulk" ? "jobs" : "requests")).join(" and ");
    yield { kind: "paused", words: `Paused by an operator: ${lanes} wait for ${age(Math.max(...paused.map(([, { left_s }]) => left_s)))}.`, details: "Texts in the cache are answered; other requests get an error with Retry-After, and jobs go on after the pause. Operators can end it in the console." };
  }
  if (shards.count > 1 && shards.down.length) yield { kind: "shards", words: `${shards.down.length} of ${shards.count} shards: no answer.`, details: `The texts of shard ${shards.down.join(", ")} get an error with Retry-After until Redis is back; all others are answered.` };
  if (now.shed > 0) yield { kind: "shed", words: `Overloaded: ${short(now.shed)} texts per second are refused.`, details: "More texts arrive than the workers can compute in time. Clients get 429 and may retry after Retry-After. More workers help: millrace up --workers N." };
  const silent = workers.filter((worker) => worker.silent_s);
  if (silent.length) yield { kind: "silent", words: `${silent.length} of ${workers.length} workers: silent for ${age(Math.max(...silent.map((worker) => worker.silent_s)))}.`, details: `${silent.map((worker) => worker.id).join(", ")}. If a worker has died, its texts go to another after one lease.` };
  const fallen = workers.filter((worker) => worker.fallback);
  if (fallen.length) {
    const arithmetics = [...new Set(fallen.map((worker) => worker.arithmetic))].join(", ");
    yield { kind: "fallback", words: `${fallen.length} of ${workers.length} workers fell back to ${arithmetics}.`, details: fallen.map((worker) => `${worker.id}: ${worker.fallback}`).join("\n") };
  }
  const failed = (jobs ?? []).filter((job) => job.failed || job.status === "failed");
  if (failed.length) yield { kind: "jobs", words: `${failed.length} ${failed.length === 1 ? "job has" : "jobs have"} errors.`, details: failed.map(jobError).join("\n") };
}

function jobError(job) {
  const name = job.file?.name ?? job.id.slice(0, 8);
  return job.error ? `${name}: ${job.error.detail}` : `${name}: ${short(job.failed)} of ${short(job.total)} texts; the column error of its results says why`;
}

class Banner {
  constructor({ kind }) {
    this.words = h("summary");
    this.details = h("p");
    this.element = h("li", { "data-problem": kind }, h("details", {}, this.words, this.details));
  }

  update({ words, details }) {
    say(this.words, words);
    say(this.details, details);
  }
}
