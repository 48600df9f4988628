// "As a program": the texts in the form as a command or a program, in every dialect that this service answers.

import { $, h, say } from "./dom.js";
import { hasKey, request } from "./http.js";

// A JSON string is a string in Python, too.
const quoted = JSON.stringify;

/** A word for a shell. */
const word = (text) => `'${text.replaceAll("'", "'\\''")}'`;

const KEY = "os.environ[\"MILLRACE_KEY\"]";
const importing = (key) => (key ? "import os\n\n" : "");

// Each has the route that it needs, and writes the program for an address, a model, texts, and whether there are keys.
// A key is never written into a program.
const PROGRAMS = {
  curl: {
    route: "/predict",
    write: ({ url, texts, key }) =>
      `curl ${word(`${url}/predict`)}${key ? ' -H "Authorization: Bearer $MILLRACE_KEY"' : ""} -H 'Content-Type: application/json' -d ${word(quoted({ text: texts }))}`,
  },
  Python: {
    route: "/predict",
    write: ({ url, texts, key }) =>
      `${importing(key)}from millrace_client import Client

with Client(${quoted(url)}${key ? `, api_key=${KEY}` : ""}) as client:
    for prediction in client.classify(${list(texts)}):
        print(prediction.label, prediction.score)`,
  },
  "Hugging Face": {
    route: "/",
    write: ({ url, texts, key }) =>
      `${importing(key)}from huggingface_hub import InferenceClient

client = InferenceClient(base_url=${quoted(url)}${key ? `, token=${KEY}` : ""})
for text in ${list(texts)}:
    print(client.text_classification(text)[0])`,
  },
  Triton: {
    route: "/v2/models/{model}/infer",
    write: ({ url, model, texts, key }) => {
      const { protocol, host, pathname } = new URL(url);
      const secure = protocol === "https:" ? ", ssl=True" : "";
      return `${importing(key)}import numpy as np
import tritonclient.http as triton

client = triton.InferenceServerClient(${quoted(host + pathname.replace(/\/$/, ""))}${secure})
texts = np.array(${list(texts)}, dtype=np.object_)
tensor = triton.InferInput("text", [len(texts)], "BYTES")
tensor.set_data_from_numpy(texts)
result = client.infer(${quoted(model)}, [tensor]${key ? `, headers={"Authorization": "Bearer " + ${KEY}}` : ""})
print(result.as_numpy("label"), result.as_numpy("scores"))`;
    },
  },
  OpenAI: {
    route: "/v1/moderations",
    write: ({ url, texts, key }) =>
      `${importing(key)}from openai import OpenAI

client = OpenAI(base_url=${quoted(`${url}/v1`)}, api_key=${key ? KEY : '"none"'})
for result in client.moderations.create(input=${list(texts)}).results:
    print(result.flagged, result.category_scores)`,
  },
};

function list(texts) {
  return `[\n${texts.map((text) => `    ${quoted(text)},\n`).join("")}]`;
}

export class Copy {
  /** `texts()` are those of the form; `model` is the name of the model, which the page sets. */
  constructor(texts) {
    Object.assign(this, { texts, model: "default" });
    $("#programs").addEventListener("toggle", () => this.offer(), { once: true });
    $("#copy").addEventListener("click", () => this.copy());
  }

  /** Offers the dialects that this service answers. */
  async offer() {
    const { paths } = await (await request("openapi.json")).json();
    const offered = Object.entries(PROGRAMS).filter(([, { route }]) => paths[route]?.post);
    const buttons = offered.map(([name]) => h("button", { class: "small", type: "button", "aria-pressed": false, onclick: () => this.show(name) }, name));
    $("#dialects").replaceChildren(...buttons);
    this.show(offered[0][0]);
  }

  show(name) {
    for (const button of $("#dialects").children) button.setAttribute("aria-pressed", button.textContent === name);
    const url = new URL(".", location.href).href.replace(/\/$/, "");
    const { model } = this;
    say($("#program"), PROGRAMS[name].write({ url, model, texts: this.texts(), key: hasKey() }));
    say($("#copied"), "");
  }

  /** Without a secure context there is no clipboard: then the program is selected. */
  async copy() {
    try {
      await navigator.clipboard.writeText($("#program").textContent);
      say($("#copied"), "Copied");
    } catch {
      getSelection().selectAllChildren($("#program"));
      say($("#copied"), "Selected; copy it with the keyboard");
    }
  }
}
