"""FastAPI around transformers' pipeline: what a first version of such a service looks like. No batching."""

from __future__ import annotations

import os
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline

app = FastAPI()
classify = pipeline("text-classification", model=os.environ["MODEL"], top_k=None, truncation=True)


class Texts(BaseModel):
    text: list[str]


@app.post("/predict")
def predict(body: Texts) -> dict[str, list[Any]]:
    return {"predictions": classify(body.text, batch_size=len(body.text))}
