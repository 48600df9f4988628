// The list of workers. A worker that disappears is shown as lost for a while.

import { age, h, short } from "./dom.js";

const LOST_MS = 20000;

export class Workers {
  constructor(element) {
    this.element = element;
    this.known = new Map();
  }

  take(workers) {
    const now = Date.now();
    for (const worker of workers) this.known.set(worker.id, { worker, at: now });
    const rows = [];
    for (const [id, { worker, at }] of this.known) {
      const present = at === now;
      const stopped = worker.state === "stopping";
      if (present || (!stopped && now - at < LOST_MS)) rows.push(row(worker, present));
      else this.known.delete(id);
    }
    this.element.replaceChildren(...(rows.length ? rows : [h("li", { class: "empty" }, "No workers running")]));
  }
}

function row(worker, present) {
  const state = present ? worker.state : "lost";
  const rate = worker.rate ? `${short(worker.rate)} tokens/s` : "";
  const facts = [`${short(worker.texts)} texts in ${short(worker.batches)} batches`, rate, `up ${age(worker.age_s)}`];
  return h(
    "li",
    { "data-state": state },
    h("div", { class: "line" }, h("span", { class: "name" }, worker.id), h("span", { class: "badge end" }, state)),
    h("div", { class: "quiet" }, `${worker.revision} · ${worker.engine} ${worker.precision} · ${facts.filter(Boolean).join(" · ")}`),
  );
}
