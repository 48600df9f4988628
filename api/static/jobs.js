// The list of jobs: uploads files as jobs, shows their progress, and saves results as CSV.

import { $, age, h, short } from "./dom.js";
import { RequestError, request } from "./http.js";

const TYPES = { csv: "text/csv", json: "application/json", ndjson: "application/x-ndjson", jsonl: "application/x-ndjson" };

export class Jobs {
  constructor() {
    const drop = $("#drop");
    const file = $("#file");
    file.addEventListener("change", () => {
      if (file.files.length) this.submit(file.files[0]);
      file.value = "";
    });
    for (const name of ["dragover", "dragleave", "drop"]) {
      drop.addEventListener(name, (event) => {
        event.preventDefault();
        drop.classList.toggle("over", name === "dragover");
        if (name === "drop" && event.dataTransfer.files.length) this.submit(event.dataTransfer.files[0]);
      });
    }
  }

  async submit(file) {
    await this.attempt(async () => {
      const kind = TYPES[file.name.split(".").pop().toLowerCase()];
      const body = kind ? file : await lines(file);
      await request("jobs", { method: "POST", headers: { "Content-Type": kind ?? TYPES.ndjson }, body });
    });
  }

  async attempt(action) {
    const problem = $("#job-problem");
    problem.hidden = true;
    try {
      await action();
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      problem.textContent = error.message;
      problem.hidden = false;
    }
  }

  take(jobs) {
    if (jobs === null) return;
    const focused = document.activeElement?.dataset?.key;
    $("#jobs").replaceChildren(...jobs.map((job) => this.row(job)));
    if (focused) $(`[data-key="${focused}"]`)?.focus();
  }

  row(job) {
    const open = job.status === "queued" || job.status === "running";
    const facts = [`${short(job.done)} of ${short(job.total)} texts`];
    if (job.failed) facts.push(`${short(job.failed)} failed`);
    if (job.rate) facts.push(`${short(job.rate)}/s`, `${age(job.remaining_s)} left`);
    if (job.position) facts.push(`position ${job.position}`);
    if (job.error) facts.push(job.error.detail);
    const save = h("button", { class: "small", "data-key": `${job.id}-csv`, onclick: () => this.attempt(() => saveResults(job)) }, "Results as CSV");
    const end = h("button", { class: "small", "data-key": `${job.id}-end`, onclick: () => this.attempt(() => request(`jobs/${job.id}`, { method: "DELETE" })) }, open ? "Cancel" : "Remove");
    return h(
      "li",
      { "data-status": job.status, "data-job": job.id },
      h("div", { class: "line" }, h("span", { class: "name" }, h("code", {}, job.id.slice(0, 8))), h("span", {}, job.status), h("span", { class: "quiet end" }, facts.join(" · "))),
      h("progress", { max: job.total, value: job.done, "aria-label": `Job ${job.id.slice(0, 8)}` }),
      h("div", { class: "row" }, job.done ? save : null, end),
    );
  }
}

/** Converts the lines of a text file to NDJSON. */
async function lines(file) {
  const text = await file.text();
  return text.split(/\r?\n/).filter((line) => line.trim()).map((line) => JSON.stringify(line)).join("\n");
}

async function saveResults(job) {
  const response = await request(`jobs/${job.id}/predictions?limit=1000000`, { headers: { Accept: "text/csv" } });
  const url = URL.createObjectURL(await response.blob());
  h("a", { href: url, download: `${job.id.slice(0, 8)}.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
