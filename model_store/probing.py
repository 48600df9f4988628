"""Probes of a checkpoint, computed by torch and sealed beside its weights, and the check of int8 weights."""

from __future__ import annotations

import ctypes
import gc
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as RustTokenizer

from model_store.artefact import PROBES, Manifest, check_seal, digest, write_manifest
from model_store.calibration_texts import CALIBRATION_TEXTS
from model_store.checkpoint import CONFIG, Checkpoint
from model_store.errors import GateFailed, ModelUnsupported
from model_store.inputs import Inputs, Sharing, TokenTypes
from model_store.phases import phase
from model_store.probes import CHOOSES, UNBOUNDED, Probes, Scores, Source, chosen, read_probes, write_probes
from model_store.proof import INT8_GATE, SHARED_TOKENS, prove
from model_store.rows import Tokenizer, share_out, shared, special_ids
from model_store.tokens import Tokens

# Scores of all probes that differ by less are the same.
_TOLD_APART = 1e-6
# Tokens of a padded batch, in which a token takes half the time of one in a short text alone. Larger batches
# are hardly faster, and need more padding.
_PADDED_TOKENS = 256
# Options of malloc.h, and the sizes of blocks from which freed memory goes back to the system.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT, _GIVEN_BACK = 32 * 1024**2, 256 * 1024


def sealed_probes(checkpoint: Checkpoint) -> Probes | None:
    """The probes beside the weights, if SHA256SUMS pins them together with every file of the model, and if
    the longest one is as long as the longest text that the model accepts.

    With them, building a packable model does not need torch; for others they are computed again. Raises
    ModelCorrupt if a file differs from its digest.
    """
    pinned = set(check_seal(checkpoint.path))
    needed = [PROBES, *(path.name for path in checkpoint.files())]
    if not (checkpoint.packable and pinned.issuperset(needed)):
        return None
    probes = read_probes(checkpoint.path)
    return probes if len(probes.tokens[-1]) == checkpoint.max_tokens else None


@contextmanager
def _reusing_blocks() -> Iterator[None]:
    """Lets glibc keep what torch frees, which is as large again a moment later; then it gives that back.

    A worker has it give back each block of 256 KiB and more at once: clearing the pages of new ones took a
    fifth of the time.
    """
    libc = ctypes.CDLL(None)
    options = (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD) if hasattr(libc, "malloc_trim") else ()
    for option in options:
        libc.mallopt(option, _KEPT)
    try:
        yield
    finally:
        for option in options:
            libc.mallopt(option, _GIVEN_BACK)
        if options:
            libc.malloc_trim(0)


