// Which model the form asks: a choice where several are served, with its labels and the examples of its card.

import { $, Rows, h, say } from "./dom.js";

const SHOWN = 12;

export class Models {
  constructor() {
    this.models = [];
    this.options = new Rows($("#models"), ({ name }) => name, ({ name }) => ({ element: h("option", { value: name }, name), update() {} }));
    $("#models").addEventListener("change", () => this.describe());
  }

  /** The name of the model that is chosen; "" for the first one. */
  get chosen() {
    const name = $("#models").value;
    return name === this.models[0]?.name ? "" : name;
  }

  /** The route of the chosen model. */
  get route() {
    return this.chosen ? `models/${this.chosen.split("/").map(encodeURIComponent).join("/")}/predict` : "predict";
  }

  take(models) {
    this.models = models.filter(({ model }) => model);
    this.options.show(this.models);
    $("#choice").hidden = this.models.length < 2;
    this.describe();
  }

  describe() {
    const model = this.models.find(({ name }) => name === $("#models").value)?.model ?? this.models[0]?.model;
    if (!model) return;
    const names = model.labels.slice(0, SHOWN).join(", ") + (model.labels.length > SHOWN ? ` and ${model.labels.length - SHOWN} more` : "");
    const kind = model.name === "default" ? "English sentiment: " : "";
    say($("#labels"), `${kind}${model.multi_label ? "any of" : "one of"} ${names}`);
    const texts = $("#texts");
    const examples = (model.examples ?? []).join("\n");
    if (texts.value === texts.defaultValue && texts.value !== examples) texts.value = texts.defaultValue = examples;
  }
}
