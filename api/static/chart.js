// A line chart of the last 15 minutes. It has no axes, only a baseline and the value of its top.

import { svg } from "./dom.js";

const SECONDS = 900;
const WIDTH = 300;
const HEIGHT = 80;

export class Chart {
  constructor(element, names, format, title) {
    this.element = element;
    this.names = names;
    this.format = format;
    this.title = title;
    this.begin({});
  }

  begin(history) {
    this.lines = this.names.map((name) => (history[name] ?? []).slice(-SECONDS));
    this.draw();
  }

  add(now) {
    this.names.forEach((name, index) => {
      this.lines[index].push(now[name]);
      this.lines[index].splice(0, this.lines[index].length - SECONDS);
    });
    this.draw();
  }

  draw() {
    const known = this.lines.flat().filter((value) => value != null);
    const most = roundUp(Math.max(...known, 1));
    const last = this.lines[0].at(-1);
    const parts = [svg("line", { x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT })];
    this.lines.forEach((line, index) => {
      const path = trace(line, most);
      if (!path) return;
      if (index === 0) parts.push(svg("path", { class: "area", d: areas(line, most) }));
      parts.push(svg("path", { class: index ? "second" : "first", d: path }));
    });
    const box = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", width: "100%", height: "80%", y: "18%" }, ...parts);
    this.element.replaceChildren(
      svg("title", {}, `${this.title}: now ${this.format(last)}, scale up to ${this.format(most)}, last 15 minutes`),
      svg("text", { x: 0, y: 11 }, this.format(most)),
      svg("text", { x: "100%", y: 11, "text-anchor": "end" }, this.lines.map((line) => this.format(line.at(-1))).join(" · ")),
      box,
    );
  }
}

function points(line, most) {
  return line.map((value, index) => [((index + SECONDS - line.length) / (SECONDS - 1)) * WIDTH, value == null ? null : HEIGHT * (1 - value / most)]);
}

function runs(line, most) {
  const found = [[]];
  for (const [x, y] of points(line, most)) {
    if (y == null) found.push([]);
    else found.at(-1).push([x, y]);
  }
  return found.filter((run) => run.length);
}

const path = (run) => `M${run.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join("L")}`;
const trace = (line, most) => runs(line, most).map(path).join("");
const areas = (line, most) => runs(line, most).map((run) => `${path(run)}V${HEIGHT}H${run[0][0].toFixed(1)}Z`).join("");

/** Rounds up to 1, 2 or 5 times a power of ten. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999) ?? value;
}
