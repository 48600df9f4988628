"""What operators publish of models, as every process reads it (`P:revisions`, decision 0016).

The publications of a model are numbered. Number 0 is the model in the settings of its workers, and has the
queue of the model. Publication n has a separate queue, `MODEL@n`, which is served like that of another model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal

# Fields of the hash: how often a model has moved, and one for each model.
MOVES = "moves"
FIELD = "model:"
FAILED = "failed:"
CANDIDATE = "candidate:"
By = Literal["text", "client"]


@dataclass(frozen=True, slots=True)
class Published:
    """The publications of a model: the one that answers, the one before, and the references of all but 0."""

    current: int = 0
    previous: int = 0
    last: int = 0
    references: Mapping[int, str] = field(default_factory=dict)

    def encode(self) -> str:
        return json.dumps([self.current, self.previous, self.last, {**self.references}])

    @classmethod
    def decode(cls, text: str) -> Published:
        """Raises ValueError or TypeError for what is unreadable."""
        current, previous, last, references = json.loads(text)
        return cls(current, previous, last, {int(number): str(one) for number, one in references.items()})

    @property
    def beside(self) -> list[int]:
        """The publications that workers hold beside 0 and the one that answers."""
        return sorted(self.references.keys() - {self.current})

    def publish(self, reference: str) -> Published:
        """Adds a publication, which does not answer yet. Drops any that neither answers nor is new."""
        kept = {**self._kept(self.current), self.last + 1: reference}
        return Published(self.current, self.current, self.last + 1, kept)

    def try_out(self, number: int) -> Published:
        """Makes this publication the candidate: `move` then goes back to the one that answers now.

        Raises LookupError if it is not published, or answers already.
        """
        if number not in self.references or number == self.current:
            raise LookupError(number)
        return Published(self.current, self.current, self.last, self._kept(number, self.current))

    def move(self, number: int) -> Published:
        """Lets this publication answer; the one that did is kept to go back to.

        If it answers already, what can be gone back to stays. Raises LookupError if it is not published.
        """
        if number and number not in self.references:
            raise LookupError(number)
        previous = self.previous if number == self.current else self.current
        return Published(number, previous, self.last, self._kept(number, previous))

    def _kept(self, *numbers: int) -> Mapping[int, str]:
        return {number: one for number, one in self.references.items() if number in numbers}


def choice(chosen: str) -> int:
    """The number of a text or a client, below 2**64, by which shares are taken."""
    return int.from_bytes(sha256(chosen.encode()).digest()[:8])


@dataclass(frozen=True, slots=True)
class Candidate:
    """A second publication that gets a `share` of the texts, beside the one that answers (decision 0017).

    It answers them, or with `shadow` only computes them too. Texts are chosen by themselves or their client.
    """

    number: int
    share: float
    by: By = "text"
    shadow: bool = False

    def takes(self, text: str, client: str) -> bool:
        """Whether a text is in the share. A greater share has all the texts of a smaller one."""
        return self.chooses(choice(text if self.by == "text" else client))

    def chooses(self, number: int) -> bool:
        """Whether the text, or the client, that has this number is in the share."""
        return number < self.share * 2**64

    def encode(self) -> str:
        return json.dumps([self.number, self.share, self.by, self.shadow])

    @classmethod
    def decode(cls, text: str) -> Candidate:
        """Raises ValueError or TypeError for what is unreadable."""
        number, share, by, shadow = json.loads(text)
        return cls(int(number), float(share), "client" if by == "client" else "text", bool(shadow))


@dataclass(frozen=True, slots=True)
class Publications:
    """The publications by model, "" for the first. `moves` counts the changes that processes confirm."""

    moves: int = 0
    models: Mapping[str, Published] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    candidates: Mapping[str, Candidate] = field(default_factory=dict)

    def of(self, model: str) -> Published:
        return self.models.get(model, Published())

    def queue(self, model: str) -> str:
        """The name of the queue that answers for a model."""
        return publication_queue(model, self.of(model).current)


NO_PUBLICATIONS = Publications()


def newest(shards: Iterable[Publications]) -> Publications:
    """The state after the most changes of those that the shards have: one that was down may lack it."""
    return max(shards, key=lambda publications: publications.moves)


def publication_queue(model: str, number: int) -> str:
    """The name of the queue of one publication. No model can have such a name, unless number is 0."""
    return f"{model}@{number}" if number else model


def model_of(queue: str) -> str:
    """The model whose publication has this queue."""
    return queue.partition("@")[0]


def number_of(queue: str) -> int:
    """The number of the publication that has this queue."""
    return int(queue.partition("@")[2] or 0)


def read_publications(fields: Mapping[str, str]) -> Publications:
    """Reads the fields of the hash. What is unreadable is left out."""
    models = dict[str, Published]()
    failures = dict[str, str]()
    candidates = dict[str, Candidate]()
    for name, value in fields.items():
        kind, colon, model = name.partition(":")
        try:
            if kind + colon == FAILED:
                failures[model] = value
            elif kind + colon == FIELD:
                models[model] = Published.decode(value)
            elif kind + colon == CANDIDATE:
                candidates[model] = Candidate.decode(value)
        except (ValueError, TypeError, AttributeError):
            continue
    moves = fields.get(MOVES, "")
    return Publications(int(moves) if moves.isdigit() else 0, models, failures, candidates)


def decode_publications(fields: Mapping[bytes, bytes]) -> Publications:
    """As `read_publications`, from what Redis replies."""
    return read_publications(
        {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in fields.items()}
    )
