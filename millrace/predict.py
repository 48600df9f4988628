"""`millrace predict`: the labels of a few texts."""

from __future__ import annotations

import argparse
import sys
from urllib.parse import quote

import httpx

from millrace.arguments import read_text
from millrace.errors import CommandError
from millrace.service_client import ServiceClient, add_client_arguments, add_model_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "For a file of many texts there is `millrace classify`."
    parser.add_argument(
        "texts", nargs="*", metavar="TEXT", help="texts (default: a text per line of the input)"
    )
    add_model_argument(parser)
    parser.add_argument(
        "--json", action="store_true", help="print the answer of the service, with all scores"
    )
    add_client_arguments(parser, PredictClient)


def run(args: argparse.Namespace) -> int:
    """Prints a line for each text: its best label, the score of that label, the text."""
    texts = args.texts or [line for line in read_text("-").replace("\r\n", "\n").split("\n") if line.strip()]
    if not texts:
        raise CommandError(
            'there is no text: millrace predict "I love you.", or a text per line of the input.'
        )
    with PredictClient.of(args) as client:
        answer = client.predict(texts, args.model)
    if args.json:
        print(answer.text)
        return 0
    rows = [max(pairs, key=lambda pair: pair["score"]) for pairs in answer.json()["predictions"]]
    width = max(len(row["label"]) for row in rows)
    for row, text in zip(rows, texts, strict=True):
        print(f"{row['label']:<{width}}  {row['score']:.4f}  {text}")
    if unknown := answer.headers.get("x-unknown"):
        print(f"The model mostly does not know {unknown} of {len(texts)} texts.", file=sys.stderr)
    return 0


class PredictClient(ServiceClient):
    """Sends texts to POST /predict, or to the route of another model."""

    timeout_s = 60.0

    def predict(self, texts: list[str], model: str) -> httpx.Response:
        """The answer to these texts. Raises CommandError."""
        if {".", ".."} & set(model.split("/")):  # would be another path
            raise CommandError(f"--model {model}: a model cannot have this name.")
        path = f"/models/{quote(model)}/predict" if model else "/predict"
        answer = self.request("POST", path, json={"text": texts})
        if "predictions" not in self._object(path, answer.text):
            raise CommandError(f"{self.url}{path} did not answer with predictions: is this a Millrace API?")
        return answer
