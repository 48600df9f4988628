// Sends 50 new texts in one request, or one by one, and compares the times: what batching is for.

import { $, h, milliseconds, say } from "./dom.js";
import { RequestError } from "./http.js";
import { classify, serverTiming } from "./try.js";

const TEXTS = 50;
const WAYS = { together: "50 at once", single: "50 one by one" };
// Short words, so that all 50 texts fit into one batch.
const WORDS = [
  ["Warm", "Cold", "Old", "New", "Good", "Bad", "Slow", "Fast", "Big", "Small", "Dark", "Light", "Sad", "Happy", "Long", "Short", "Loud", "Quiet", "Great", "Poor"],
  ["film", "plot", "soup", "phone", "hotel", "song", "book", "staff", "trip", "garden", "room", "show", "game", "story", "food", "view", "bed", "crew", "cast", "end"],
  ["was", "is", "felt", "looks", "seems", "stays", "gets", "sounds"],
  ["great", "awful", "fine", "dull", "fun", "weak", "strong", "nice", "poor", "sweet", "boring", "lovely", "wrong", "right", "cheap", "fresh"],
  ["today", "again", "now", "here", "there", "to me", "to us", "at last", "at first", "as ever"],
];

export class Compare {
  constructor(race) {
    this.race = race;
    this.times = {};
    this.running = false;
    for (const way of Object.keys(WAYS)) $(`#${way}`).addEventListener("click", () => this.run(way));
  }

  async run(way) {
    if (this.running) return;
    this.running = true;
    const texts = newTexts();
    this.show(way, "sending …");
    try {
      const began = performance.now();
      const sizes = way === "together" ? [await this.send(texts)] : await this.oneByOne(texts, way);
      this.times[way] = performance.now() - began;
      this.show(way, `${milliseconds(this.times[way])} · ${batches(sizes)}`);
    } catch (problem) {
      if (!(problem instanceof RequestError)) throw problem;
      this.show(way, problem.message);
      this.race.own(0);
    }
    this.running = false;
  }

  async oneByOne(texts, way) {
    const sizes = [];
    for (const text of texts) {
      sizes.push(await this.send([text]));
      this.show(way, `${sizes.length} of ${TEXTS} …`);
    }
    return sizes;
  }

  /** Sends one request. Returns the size of its batch. */
  async send(texts) {
    this.race.own(texts.length);
    const response = await classify(texts);
    await response.arrayBuffer();
    const size = Number(serverTiming(response.headers.get("Server-Timing") ?? "").batch?.desc ?? 0);
    this.race.answered(size, texts.length);
    return size;
  }

  show(way, words) {
    $("#comparison").hidden = false;
    const longest = Math.max(...Object.values(this.times), 1);
    for (const [name, time] of Object.entries(this.times)) $(`#${name}-bar`).replaceChildren(h("i", { style: { width: `${(100 * time) / longest}%` } }));
    say($(`#${way}-time`), words);
    const { together, single } = this.times;
    if (together && single) say($("#verdict"), `At once: ${(single / together).toPrecision(2)} times as fast, because the texts go through the model together.`);
  }
}

/** Texts that no cache is likely to know: half a million are possible. */
function newTexts() {
  const pick = (words) => words[Math.floor(Math.random() * words.length)];
  return Array.from({ length: TEXTS }, () => `${WORDS.map(pick).join(" ")}.`);
}

function batches(sizes) {
  if (sizes.length === 1) return sizes[0] >= TEXTS ? "one batch" : `batches of up to ${sizes[0]}`;
  return sizes.every((size) => size === 1) ? `${sizes.length} batches of one` : `${sizes.length} batches, of up to ${Math.max(...sizes)}`;
}
