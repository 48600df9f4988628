// Where the time of one request went.

import { ask } from "./admin.js";
import { $, h, milliseconds, say } from "./dom.js";

const texts = (count) => (count === 1 ? "1 text" : `${count} texts`);

const WORDS = {
  received: ({ texts: count }) => texts(count),
  cache: ({ in_process, shared }) => `${in_process} from the process, ${shared} shared`,
  queued: ({ texts: count }) => texts(count),
  claimed: ({ texts: count, worker, attempts }) => `${texts(count)} by ${worker}${attempts > 1 ? `, attempt ${attempts}` : ""}`,
  batch: (step) => [
    `${step.worker === null ? "" : `${step.batch}: `}${step.texts} of ${texts(step.size)}`,
    step.worker === null ? "by a worker that does not remember it" : `${step.tokens} tokens, ${step.computed_tokens} computed, ${step.reason}`,
    `${milliseconds(step.model_ms)} in the model`,
    step.joined && "queued by another request before",
  ].filter(Boolean).join(", "),
  answered: ({ status, code }) => `${status} ${code}`,
};

export async function showTrace(id) {
  $("#timeline").hidden = true;
  const found = await ask("GET", `traces/${encodeURIComponent(id)}`);
  say($("#timeline caption"), `${found.request_id} · ${found.client} · ${new Date(found.received_at).toLocaleString()} · ${texts(found.texts)}, ${found.tokens} tokens`);
  $("#timeline tbody").replaceChildren(...found.timeline.map((step) => h("tr", { "data-step": step.step }, h("td", {}, milliseconds(step.at_ms)), h("td", {}, step.step), h("td", {}, WORDS[step.step](step)))));
  $("#timeline").hidden = false;
}
