"""The sub-commands of `python -m model_store`. Each takes its arguments and yields lines to print."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from model_store import Classifier, load
from model_store.arguments import threads
from model_store.errors import ModelError

_PADDED = {"any": "padded", "equal": "equally long texts together", "none": "each text alone"}


def pull(args: Namespace) -> Iterator[str]:
    """Fetch a pinned checkpoint. A branch is only resolved to its commit, because its content may change."""
    from model_store import hub
    from model_store.prepare import hub_directory

    repository, _, revision = args.reference.partition("@")
    snapshot = hub.resolve(repository, revision or "main")
    if not snapshot.commit.startswith(revision or "main"):
        raise ModelError(
            f"{revision or 'main'} of {repository} is currently commit {snapshot.commit}, which may change; "
            f"pin it: millrace pull {snapshot.reference}"
        )
    to = args.to or hub_directory(args.artefact_dir.expanduser(), repository, snapshot.commit)
    hub.pull(snapshot, to, convert=args.convert_pickle)
    yield f"{snapshot.reference} is available in {to}"


def convert_pickle(args: Namespace) -> Iterator[str]:
    """Write model.safetensors next to the pickle in a directory."""
    from model_store.pickles import convert_pickle

    convert_pickle(args.directory)
    yield f"{args.directory} now has safetensors"


def build(args: Namespace) -> Iterator[str]:
    """Build an artefact, and check it on labelled texts if requested."""
    from model_store.artefact import check_seal
    from model_store.build import build, require_replaceable
    from model_store.evaluate import check_accuracy
    from model_store.hardware import has_bf16
    from model_store.prepare import choose, locate, locked

    name, path = locate(args.model, args.artefact_dir.expanduser())
    require_replaceable(args.out)
    check_seal(path)
    engine, weights = choose(args.engine, args.precision)
    bf16 = args.precision == "bf16" or (args.precision == "auto" and has_bf16())
    with locked(args.out):
        manifest = build(
            path,
            args.out,
            name=args.name or name,
            engine=engine,
            weights=weights,
            check=partial(check_accuracy, args.check, "bf16" if bf16 else "f32") if args.check else None,
            force=args.force,
        )
    yield f"{args.out}: {manifest.name} {manifest.revision[:12]}, {engine} with {weights} weights"
    if proof := manifest.proof:
        yield (
            f"{'FAILED' if proof.reason else 'passed'}: scores of the probes differ by at most "
            f"{proof.answers:.4f} from torch f32 and by {proof.batched:.4f} from the same text alone; "
            f"{proof.agreement:.2%} have the same label"
        )
    if gate := manifest.gate:
        yield (
            f"{'passed' if gate.passed else 'FAILED'}: agrees with torch f32 on {gate.agreement:.2%} of "
            f"{gate.rows} texts, accuracy {gate.accuracy:.2%} (torch f32: {gate.reference_accuracy:.2%}); "
            f"{gate.same_alone:.2%} have the same label alone and in a batch"
        )


def locate(args: Namespace) -> Iterator[str]:
    """Check that a model can be read, without loading it, and print its directory."""
    from model_store.prepare import check_source

    yield str(check_source(args.reference, args.artefact_dir.expanduser()))


def verify(args: Namespace) -> Iterator[str]:
    """Compare every file of an artefact or a sealed checkpoint with its digest; `--run` also proves it."""
    from model_store.artefact import MANIFEST, SUMS, check_seal
    from model_store.artefact import verify as verify_artefact
    from model_store.prepare import locate

    _, directory = locate(args.reference, args.artefact_dir.expanduser())
    if (directory / MANIFEST).is_file():
        manifest = verify_artefact(directory)
        yield f"{directory}: {len(manifest.files)} files match the manifest, revision {manifest.revision}"
    elif names := check_seal(directory):
        yield f"{directory}: {len(names)} files match {SUMS}"
    elif not args.run_probes:
        raise ModelError(
            f"{directory} has neither {MANIFEST} nor {SUMS}, so it cannot be verified: "
            "python -m model_store seal records the digests of a checkpoint."
        )
    if args.run_probes:
        from model_store.proof_table import proofs

        yield from proofs(args)


def seal(args: Namespace) -> Iterator[str]:
    """Record the digests of a checkpoint, which `load` then verifies; `--probes` computes its probes, too."""
    from model_store.artefact import PROBES, SUMS, TOKENIZER
    from model_store.artefact import seal as write_sums
    from model_store.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(args.directory)
    files = [path.name for path in checkpoint.files()]
    if args.probes:
        from model_store import tokenizer_files
        from model_store.probes import write_probes
        from model_store.probing import compute_probes

        if TOKENIZER not in files:
            raise ModelError(f"{args.directory} has no {TOKENIZER}: add it, or leave out --probes.")
        tokenizer = tokenizer_files.read_tokenizer(checkpoint)
        with TemporaryDirectory() as scratch:
            tokenizer_files.copy_tokenizer(checkpoint, Path(scratch))
            tokenizer_files.require_same(checkpoint, tokenizer, file := Path(scratch) / TOKENIZER)
            probes, _ = compute_probes(checkpoint, file, tokenizer_files.read_token_types(tokenizer))
        write_probes(args.directory, probes)
        files.append(PROBES)
    write_sums(args.directory, files)
    yield f"{args.directory / SUMS}: {len(files)} files"


def info(args: Namespace) -> Iterator[str]:
    """Describe a model after verifying it."""
    from model_store.artefact import verify as verify_artefact
    from model_store.prepare import prepare

    path = prepare(args.model, args.engine, args.precision, args.artefact_dir.expanduser())
    manifest = verify_artefact(path)
    size = sum(file.size for file in manifest.files.values())
    yield f"name        {manifest.name}"
    yield f"revision    {manifest.revision}"
    yield f"engine      {manifest.engine}, {manifest.weights} weights"
    yield f"labels      {', '.join(manifest.labels)}{' (any number of them)' if manifest.multi_label else ''}"
    yield f"parameters  {manifest.parameters / 1e6:.1f} M"
    yield f"size        {size / 1e6:.1f} MB"
    yield f"max tokens  {manifest.max_tokens}"
    yield f"layout      {'packed' if manifest.rows else _PADDED[manifest.inputs.sharing]}"
    yield f"directory   {path}"


def evaluate(args: Namespace) -> Iterator[str]:
    """Accuracy, F1, calibration and speed on labelled texts, and a comparison with another model."""
    from model_store.evaluate import compare, measure, report_cascade
    from model_store.measuring import Measuring, write_reference
    from model_store.prepare import locate, prepare

    for reference in filter(None, (args.against, args.cascade)):  # before minutes are spent on the first
        locate(reference, args.artefact_dir.expanduser())
    classifier = Measuring(_load(args))
    result = measure(classifier, args)
    yield from result.lines()
    if args.against:
        other = Namespace(**{**vars(args), "model": args.against})
        yield from compare(result, measure(_load(other), other))
    if args.cascade:
        other = Namespace(**{**vars(args), "model": args.cascade})
        yield from report_cascade(result, measure(_load(other), other), args.within)
    if args.json:
        args.json.write_text(json.dumps(result.as_dict(), indent=2) + "\n", "utf-8")
    if args.write_reference:
        kept = args.artefact_dir.expanduser()
        places = {prepare(args.model, args.engine, args.precision, kept), locate(args.model, kept)[1]}
        for place in sorted(places):
            yield f"reference          {write_reference(classifier.reference(), place)}"


def predict(args: Namespace) -> Iterator[str]:
    """Classify texts without a server: one line of scores per text."""
    classifier = _load(args)
    for text, row in zip(args.text, classifier.classify(classifier.tokenize(args.text)), strict=True):
        scores = zip(classifier.info.labels, row, strict=True)
        yield "  ".join([*(f"{label} {score:.4f}" for label, score in scores), text])


def random(args: Namespace) -> Iterator[str]:
    """Write a checkpoint with random weights."""
    from model_store.random_model import write_random

    write_random(args.config, args.out, seed=args.seed)
    yield f"{args.out}: {args.config} with random weights, seed {args.seed}"


def _load(args: Namespace) -> Classifier:
    return load(
        args.model,
        engine=args.engine,
        precision=args.precision,
        threads=threads(args),
        artefact_dir=args.artefact_dir,
    )
