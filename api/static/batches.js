// The latest batches as blocks. The width is the number of computed tokens; padding has another colour.

import { h, milliseconds } from "./dom.js";

const SHOWN = 12;
const WIDEST_TOKENS = 64;
// Why a batch was closed, in words.
const REASONS = {
  full: "more texts were waiting",
  bulk: "texts of jobs in a small batch, so that requests, which come meanwhile, wait less",
  window: "closed after the longest wait for more texts",
  idle: "closed at once: nothing else was waiting",
  solo: "a text that runs alone, because a worker had stopped while it held it",
};

export class Batches {
  constructor(element) {
    this.element = element;
    this.seen = new Map();
    this.widths = [];
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
    if (fresh.length) this.show(fresh.slice(-SHOWN).reverse());
    return fresh;
  }

  /** Shows the batch of an answer at once. The worker reports it, with its tokens, a second or two later. */
  answered(size, modelMs) {
    this.element.querySelector(".empty, .answered")?.remove();
    this.element.prepend(h("li", { class: "answered" }, h("span"), facts(size, modelMs)));
    this.trim();
  }

  trim() {
    while (this.element.children.length > SHOWN) this.element.lastElementChild.remove();
  }

  /** Adds rows above the others, which stay as they are, open or not. */
  show(fresh) {
    this.element.querySelector(".empty, .answered")?.remove();
    this.element.prepend(...fresh.map(row));
    this.trim();
    this.widths = [...fresh.map((one) => one.computed), ...this.widths].slice(0, SHOWN);
    this.element.style.setProperty("--widest", Math.max(WIDEST_TOKENS, ...this.widths));
  }
}

function row({ size, tokens, computed, reason, queueMs, modelMs }) {
  const padding = computed > tokens ? `, ${Math.round(100 * (1 - tokens / computed))} % padding` : "";
  const block = h("span", { class: "block" }, h("i", { style: { width: `${(100 * tokens) / computed}%` } }));
  block.style.setProperty("--tokens", computed);
  return h(
    "li",
    { "data-reason": reason },
    h(
      "details",
      {},
      h("summary", {}, h("span", { class: "room" }, block), facts(size, modelMs)),
      h("p", { class: "quiet" }, `${tokens} tokens${padding}; ${REASONS[reason] ?? reason}; waited ${milliseconds(queueMs)}, ran ${milliseconds(modelMs)}`),
    ),
  );
}

function facts(size, modelMs) {
  return h("span", { class: "facts" }, h("b", {}, `${size} ${size === 1 ? "text" : "texts"}`), ` · ${milliseconds(modelMs)}`);
}
