// Shows the first rows of a file before it becomes a job, and lets the visitor change how they are read.

import { $, h } from "./dom.js";
import { request } from "./http.js";

// The beginning of a file of text shows how it is read; tables with types have their columns at the end.
const HEAD_BYTES = 1024 * 1024;
const TYPED = ["PAR1", "ARRO", "PK\u0003\u0004", "\u00ff\u00ff\u00ff\u00ff"];
const FORMATS = ["csv", "tsv", "ndjson", "json", "txt"];
const DELIMITERS = { ",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars" };
const ENCODINGS = ["utf-8", "utf-16", "windows-1252", "iso-8859-2", "windows-1251", "shift_jis", "gb18030", "big5", "euc-kr"];

/** How the service reads a file, with these parameters. */
export async function preview(file, more) {
  const magic = new TextDecoder("latin1").decode(await file.slice(0, 4).arrayBuffer());
  const typed = TYPED.includes(magic);
  const query = new URLSearchParams({ filename: file.name, ...more });
  const response = await request(`jobs/preview?${query}`, { method: "POST", body: typed ? file : file.slice(0, HEAD_BYTES), headers: { "Content-Type": "application/octet-stream" } });
  return response.json();
}

/** Shows it. `change` is called with other parameters, `start` when the visitor agrees. */
export function show(file, more, found, { change, start }) {
  const box = $("#preview");
  const focused = box.contains(document.activeElement) ? document.activeElement.name : "";
  const close = () => (box.hidden = true);
  const changed = (name) => (event) => change(altered(more, name, event.target.value));
  const choice = (words, name, options, value) =>
    h("label", {}, `${words} `, h("select", { name, onchange: changed(name) }, ...options.map(([key, shown]) => h("option", { value: key, selected: key === value && "" }, shown))));
  const { file: how, columns } = found;
  const typed = ["parquet", "arrow", "xlsx"].includes(how.format);
  const table = columns.length > 1 || how.delimiter !== null;
  const numbered = columns.map((name, index) => [columns.indexOf(name) === columns.lastIndexOf(name) && name.trim() ? name : `${index + 1}`, name || `column ${index + 1}`]);
  const noHeader = h("input", { type: "checkbox", name: "header", checked: !how.header && "" });
  noHeader.addEventListener("change", () => change({ ...more, header: noHeader.checked ? "false" : "true", column: noHeader.checked ? `${found.column + 1}` : "text" }));
  const go = h("button", { name: "start", type: "button", onclick: () => (close(), start()) }, "Start");
  box.replaceChildren(
    h("p", {}, h("strong", {}, file.name), ` · ${how.description}`),
    h("div", { class: "scroll", tabindex: "0" }, h("table", {}, h("tr", {}, ...columns.map((name, at) => h("th", { scope: "col", class: at === found.column && "chosen" }, name))), ...found.rows.map((row) => h("tr", {}, ...row.map((cell, at) => h("td", { class: at === found.column && "chosen" }, cell)))))),
    h("div", { class: "row" },
      columns.length > 1 ? choice("Texts", "column", numbered, numbered[found.column][0]) : null,
      typed ? null : choice("Format", "format", FORMATS.map((one) => [one, one.toUpperCase()]), how.format),
      how.format === "csv" ? choice("Separated by", "delimiter", Object.entries(DELIMITERS), how.delimiter) : null,
      typed ? null : choice("Encoding", "encoding", encodings(how.encoding).map((one) => [one, one.toUpperCase()]), how.encoding),
      table && !["parquet", "arrow", "ndjson", "json"].includes(how.format) ? h("label", {}, noHeader, " the first row is not a header") : null),
    how.note ? h("p", { class: "quiet" }, `${how.note}.`) : null,
    h("div", { class: "row" }, go, h("button", { class: "small", type: "button", onclick: close }, "Cancel")));
  box.hidden = false;
  (focused ? box.querySelector(`[name="${focused}"]`) ?? go : go).focus();
}

const encodings = (used) => [...new Set([used, ...ENCODINGS])];

/** The parameters with one changed. Another format has other delimiters. */
function altered(more, name, value) {
  const { delimiter, ...rest } = more;
  return name === "format" ? { ...rest, format: value } : { ...more, [name]: value };
}
