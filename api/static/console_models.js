// The publications that answer, and the candidates beside them.

import { ask } from "./admin.js";
import { $, Rows, h, say } from "./dom.js";

const percent = (share) => `${Number((100 * share).toPrecision(4))} %`;

const publications = new Rows($("#publications"), ({ name }) => name, ({ name }) => {
  const words = h("span"), facts = h("span", { class: "quiet" });
  return {
    element: h("li", { "data-model": name }, words, facts),
    update: ({ current, candidate, compared }) => {
      const of = candidate && `${percent(candidate.share)} of the ${candidate.by}s`;
      const does = candidate && (candidate.mode === "shadow" ? "is compared on" : "answers");
      say(words, [`${name}: publication ${current} answers`, candidate && `publication ${candidate.number} ${does} ${of}`].filter(Boolean).join(", "));
      say(facts, compared ? [`${compared.texts} texts compared`, compared.texts && `same label ${percent(compared.agreement)}`, `${compared.failed} failed`, `${compared.dropped} dropped`].filter(Boolean).join(" · ") : "");
    },
  };
});

export async function showModels() {
  const { models } = await ask("GET", "models");
  const rows = Object.entries(models).filter(([name]) => name).map(async ([name, { current, candidate }]) => {
    const shadowed = candidate?.mode === "shadow";
    const compared = shadowed ? await ask("GET", `models/comparison?${new URLSearchParams({ model: name, labels: false })}`) : null;
    return { name, current, candidate, compared };
  });
  publications.show(await Promise.all(rows));
}
