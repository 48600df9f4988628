// Shows the first rows of a file before it becomes a job, and lets the visitor change how they are read.

import { $, h } from "./dom.js";
import { request } from "./http.js";

// The beginning of a file of text shows how it is read; tables with types have their columns at the end.
const HEAD_BYTES = 1024 * 1024;
const TYPED = ["PAR1", "ARRO", "PK\u0003\u0004", "\u00ff\u00ff\u00ff\u00ff"];
const TYPED_FORMATS = ["parquet", "arrow", "xlsx"];
const FORMATS = ["csv", "tsv", "ndjson", "json", "txt"];
const DELIMITERS = { ",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars" };
const ENCODINGS = ["utf-8", "utf-16", "utf-16-le", "utf-16-be", "windows-1252", "iso-8859-2", "windows-1251", "shift_jis", "gb18030", "big5", "euc-kr"];

/** How the service reads a file, with these parameters. */
export async function preview(file, more) {
  const magic = new TextDecoder("latin1").decode(await file.slice(0, 4).arrayBuffer());
  const typed = TYPED.includes(magic);
  const query = new URLSearchParams({ filename: file.name, ...more });
  const read = (body) => request(`jobs/preview?${query}`, { method: "POST", body, headers: { "Content-Type": "application/octet-stream" } });
  const whole = typed || file.size <= HEAD_BYTES;
  const response = await read(whole ? file : file.slice(0, HEAD_BYTES)).catch((error) => {
    if (whole || error.status !== 422 || error.problem.columns) throw error;
    return read(file); // its beginning may end within a row
  });
  return response.json();
}

/** Choices of how a file is read. What `how` does not say is detected. `change` is called with other parameters. */
export function choices(more, how, change) {
  const choice = (words, name, options) => selection(words, name, options, how[name] ?? "", (value) => change(altered(more, name, value)));
  const upper = (names) => names.map((one) => [one, one.toUpperCase()]);
  const noHeader = h("input", { type: "checkbox", name: "header", checked: how.header === false && "" });
  noHeader.addEventListener("change", () => change({ ...more, header: noHeader.checked ? "false" : "true", column: noHeader.checked ? `${(how.place ?? 0) + 1}` : "text" }));
  const typed = TYPED_FORMATS.includes(how.format);
  return [
    typed ? null : choice("Format", "format", upper(FORMATS)),
    [undefined, "csv"].includes(how.format) ? choice("Separated by", "delimiter", Object.entries(DELIMITERS)) : null,
    typed ? null : choice("Encoding", "encoding", upper(ENCODINGS)),
    [undefined, "csv", "tsv", "xlsx"].includes(how.format) ? h("label", {}, noHeader, " the first row is not a header") : null,
  ];
}

function selection(words, name, options, chosen, change) {
  const all = options.some(([value]) => value === chosen) ? options : [[chosen, chosen.toUpperCase() || "detected"], ...options];
  const shown = all.map(([value, label]) => h("option", { value, selected: value === chosen && "" }, label));
  return h("label", {}, `${words} `, h("select", { name, onchange: (event) => change(event.target.value) }, ...shown));
}

/** Shows it. `change` is called with other parameters, `start` when the visitor agrees. */
export function show(file, more, found, { change, start }) {
  const box = $("#preview");
  const focused = box.contains(document.activeElement) ? document.activeElement.name : "";
  const close = () => (box.hidden = true);
  const { file: how, columns } = found;
  const numbered = columns.map((name, index) => [columns.indexOf(name) === columns.lastIndexOf(name) && name.trim() ? name : `${index + 1}`, name || `column ${index + 1}`]);
  const go = h("button", { name: "start", type: "button", onclick: () => (close(), start()) }, "Start");
  box.replaceChildren(
    h("p", {}, h("strong", {}, file.name), ` · ${how.description}`),
    h("div", { class: "scroll", tabindex: "0" }, h("table", {}, h("tr", {}, ...columns.map((name, at) => h("th", { scope: "col", class: at === found.column && "chosen" }, name))), ...found.rows.map((row) => h("tr", {}, ...row.map((cell, at) => h("td", { class: at === found.column && "chosen" }, cell)))))),
    h("div", { class: "row" },
      columns.length > 1 ? selection("Texts", "column", numbered, numbered[found.column][0], (column) => change({ ...more, column })) : null,
      ...choices(more, { ...how, place: found.column }, change)),
    h("p", { class: "quiet" }, how.note && `${how.note}.`),
    h("div", { class: "row" }, go, h("button", { class: "small", type: "button", onclick: close }, "Cancel")));
  box.hidden = false;
  (focused ? box.querySelector(`[name="${focused}"]`) ?? go : go).focus();
}

/** The parameters with one changed. Another format has other delimiters. */
function altered(more, name, value) {
  const { delimiter, ...rest } = more;
  return name === "format" ? { ...rest, format: value } : { ...more, [name]: value };
}
