"""`millrace key new NAME`."""

from __future__ import annotations

from hashlib import sha256

import pytest

from api.settings import ApiSettings
from millrace.__main__ import main


def test_finding_06d_a_new_key_and_its_digest_are_printed_together(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = []
    for _ in range(2):
        assert main(["key", "new", "web"]) == 0
        printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
        assert len(printed["key"]) >= 32
        assert printed["digest"] == f"web:{sha256(printed['key'].encode()).hexdigest()}"
        made.append(printed["digest"])
    names = ApiSettings(api_keys=",".join(made)).api_keys.get_secret_value()  # type: ignore[arg-type]
    assert list(names.values()) == ["web", "web"]


@pytest.mark.parametrize("name", ["", "a b", "-x", "a:b", "a,b", "x" * 65, "name\n"])
def test_a_name_that_settings_would_refuse_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["key", "new", "--", name] if name.startswith("-") else ["key", "new", name]
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "invalid key name" in said.err
