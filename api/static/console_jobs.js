// Jobs of all clients, by state, name and client.

import { ask } from "./admin.js";
import { $, Rows, h, say, short } from "./dom.js";

let cursor = "";

const jobs = new Rows($("#console-jobs"), ({ id }) => id, ({ id }) => {
  const words = h("span"), facts = h("span", { class: "quiet" });
  return {
    element: h("li", { "data-job": id }, words, facts),
    update: ({ status, done, total, failed, created_at, client, file }) => {
      say(words, [status, `${short(done)} of ${short(total)} texts`, failed && `${short(failed)} failed`].filter(Boolean).join(" · "));
      say(facts, [file?.name, client, new Date(created_at).toLocaleString(), id].filter(Boolean).join(" · "));
    },
  };
});

/** Shows the page that begins at `from`, or the same page again. */
export async function showJobs(from = cursor) {
  cursor = from;
  const wanted = [...new FormData($("#jobs-filter")), ["cursor", cursor]].filter(([, value]) => value);
  const page = await ask("GET", `jobs?${new URLSearchParams(wanted)}`);
  jobs.show(page.jobs);
  $("#no-jobs").hidden = page.jobs.length > 0;
  $("#older-jobs").hidden = !page.next_cursor;
  $("#older-jobs").dataset.cursor = page.next_cursor ?? "";
}
