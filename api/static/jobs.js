// Jobs: sends files, shows their progress, and saves results. Rows are updated in place, so no click is lost.

import { $, Rows, age, h, say, short } from "./dom.js";
import { RequestError, request, upload } from "./http.js";
import { choices, preview, show } from "./preview.js";
import { leastCertain, stemOf } from "./sample.js";
import { tally } from "./try.js";

const UNDO_MS = 5000;
// The other labels are added up.
const LABELS = 5;

export class Jobs {
  /** `models` knows which model the files are for. */
  constructor(models) {
    this.models = models;
    this.files = new Map();
    this.rows = new Rows($("#jobs"), (job) => job.id, (job) => new Job(job, this));
    const file = $("#file");
    file.addEventListener("change", () => {
      if (file.files.length) this.choose(file.files[0]);
      file.value = "";
    });
    this.takeDrops();
  }

  /** A file may be dropped anywhere: beside the box, the browser would leave the page and open the file. */
  takeDrops() {
    for (const name of ["dragover", "dragleave", "drop"]) {
      addEventListener(name, (event) => {
        if (!event.dataTransfer?.types.includes("Files")) return;
        event.preventDefault();
        document.body.classList.toggle("dropping", name === "dragover");
        if (name === "drop" && event.dataTransfer.files.length) this.choose(event.dataTransfer.files[0]);
      });
    }
  }

  /** Shows how a file is read before it is sent. */
  async choose(file, more = {}) {
    $("#preview").hidden = true;
    await this.busy(`Reading ${file.name} …`, file, more, async () => {
      const found = await preview(file, more);
      show(file, more, found, { change: (changed) => this.choose(file, changed), start: () => this.submit(file, more) });
    });
  }

  async busy(words, file, more, action) {
    const sending = $("#sending");
    sending.hidden = false;
    say(sending, words);
    await this.attempt(() => action(sending), (problem) => this.choices(file, more, problem));
    sending.hidden = true;
  }

  async submit(file, more) {
    await this.busy(`Sending ${file.name} …`, file, more, async (sending) => {
      const model = this.models.chosen;
      const query = new URLSearchParams({ filename: file.name, keep_input: "true", ...(model && { model }), ...more });
      const job = await upload(`jobs?${query}`, file, (part) => say(sending, part < 1 ? `Sending ${file.name}: ${Math.floor(100 * part)} %` : `Reading ${file.name} …`));
      this.files.set(job.id, file);
    });
  }

  /** What the visitor may try next: another column, or to read the file in another way. */
  choices(file, more, problem) {
    const change = (changed) => this.choose(file, changed);
    const again = (words, changes) => h("button", { class: "small", type: "button", onclick: () => change({ ...more, ...changes }) }, words);
    const columns = problem.columns ?? [];
    const found = columns.map((column) => again(`Use column ${column}`, { column }));
    const { type, msg = "" } = problem.detail?.[0] ?? {};
    if (msg.includes("looks like a row")) {
      found.push(...columns.map((_, index) => again(`Without a header: use column ${index + 1}`, { header: "false", column: index + 1 })));
    }
    if (type === "string_unicode") found.push(again("Read it as Windows-1252 (Western European)", { encoding: "windows-1252" }));
    const text = type && (type !== "not_text" || msg.includes("UTF-16"));
    return text ? [...found, ...choices(more, { ...more, header: more.header !== "false" }, change).filter(Boolean)] : found;
  }

  async attempt(action, choices = () => []) {
    const problem = $("#job-problem");
    problem.hidden = true;
    try {
      await action();
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      problem.replaceChildren(h("span", {}, error.message), ...choices(error.problem));
      problem.hidden = false;
    }
  }

  take(jobs) {
    if (jobs !== null) this.rows.show(jobs);
  }

  /** Saves the file that `made` makes of a job: `labelled` or `leastCertain`. */
  save(job, made) {
    return this.attempt(async () => {
      const { name, blob } = await made(job, this.files.get(job.id));
      const url = URL.createObjectURL(blob);
      h("a", { href: url, download: name }).click();
      setTimeout(() => URL.revokeObjectURL(url), 10000);
    });
  }

