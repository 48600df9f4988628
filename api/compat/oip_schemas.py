"""Bodies of the Open Inference Protocol v2."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class OipInput(BaseModel):
    name: str
    shape: list[int] = Field(max_length=8)
    datatype: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    data: Any = None


class OipOutput(BaseModel):
    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)


class OipRequest(BaseModel):
    """One input of type BYTES with the texts, as JSON or as binary data behind the JSON."""

    id: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    inputs: list[OipInput] = Field(min_length=1, max_length=8)
    outputs: list[OipOutput] = Field(default_factory=list)


class OipTensor(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[float] | list[str]


class OipAnswer(BaseModel):
    """`scores` [texts, labels] in label id order, and `label` [texts] with the most probable one."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, Any]
    outputs: list[OipTensor]


class OipError(BaseModel):
    error: str


class OipServer(BaseModel):
    name: str
    version: str
    extensions: list[str]


class OipDescription(BaseModel):
    name: str
    datatype: str
    shape: list[int]


class OipModel(BaseModel):
    name: str
    versions: list[str]
    platform: str
    inputs: list[OipDescription]
    outputs: list[OipDescription]


class OipLive(BaseModel):
    live: bool


class OipReady(BaseModel):
    ready: bool


class OipModelReady(BaseModel):
    name: str
    ready: bool
