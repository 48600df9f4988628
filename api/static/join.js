// Results as CSV: all columns of the file that was dropped, then label, score and error.

import { request } from "./http.js";

const ADDED = [["label", "score", "error"], ["predicted_label", "predicted_score", "prediction_error"]];

/** The name and content of the results. Without the file (after a reload), its kept texts are its only column. */
export async function labelled(job, file) {
  const table = file && (await rowsOf(file, job.file).catch(() => null));
  const results = parse(await text(job, table ? "" : "&texts=true"), ",");
  const complete = job.status === "finished";
  const name = `${stemOf(job)}-${complete ? "labelled" : "partial"}.csv`;
  const rows = table && joined(table, results);
  const delimiter = job.file?.format === "csv" ? job.file.delimiter : ",";
  return { name, blob: rows ? csv(rows, delimiter) : csv(results, ",") };
}

/** What the names of files that are made of this job begin with. */
export const stemOf = (job) => (job.file?.name ?? job.id.slice(0, 8)).replace(/\.gz$/i, "").replace(/\.[^.]*$/, "");

/** The texts of a file, in order. `how` is what the server found. */
export async function textsOf(file, how) {
  const [names, ...rows] = await rowsOf(file, how);
  const column = Math.max(0, names.indexOf(how.column));
  return rows.map((row) => row[column]);
}

async function text(job, more) {
  const options = { headers: { Accept: "text/csv" } };
  const path = `jobs/${job.id}/predictions?limit=1000000`;
  const response = await request(path + more, options).catch((problem) => {
    if (problem.status !== 404 || !more) throw problem;
    return request(path, options); // its texts were not kept
  });
  return response.text();
}

/** Rows of the file that have a result, with the result's columns under names that are not taken. */
function joined([names, ...rows], results) {
  const added = ADDED.find((choice) => !choice.some((name) => names.includes(name))) ?? ADDED[1].map((name) => `${name}_2`);
  return [[...names, ...added], ...results.slice(1).map(([index, ...result]) => [...rows[Number(index)], ...result])];
}

/** All rows of a file as lists, the names of its columns first. `how` is what the server found. */
async function rowsOf(file, how) {
  let stream = file.stream();
  if (how.gzipped) stream = stream.pipeThrough(new DecompressionStream("gzip"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const bigEndian = how.encoding === "utf-16" && bytes[0] === 0xfe;
  const content = new TextDecoder(bigEndian ? "utf-16be" : how.encoding.replace("_", "-")).decode(bytes);
  if (how.format === "csv" || how.format === "tsv") return table(parse(content, how.delimiter));
  const lines = content.split("\n").filter((line) => line.trim());
  if (how.format === "txt") return [["text"], ...lines.map((line) => [line.replace(/\r$/, "")])];
  return objects(how.format === "json" ? items(JSON.parse(content)) : lines.map((line) => JSON.parse(line)), how.column);
}

/** In a table of one column, an empty line is an empty text, except at the end. */
function table(rows) {
  while (rows.length && rows.at(-1).length === 1 && rows.at(-1)[0] === "") rows.pop();
  return rows;
}

const items = (value) => (Array.isArray(value) ? value : value.text);

function objects(values, column) {
  const rows = values.map((value) => (typeof value === "string" ? { [column]: value } : value));
  const names = [...new Set(rows.flatMap(Object.keys))];
  const cell = (value) => (value === undefined ? "" : typeof value === "string" ? value : JSON.stringify(value));
  return [names, ...rows.map((row) => names.map((name) => cell(row[name])))];
}

/** RFC 4180 with any delimiter: quotes may hold delimiters, line breaks and doubled quotes. */
export function parse(content, delimiter) {
  const escaped = delimiter.replace(/[|\\^$.*+?()[\]{}]/g, "\\$&");
  const cell = new RegExp(`(?:"([^"]*(?:""[^"]*)*)"|([^${escaped}\\r\\n"][^${escaped}\\r\\n]*)?)(${escaped}|\\r?\\n|\\r|$)`, "gy");
  const rows = [[]];
  while (cell.lastIndex < content.length) {
    const found = cell.exec(content);
    if (!found) throw new Error("not a table");
    rows.at(-1).push(found[1] === undefined ? (found[2] ?? "") : found[1].replaceAll('""', '"'));
    if (found[3] === "") return rows;
    if (found[3] !== delimiter) rows.push([]);
    else if (cell.lastIndex === content.length) rows.at(-1).push("");
  }
  if (rows.at(-1).length === 0) rows.pop();
  return rows;
}

export function csv(rows, delimiter) {
  const quoted = (value) => (/["\r\n]/.test(value) || value.includes(delimiter) ? `"${value.replaceAll('"', '""')}"` : value);
  return new Blob(rows.map((row) => `${row.map(quoted).join(delimiter)}\r\n`), { type: "text/csv" });
}
