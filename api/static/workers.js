// The list of workers. A worker that misses its heartbeats is silent, and shown as lost for a while once it is gone.

import { $, Rows, age, h, say, short } from "./dom.js";

const LOST_MS = 20000;

export class Workers {
  constructor(element) {
    this.known = new Map();
    this.rows = new Rows(element, ({ worker }) => worker.id, () => new Row());
  }

  take(workers) {
    const now = Date.now();
    for (const worker of workers) this.known.set(worker.id, { worker, at: now });
    for (const [id, { worker, at }] of this.known) {
      if (at !== now && (worker.state === "stopping" || now - at >= LOST_MS)) this.known.delete(id);
    }
    this.rows.show([...this.known.values()].map(({ worker, at }) => ({ worker, state: stateOf(worker, at === now) })));
    $("#no-workers").hidden = this.known.size > 0;
  }
}

function stateOf(worker, present) {
  if (!present) return "lost";
  return worker.silent_s ? "silent" : worker.state;
}

class Row {
  constructor() {
    this.name = h("span", { class: "name" });
    this.badge = h("span", { class: "badge end" });
    this.facts = h("div", { class: "quiet" });
    this.element = h("li", {}, h("div", { class: "line" }, this.name, this.badge), this.facts);
  }

  update({ worker, state }) {
    this.element.dataset.state = state;
    say(this.name, worker.id);
    say(this.badge, state === "silent" ? `silent ${age(worker.silent_s)}` : state);
    const rate = worker.rate ? `${short(worker.rate)} tokens/s` : "";
    const facts = [`${short(worker.texts)} texts in ${short(worker.batches)} batches`, rate, `up ${age(worker.age_s)}`];
    say(this.facts, `${worker.revision} · ${worker.engine} ${worker.precision} · ${facts.filter(Boolean).join(" · ")}`);
  }
}
