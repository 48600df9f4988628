"""Mutants are the same for the same seed, and each is one edit that still compiles."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path
from unittest.mock import Mock

import pytest

from tests.mutation import __main__ as main
from tests.mutation import running, tests_of
from tests.mutation.__main__ import LIVES, label
from tests.mutation.covering import Covering
from tests.mutation.mutants import (
    FIELDS,
    ROOT,
    Mutant,
    lua_mutants,
    mutants_of,
    python_mutants,
    sample,
)
from tests.mutation.running import IN_PROCESSES, copy_of_repository, first_failure, record, unrecorded


def test_a_seed_draws_the_same_mutants_and_another_seed_others() -> None:
    drawn = sample(40, seed=1)
    assert sample(40, seed=1) == drawn
    assert sample(40, seed=2) != drawn
    assert {field: len({*mutants_of(field)} & {*drawn}) for field in FIELDS} == {
        field: 5 + (field in FIELDS[:5]) for field in FIELDS
    }
    assert all(one.file.endswith(".lua") for one in sample(4, 1, ["scripts"]))
    for one in drawn:
        text = (ROOT / one.file).read_text()
        assert one.applied(text) != text
        if one.file.endswith(".py"):
            ast.parse(one.applied(text))
        assert one.file in label(one)


def test_a_script_has_every_kind_of_edit_and_no_comment_has_any() -> None:
    text = "-- if 1 == 2 then\nlocal a = 3\nif a <= 4 and not b then\n  call(a)\nend\n"
    edits = {one.applied(text) for one in lua_mutants("x.lua", text)}
    lines = [edit.splitlines() for edit in edits]
    assert {edit[0] for edit in lines} == {"-- if 1 == 2 then"}
    assert {edit[1] for edit in lines} == {"local a = 3", "local a = 4"}
    assert {edit[2] for edit in lines} == {
        "if a <= 4 and not b then",
        "if a < 4 and not b then",
        "if a <= 5 and not b then",
        "if a <= 4 or not b then",
        "if a <= 4 and  b then",
        "if not (a <= 4 and not b) then",
    }
    assert {edit[3] for edit in lines} == {"  call(a)", "do end"}


def test_python_has_every_kind_of_edit_and_no_log_line_has_any() -> None:
    text = 'x: int = 3\nif (x) <= 4 and not y:\n    log.info("%d", 5)\n    call(x + 6)\n'
    text += "z = zip(x, strict=True)\n"
    edits = [one.applied(text).splitlines() for one in python_mutants("x.py", text)]
    assert {edit[0] for edit in edits} == {"x: int = 3", "x: int = 4"}
    assert {edit[1] for edit in edits} == {
        "if (x) <= 4 and not y:",
        "if (x) < 4 and not y:",
        "if (x) <= 5 and not y:",
        "if (x) <= 4 or not y:",
        "if (x) <= 4 and y:",
        "if not (x <= 4 and (not y)):",
    }
    assert {edit[2] for edit in edits} == {'    log.info("%d", 5)'}
    assert {edit[3] for edit in edits} == {
        "    call(x + 6)",
        "    call(x - 6)",
        "    call(x + 7)",
        "    pass",
    }
    assert {edit[4] for edit in edits} == {"z = zip(x, strict=True)"}


def test_every_mutant_that_is_explained_is_still_one() -> None:
    for one in tomllib.loads(LIVES.read_text())["lives"]:
        text = (ROOT / one["file"]).read_text()
        mutants = (lua_mutants if one["file"].endswith(".lua") else python_mutants)(one["file"], text)
        assert any(mutant.lines(text)[1:] == (one["line"], one["becomes"]) for mutant in mutants), one
        assert one["why"]


def test_those_that_are_explained_took_the_longest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of their tests were run, up to two thousand, for the same outcome."""
    file, becomes = "batcher/publishing/shadow.py", "self._name = token_hex(9)"
    text = (ROOT / file).read_text()
    (mutant,) = (one for one in python_mutants(file, text) if one.lines(text)[2] == becomes)
    monkeypatch.setattr(main, "first_failure", Mock(side_effect=AssertionError))
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text)
    assert main.run([mutant], tmp_path, 0, Covering({}, {}, {})) == {"explained": 1}
    assert "a random name, however long" in capsys.readouterr().out


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Covering]:
    """A copy of the repository, and what a few of its tests run: one recording, in one process."""
    folder = tmp_path_factory.mktemp("recorded")
    tests = ("tests/unit/batcher/test_shards.py", "tests/integration/test_queue_findings.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "RECORDING_PROCESSES", 1)
        patch.setattr(running, "TESTS", ("-k", "test_shards or finding_25 or finding_30", *tests))
        copy = copy_of_repository(folder / "copy")
        return copy, record(copy, folder / "records")


def test_a_mutant_is_found_and_the_original_passes(recorded: tuple[Path, Covering]) -> None:
    """Nothing else of `make test` runs the tests of a copy."""
    folder, covering = recorded
    text = (ROOT / "batcher/shards.py").read_text()
    mutants = python_mutants("batcher/shards.py", text)
    mutant = next(one for one in mutants if "while following <= shards" in one.applied(text))
    tests = covering.tests_of(mutant)
    assert tests
    assert {test.partition("::")[0] for test in tests} == {"tests/unit/batcher/test_shards.py"}
    of_module = [test for test in covering.seconds if test.startswith("tests/unit/batcher/test_shards.py")]
    assert len(tests) < len(of_module), "only those that run the line"
    assert first_failure(folder, tests, covering.seconds) == ""
    (folder / mutant.file).write_text(mutant.applied(text))
    assert first_failure(folder, tests, covering.seconds) in tests


def test_processes_that_tests_start_run_the_copy(recorded: tuple[Path, Covering]) -> None:
    """Otherwise the edits of main programs live through all tests."""
    folder, _ = recorded
    words = [sys.executable, "-P", "-c", "import batcher, millrace_client; print(batcher.__file__)"]
    test = f"assert subprocess.check_output({words}, text=True).startswith({str(folder)!r})"
    (folder / "tests/unit/test_started.py").write_text(f"import subprocess\n\n\ndef test_it():\n    {test}\n")
    assert first_failure(folder, ["tests/unit/test_started.py::test_it"], {}) == ""


def test_a_mutant_that_hangs_cost_a_minute_or_ten(
    recorded: tuple[Path, Covering], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Now it costs as much more than the test took as a busy machine explains."""
    monkeypatch.setattr(running, "MIN_S", 1)
    monkeypatch.setattr(running, "TEARDOWN_S", 0)
    folder, _ = recorded
    (folder / "tests/unit/test_hangs.py").write_text("def test_it():\n    while True:\n        pass\n")
    test = "tests/unit/test_hangs.py::test_it"
    assert first_failure(folder, [test], {test: 0.01}) == f"{test} hangs"


def test_a_mutant_that_removed_parameters_of_a_test_ended_the_run(recorded: tuple[Path, Covering]) -> None:
    folder, _ = recorded
    file = "tests/unit/test_parameters.py"
    cases = "@pytest.mark.parametrize('one', [1, 2])\ndef test_it(one):\n    assert one < 2\n"
    (folder / file).write_text(f"import pytest\n\n\n{cases}")
    assert first_failure(folder, [f"{file}::test_it[3]"], {}) == f"{file}::test_it[2]"
    assert first_failure(folder, [f"{file}::test_it[3]", f"{file}::test_it[1]"], {}) == f"{file}::test_it[2]"
    assert first_failure(folder, [f"{file}::test_gone[a b]"], {}) == ""


def test_short_tests_that_run_little_else_come_first() -> None:
    lines = {1: {"short", "long", "broad"}, **{line: {"broad"} for line in range(2, 9)}}
    covering = Covering({"short": 0.1, "broad": 0.1, "long": 0.5}, {"batcher/shards.py": lines}, {})
    mutant = Mutant("batcher/shards.py", 0, "", "", "")
    assert covering.tests_of(mutant) == ["short", "long", "broad"]


def test_a_script_has_the_tests_that_run_it(recorded: tuple[Path, Covering]) -> None:
    _, covering = recorded
    for file in ("batcher/core/lua/cancel.lua", "batcher/core/lua/common.lua"):
        mutant = next(lua_mutants(file, (ROOT / file).read_text()))
        assert "finding_30" in " ".join(covering.tests_of(mutant)), file
    file = "batcher/core/lua/usage.lua"
    assert covering.tests_of(next(lua_mutants(file, (ROOT / file).read_text()))) == []


def test_scripts_meet_the_histories_of_a_real_server() -> None:
    """Under the names that these tests have."""
    source = (ROOT / "tests/search/test_search.py").read_text()
    for file, machine in (("core/lua/claim.lua", "QueueMachine"), ("jobs/store.py", "JobsMachine")):
        mutant = Mutant(f"batcher/{file}", 0, "", "", "")
        assert len(unrecorded(mutant)) == 2
        for test in unrecorded(mutant):
            name = test.partition("::")[2].removesuffix(f"[{machine}]")
            assert f"def {name}(machine: type" in source
    assert unrecorded(Mutant("batcher/hub/hub.py", 0, "", "", "")) == []


def test_files_that_run_in_processes_of_their_own_have_the_tests_that_start_these() -> None:
    assert unrecorded(Mutant("model_store/hub.py", 0, "", "", "")) == ["tests/integration/test_pull.py"]
    for file, tests in IN_PROCESSES.items():
        for one in (file, *tests):
            assert (ROOT / one).is_file(), one


def test_the_tests_of_a_file_are_found_without_recording_what_tests_run(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Recording took over 19 minutes, and printed nothing."""
    assert tests_of.main(["docs/models.md"]) == 2
    assert tests_of.main(["tests/mutation/__main__.py"]) == 2
    assert "FILE must be a Python file" in capfd.readouterr().out
    tests = tests_of.tests_of("batcher/worker/drift.py")
    nearest, beside = (
        tests.index(f"tests/unit/batcher/worker/test_{name}.py") for name in ("drift", "metrics")
    )
    assert nearest < beside
    assert "tests/unit/test_patterns.py" not in tests
    late = tests_of.tests_of("model_store/engines/encoder.py")  # a module that it imports with `Lazy`
    assert "tests/unit/model_store/engines/test_graph.py" in late[:2]
