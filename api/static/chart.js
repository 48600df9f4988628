// A line chart of the last values. It has no axes, only a baseline and the value of its top.

import { svg } from "./dom.js";

const WIDTH = 300;
const HEIGHT = 80;

export class Chart {
  /** Shows up to `most` values of each name; `words` say how much time that is. */
  constructor(element, names, format, title, most = 900, words = "last 15 minutes") {
    Object.assign(this, { element, names, format, title, most, words });
    this.begin({});
  }

  begin(history) {
    this.lines = this.names.map((name) => (history[name] ?? []).slice(-this.most));
    this.draw();
  }

  add(now) {
    this.names.forEach((name, index) => {
      this.lines[index].push(now[name]);
      this.lines[index].splice(0, this.lines[index].length - this.most);
    });
    this.draw();
  }

  draw() {
    const known = this.lines.flat().filter((value) => value != null);
    const top = roundUp(known.reduce((one, other) => Math.max(one, other), 1));
    const last = this.lines[0].at(-1);
    const parts = [svg("line", { x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT })];
    this.lines.forEach((line, index) => {
      const path = trace(points(line, top, this.most));
      if (!path) return;
      if (index === 0) parts.push(svg("path", { class: "area", d: areas(points(line, top, this.most)) }));
      parts.push(svg("path", { class: index ? "second" : "first", d: path }));
    });
    const box = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", width: "100%", height: "80%", y: "18%" }, ...parts);
    this.element.replaceChildren(
      svg("title", {}, `${this.title}: now ${this.format(last)}, scale up to ${this.format(top)}, ${this.words}`),
      svg("text", { x: 0, y: 11 }, this.format(top)),
      svg("text", { x: "100%", y: 11, "text-anchor": "end" }, this.lines.map((line) => this.format(line.at(-1))).join(" · ")),
      box,
    );
  }
}

/** The newest value is at the right edge, and `most` values fill the width. */
function points(line, top, most) {
  return line.map((value, index) => [((index + most - line.length) / (most - 1)) * WIDTH, value == null ? null : HEIGHT * (1 - value / top)]);
}

function runs(places) {
  const found = [[]];
  for (const [x, y] of places) {
    if (y == null) found.push([]);
    else found.at(-1).push([x, y]);
  }
  return found.filter((run) => run.length);
}

// A value between two gaps is a short line, which would not be seen otherwise.
const path = (run) => `M${run.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join("L")}${run.length === 1 ? "h-1" : ""}`;
const trace = (places) => runs(places).map(path).join("");
const areas = (places) => runs(places).map((run) => `${path(run)}V${HEIGHT}H${run[0][0].toFixed(1)}Z`).join("");

/** Rounds up to 1, 2 or 5 times a power of ten. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999) ?? value;
}
