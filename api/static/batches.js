// The latest batches as blocks. The width is the number of computed tokens; padding has another colour.

import { h, milliseconds } from "./dom.js";

const SHOWN = 12;
const WIDEST_TOKENS = 64;

export class Batches {
  constructor(element) {
    this.element = element;
    this.seen = new Map();
    this.rows = [];
    this.widest = WIDEST_TOKENS;
  }

  /** Shows the batches that are new since the last frame, and returns them, oldest first. */
  take(workers) {
    const fresh = [];
    for (const worker of workers) {
      const last = this.seen.get(worker.id);
      for (const [number, size, tokens, computed, reason, queueMs, modelMs] of worker.recent) {
        if (last === undefined || number > last) fresh.push({ number, size, tokens, computed, reason, queueMs, modelMs });
      }
      this.seen.set(worker.id, worker.batches);
    }
    for (const id of this.seen.keys()) {
      if (!workers.some((worker) => worker.id === id)) this.seen.delete(id);
    }
    if (fresh.length) {
      this.rows = [...fresh.slice(-SHOWN).reverse(), ...this.rows].slice(0, SHOWN);
      this.widest = Math.max(WIDEST_TOKENS, ...this.rows.map((row) => row.computed));
      this.element.replaceChildren(...this.rows.map((row) => this.row(row)));
    }
    return fresh;
  }

  row({ size, tokens, computed, reason, queueMs, modelMs }) {
    const padding = computed > tokens ? `, ${Math.round(100 * (1 - tokens / computed))} % padding` : "";
    const texts = `${size} ${size === 1 ? "text" : "texts"}`;
    const summary = `${texts}, ${tokens} tokens${padding}, closed by: ${reason}, waited ${milliseconds(queueMs)}, ran ${milliseconds(modelMs)}`;
    return h(
      "li",
      { "data-reason": reason, title: summary },
      h("div", { class: "block", style: { width: `${(100 * computed) / this.widest}%` } }, h("i", { style: { width: `${(100 * tokens) / computed}%` } })),
      h("span", { class: "facts" }, h("b", {}, texts), ` · ${reason} · ${milliseconds(modelMs)}`),
    );
  }
}
