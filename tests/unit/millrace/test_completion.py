"""`millrace completion`: what shells offer for a command that is begun."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from millrace.__main__ import main

BEGUN = {
    "class": "classify",
    "classify --colu": "--column",
    "key n": "new",
    "predict --mod": "--model",
    "classify revi": "reviews.csv",
}


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


def offered(program: str, code: str, folder: Path) -> list[str]:
    (folder / "reviews.csv").touch()
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    ended = subprocess.run([program, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return [line.partition("\t")[0] for line in ended.stdout.splitlines()]


@pytest.mark.parametrize("begun", BEGUN)
def test_bash_completes(begun: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["millrace", *begun.split()]
    code = (
        f"{script('bash', capsys)}\nCOMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}\n"
        'set -- $(complete -p millrace); while [ "$1" != -F ]; do shift; done; "$2"; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    assert offered("bash", code, tmp_path) == [BEGUN[begun]]


@pytest.mark.parametrize("begun", BEGUN)
def test_fish_completes(begun: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = f"{script('fish', capsys)}\ncomplete -C 'millrace {begun}'"
    assert BEGUN[begun] in offered("fish", code, tmp_path)


def test_zsh_reads_its_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "_millrace").write_text(script("zsh", capsys))
    code = "fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -d dump; zsh -n _millrace; "
    code += "print $_comps[millrace]"
    assert offered("zsh", code, tmp_path) == ["_millrace"]
