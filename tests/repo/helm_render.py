"""Renders the chart with Helm's own code, in its own process: it starts threads that a fork would copy.

Reads a JSON object from standard input: the path of the chart, and the values and namespace of each case.
Prints the objects of each case as YAML documents, and what `helm lint` found.
"""

from __future__ import annotations

import importlib
import json
import sys

# Not an import statement, because there are wheels for some platforms only.
helm = importlib.import_module("helm_python")


def main() -> None:
    """Prints {"lint": [...], "cases": {name: YAML}}; a case that fails is {name: {"error": ...}}."""
    asked = json.load(sys.stdin)
    found: dict[str, object] = {}
    with helm.Chart.load(asked["chart"]) as chart:
        for name, case in asked["cases"].items():
            try:
                files = chart.render(case["values"], name="millrace", namespace=case["namespace"])
                texts = [text for path, text in sorted(files.items()) if path.endswith(".yaml")]
                found[name] = "\n---\n".join(texts)
            except helm.HelmError as exc:
                found[name] = {"error": str(exc)}
    print(json.dumps({"lint": helm.lint(asked["chart"]), "cases": found}))


if __name__ == "__main__":
    main()
