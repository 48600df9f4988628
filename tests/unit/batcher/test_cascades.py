"""The setting of cascades, and what their members are together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batcher.cascades import Cascade, parse_cascades, read_cascade
from batcher.core.snapshot import NO_SNAPSHOT, ModelRecord
from batcher.errors import LabelsDiffer
from batcher.lookup.cascade import CascadeModel, combined, in_order, mismatch
from batcher.lookup.queue import Models
from batcher.messages import Prediction, fragment
from tests.unit.fakes import FakeHub

QUICK = Cascade("quick", "default", "org/large", 0.9)
FAST = ModelRecord("default", "a" * 64, ("NEGATIVE", "POSITIVE"), 512, "openvino", "bf16")
SURE = ModelRecord("org/large", "b" * 64, ("POSITIVE", "NEGATIVE"), 256, "openvino", "f32")


def answer(*scores: float, labels: tuple[str, ...] = FAST.labels) -> Prediction:
    return Prediction(fragment(labels, scores), "a" * 64, 5)


def test_cascades_are_read_in_order() -> None:
    found = parse_cascades("quick=default:org/large:0.9, sharp=default:org/large:0.99")
    assert found == (QUICK, replace(QUICK, name="sharp", threshold=0.99))
    assert parse_cascades("") == ()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("quick", "must have the form"),
        ("quick=default:large", "must have the form"),
        ("quick=:large:0.9", "must have the form"),
        ("quick=default:large:0.9.1", "must have the form"),
        ("qu ick=default:large:0.9", "must have the form"),
        ("quick=default:default:0.9", "to itself"),
        ("quick=default:large:0", "threshold above 0"),
        ("quick=default:large:1.5", "threshold above 0"),
        ("quick=a:b:0.9,quick=a:c:0.9", "two cascades are called quick"),
        ("quick=a:b:0.9,quicker=c:quick:0.9", "quick is a cascade"),
        ("quick=quick:b:0.9", "quick is a cascade"),
    ],
)
def test_what_is_no_cascade_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_cascades(text)


def test_a_job_reads_what_was_written_for_it() -> None:
    first = replace(QUICK, fast="", threshold=1 / 3)
    assert read_cascade(str(first)) == first
    assert read_cascade("topics") is None
    assert read_cascade("") is None


def test_the_threshold_itself_is_sure_enough() -> None:
    assert QUICK.trusts(answer(0.1, 0.9).fragment)
    assert QUICK.trusts(answer(0.95, 0.05).fragment)
    assert not QUICK.trusts(answer(0.1000001, 0.8999999).fragment)


def test_the_revision_changes_with_each_member_and_the_threshold() -> None:
    others = (
        (QUICK, FAST, SURE),
        (QUICK, replace(FAST, revision="c" * 64), SURE),
        (QUICK, FAST, replace(SURE, revision="c" * 64)),
        (replace(QUICK, threshold=0.91), FAST, SURE),
    )
    found = [combined(*parts) for parts in others]
    assert len({one.revision for one in found}) == len(others)
    assert (found[0].name, found[0].labels, found[0].max_tokens) == ("quick", FAST.labels, 256)


def test_labels_may_be_in_another_order_and_no_others() -> None:
    assert mismatch(QUICK, FAST, SURE) is None
    assert in_order(answer(0.7, 0.3, labels=SURE.labels), FAST.labels) == answer(0.3, 0.7)
    same = answer(0.3, 0.7)
    assert in_order(same, FAST.labels) is same
    foreign = replace(SURE, labels=("SPAM", "HAM"))
    why = "different labels: default NEGATIVE, POSITIVE; org/large SPAM, HAM"
    found = mismatch(QUICK, FAST, foreign)
    assert found is not None
    assert (found.code, str(found)) == ("labels_differ", f"the members of the cascade quick have {why}")
    with pytest.raises(LabelsDiffer, match="the answer has the labels SPAM, HAM"):
        in_order(answer(0.7, 0.3, labels=foreign.labels), FAST.labels)


def test_models_with_several_labels_per_text_are_no_members() -> None:
    several = replace(SURE, multi_label=True)
    why = "the cascade quick needs models with one label per text, and org/large may give several"
    found = mismatch(QUICK, FAST, several)
    assert found is not None
    assert (found.code, str(found)) == ("several_labels", why)
    assert mismatch(QUICK, replace(FAST, multi_label=True), SURE) is not None


@pytest.mark.parametrize(("fast", "sure"), [(FAST, SURE), (FAST, None), (None, SURE), (None, None)])
def test_a_job_knows_the_model_of_a_cascade_once_both_members_have_one(
    fast: ModelRecord | None, sure: ModelRecord | None
) -> None:
    members = [Models(FakeHub(snapshot=replace(NO_SNAPSHOT, model=model))) for model in (fast, sure)]
    model = CascadeModel(QUICK, *members).snapshot.model
    assert (model is not None) == (fast is not None and sure is not None)
