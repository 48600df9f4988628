"""Bodies of the Open Inference Protocol v2."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, StrictBool

from api.compat.fields import ClosedFields, Fields, Ignored, Unsupported

SHARED_MEMORY = Annotated[Any, Unsupported("shared memory is not supported")]
SEQUENCES = Annotated[
    Any, Unsupported("sequences are not supported: each text is classified alone", (0, "", False))
]
# What MLServer's clients say of BYTES.
STRINGS = Annotated[Any, Unsupported("texts are strings", ("str",))]


class OipTensorParameters(ClosedFields):
    """Parameters that inputs and outputs may have."""

    content_type: STRINGS = None
    shared_memory_region: SHARED_MEMORY = None
    shared_memory_byte_size: SHARED_MEMORY = None
    shared_memory_offset: SHARED_MEMORY = None


class OipInputParameters(OipTensorParameters):
    binary_data_size: int | None = None


class OipInput(Fields):
    name: str
    shape: list[int] = Field(max_length=8)
    datatype: str
    parameters: OipInputParameters = Field(default_factory=OipInputParameters)
    data: Any = None


class OipOutputParameters(OipTensorParameters):
    binary_data: StrictBool | None = None
    classification: int = Field(default=0, ge=0, strict=True, description="Only this many classes, as text")


class OipOutput(Fields):
    name: str
    parameters: OipOutputParameters = Field(default_factory=OipOutputParameters)


class OipParameters(ClosedFields):
    timeout: Any = Field(default=None, description="Microseconds; 0: none")
    binary_data_output: StrictBool | None = None
    priority: Ignored = None
    sequence_id: SEQUENCES = None
    sequence_start: SEQUENCES = None
    sequence_end: SEQUENCES = None
    content_type: STRINGS = None


class OipRequest(Fields):
    """One input of type BYTES with the texts, as JSON or as binary data behind the JSON."""

    id: str | None = None
    parameters: OipParameters = Field(default_factory=OipParameters)
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