  end(job) {
    return this.attempt(() => request(`jobs/${job.id}`, { method: "DELETE" }));
  }
}

/** One row. Its elements are made once, and its buttons act on the newest state of the job. */
class Job {
  constructor(job, jobs) {
    this.job = job;
    this.name = h("span", { class: "name" });
    this.status = h("span");
    this.facts = h("span", { class: "quiet end" });
    this.how = h("div", { class: "quiet" });
    this.progress = h("progress", { "aria-label": `Job ${title(job)}` });
    this.labels = h("div", { class: "bars" });
    this.save = h("button", { class: "small", type: "button", onclick: () => jobs.save(this.job, labelled) }, "Results as CSV");
    this.sample = h("button", { class: "small", type: "button", title: "A file to label: train or measure a model with it", onclick: () => jobs.save(this.job, leastCertain) }, "Least certain texts");
    this.stop = h("button", { class: "small", type: "button", onclick: () => this.cancelOrRemove(jobs) });
    this.element = h("li", { "data-job": job.id }, h("div", { class: "line" }, this.name, this.status, this.facts), this.how, this.progress, this.labels, h("div", { class: "row" }, this.save, this.sample, this.stop));
  }

  get open() {
    return this.job.status === "queued" || this.job.status === "running";
  }

  update(job) {
    this.job = job;
    this.element.dataset.status = job.status;
    say(this.name, title(job));
    say(this.status, this.removing ? "will be removed" : job.status);
    say(this.facts, facts(job));
    say(this.how, [`submitted ${new Date(job.created_at).toLocaleTimeString()}`, job.file?.description, job.file?.note].filter(Boolean).join(" · "));
    this.progress.max = job.total;
    this.progress.value = job.done;
    if (this.done !== job.done) this.labels.replaceChildren(...tally(counted(job), job.done - job.failed));
    this.done = job.done;
    this.save.hidden = !job.done;
    this.sample.hidden = job.status !== "finished";
    say(this.stop, this.open ? "Cancel" : this.removing ? "Undo" : "Remove");
  }

  /** A job is removed with its results, so there are five seconds to take it back. */
  cancelOrRemove(jobs) {
    if (this.open) {
      jobs.end(this.job);
    } else if (this.removing) {
      clearTimeout(this.removing);
      this.removing = 0;
    } else {
      this.removing = setTimeout(() => jobs.end(this.job), UNDO_MS);
    }
    this.update(this.job);
  }
}

/** The rows of the file with their results. Without the file (after a reload), the kept texts are the only column. */
async function labelled(job, file) {
  const options = { headers: { Accept: "text/csv" } };
  const results = (more) => request(`jobs/${job.id}/predictions?limit=${job.total}${more}`, options);
  const response = file
    ? await request(`jobs/${job.id}/labelled`, { ...options, method: "POST", body: file })
    : await results("&texts=true").catch((problem) => {
        if (problem.status !== 404) throw problem;
        return results(""); // its texts were not kept
      });
  return { name: `${stemOf(job)}-${job.status === "finished" ? "labelled" : "partial"}.csv`, blob: await response.blob() };
}

/** How many texts have each of the most frequent labels, and the others. */
function counted(job) {
  const shown = (job.labels ?? []).slice(0, LABELS).map(({ label, texts }) => [label, texts]);
  const others = shown.reduce((left, [, texts]) => left - texts, job.done - job.failed);
  return shown.length && others ? [...shown, ["other labels", others]] : shown;
}

const title = (job) => job.file?.name ?? job.id.slice(0, 8);

function facts(job) {
  const found = [`${short(job.done)} of ${short(job.total)} texts`];
  if (job.failed) found.push(`${short(job.failed)} failed`);
  if (job.unknown) found.push(`${short(job.unknown)} mostly unknown to the model`);
  if (job.rate) found.push(`${short(job.rate)}/s`, `${age(job.remaining_s)} left`);
  if (job.position) found.push(`position ${job.position}`);
  if (job.error) found.push(job.error.detail);
  return found.join(" · ");
}
