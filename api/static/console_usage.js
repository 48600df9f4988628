// Usage of each key and day.

import { ask, send } from "./admin.js";
import { $, Rows, h, say } from "./dom.js";

const COUNTS = ["texts", "tokens", "requests", "hits", "errors"];
const DAYS = 7;

const days = new Rows($("#usage"), ({ day, key }) => `${day} ${key}`, ({ day, key }) => {
  const cells = COUNTS.map(() => h("td"));
  const quota = h("td");
  return {
    element: h("tr", { "data-usage": `${day} ${key}` }, h("td", {}, day), h("td", {}, key === "-" ? "without a key" : key), ...cells, quota),
    update: (row) => {
      COUNTS.forEach((name, index) => say(cells[index], row[name].toLocaleString("en")));
      say(quota, row.quota ? row.quota.toLocaleString("en") : "–");
    },
  };
});

export async function showUsage() {
  const first = new Date(Date.now() - (DAYS - 1) * 86400e3).toISOString().slice(0, 10);
  const { usage, quotas } = await ask("GET", `usage?first=${first}`);
  days.show(usage.reverse().map((row) => ({ ...row, quota: quotas[row.key] })));
  $("#no-usage").hidden = usage.length > 0;
}

/** Saves the usage of all days that are kept. A plain link would not send the operator's key. */
export async function saveUsage() {
  const address = URL.createObjectURL(await (await send("GET", "usage?format=csv")).blob());
  h("a", { href: address, download: "usage.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
