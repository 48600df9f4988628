// Creates elements without parsing HTML, so that texts and responses can never inject markup.

export const $ = (selector) => document.querySelector(selector);

/** h("li", {class: "x", "data-y": 1, style: {width: "3px"}}, child, ...) */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "style") Object.assign(element.style, value);
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/** Sets the text of an element only if it changed, so that selections and screen readers keep their place. */
export function say(element, words) {
  if (element.textContent !== words) element.textContent = words;
}

/**
 * Updates a list in place: one row per item, known by `key(item)`, made once by `make(item)` and changed by
 * `row.update(item)`. A pressed button, the focus and a selection survive, because no row is built twice.
 */
export class Rows {
  constructor(list, key, make) {
    Object.assign(this, { list, key, make, rows: new Map() });
  }

  show(items) {
    const keys = new Set(items.map(this.key));
    for (const [key, row] of this.rows) {
      if (keys.has(key)) continue;
      row.element.remove();
      this.rows.delete(key);
    }
    items.forEach((item, index) => {
      const key = this.key(item);
      if (!this.rows.has(key)) this.rows.set(key, this.make(item));
      const row = this.rows.get(key);
      row.update(item);
      if (this.list.children[index] !== row.element) this.list.insertBefore(row.element, this.list.children[index] ?? null);
    });
  }
}

export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Formats a number with about three significant digits: 1234567 -> 1.23 M, 0.0123 -> 0.012. */
export function short(value) {
  if (value == null) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return `${(value / 1e6).toPrecision(3)} M`;
  if (size >= 1e4) return `${(value / 1e3).toPrecision(3)} k`;
  if (size >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString("en");
  return value.toPrecision(size >= 10 ? 3 : 2);
}

export function milliseconds(value) {
  if (value == null) return "–";
  return value >= 1000 ? `${(value / 1000).toPrecision(3)} s` : `${short(value)} ms`;
}

export function age(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}