@_reusing_blocks()
def compute_probes(
    checkpoint: Checkpoint, tokenizer: Path, token_types: TokenTypes | None = None
) -> tuple[Probes, Inputs]:
    """The probes with the checkpoint's answers in torch f32, and the inputs of the model.

    `tokenizer` is its tokenizer.json, and gives `token_types`. The last probe has as many tokens as the model
    accepts, which may be fewer than its config says. Raises ModelUnsupported if it accepts no text.
    """
    from model_store.engines.reference import Reference

    empty, *texts = Tokenizer(tokenizer, checkpoint.max_tokens)(["", *CALIBRATION_TEXTS])
    known = RustTokenizer.from_file(str(tokenizer)).get_vocab().values()
    special = sorted({*special_ids(tokenizer), *checkpoint.special_ids.intersection(known)})
    source = Source(empty, texts, special, checkpoint.unnumbered)
    phase(f"loading {checkpoint.path} in torch, for the answers to its probes")
    reference = Reference(checkpoint, token_types)
    most = checkpoint.max_tokens  # of packed families, the graph is checked against the tables
    if not checkpoint.packable:
        most = _accepted(Source(empty, texts), most, reference)
    phase(f"computing the answers to texts of up to {most} tokens")
    trial, longest = Source(empty, texts), min(most, SHARED_TOKENS)
    tried = list(trial.with_each(() if checkpoint.packable else special, most))
    longer = [] if checkpoint.packable else [trial.text(longest // 2), trial.text(longest)]
    inputs = reference.inputs([tried[0], tried[-1]] if checkpoint.packable else tried, longer)
    candidates = source.candidates(most)
    batches = list(_batches(candidates, inputs.sharing))
    scores = np.concatenate([reference(batch) for batch in batches])
    _require_numbers(checkpoint, candidates, scores)
    probes = chosen(candidates, scores)
    if len(probes) > 1 and np.ptp(scores, axis=0).max() < _TOLD_APART:
        raise _same_scores(checkpoint)
    rounding = reference.rounding(batches, scores)
    del reference
    gc.collect()  # before the engine loads the same weights: its parts refer to each other
    if checkpoint.packable:  # their graphs have neither padding nor types
        inputs = Inputs(checkpoint.unnumbered)
    tokens, scores = tuple(Tokens(candidates[at], truncated=0, unknown=0) for at in probes), scores[probes]
    return Probes(tokens, reference=scores, answers=scores, rounding=rounding), inputs


def _require_numbers(checkpoint: Checkpoint, texts: Sequence[Sequence[int]], scores: Scores) -> None:
    """Raises ModelUnsupported if torch gives a text scores that are NaN or infinite, as a layer norm may."""
    wrong = ~np.isfinite(scores).all(axis=1)
    if wrong.any():
        raise ModelUnsupported(
            f"transformers itself gives scores that are not numbers with {checkpoint.path}, such as to a "
            f"text of {len(texts[int(wrong.argmax())])} tokens: its weights or its {CONFIG} are damaged."
        )


def _same_scores(checkpoint: Checkpoint) -> ModelUnsupported:
    why = "its weights, or this family without kernels for a GPU, read none"
    if checkpoint.config.get("is_decoder"):
        why = (
            f"{CONFIG} has is_decoder true, so that a token reads only those before it, and the first one, "
            "which is classified, none; set it to false if the model was trained as an encoder"
        )
    return ModelUnsupported(
        f"transformers gives the same scores to every text with {checkpoint.path}, a "
        f"{checkpoint.architecture}: {why}."
    )


def _batches(texts: Sequence[Sequence[int]], sharing: Sharing) -> Iterator[list[Sequence[int]]]:
    """How torch computes the probes of a model whose texts can share a forward pass."""
    lengths = [len(text) for text in texts]
    groups = shared(lengths, sharing)
    if sharing == "any":
        groups = share_out(lengths, "padded", _PADDED_TOKENS)
    return ([texts[at] for at in group] for group in groups)


def _accepted(source: Source, most: int, answer: Callable[[Sequence[Sequence[int]]], Scores]) -> int:
    """The greatest length up to `most` that transformers accepts, found by bisection.

    Raises ModelUnsupported if there is none.
    """

    def refused(length: int) -> bool:
        try:
            answer([source.text(length)])
        except ModelUnsupported:
            return True
        return False

    if not refused(most):
        return most
    answer([source.text(source.least + 1)])
    return bisect_left(range(most), True, lo=source.least, key=refused) - 1


def gate_int8(out: Path, manifest: Manifest, *, force: bool) -> Manifest:
    """Compare int8 weights in f32 arithmetic with the reference, and seal their answers.

    Returns the new manifest. Raises GateFailed if they differ too much; with `force`, the manifest only
    records the failure.
    """
    from model_store.engines.runner import open_verified

    probes = read_probes(out)
    if probes.rounding >= UNBOUNDED and not force:
        raise GateFailed(f"{manifest.name} is not served in int8: {CHOOSES}.")
    with closing(open_verified(out, manifest, arithmetic="f32")) as classifier:
        proof = prove(classifier, probes, INT8_GATE, to_the_end=True)
    if proof.failed and not force:
        raise GateFailed(
            f"{manifest.name} in int8 does not answer as in f32: {proof.failed}; use another precision, or "
            "keep it with build --force."
        )
    write_probes(out, replace(probes, answers=proof.alone))
    files = {**manifest.files, PROBES: digest(out / PROBES)}
    manifest = replace(manifest, files=files, proof=proof.verdict)
    write_manifest(out, manifest)
    return manifest
