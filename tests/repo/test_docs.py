"""The documents are complete and true: settings, commands, endpoints, links, and nothing of one machine."""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
from pydantic import SecretStr

from batcher.shards import FORMAT
from millrace.__main__ import COMMANDS
from millrace.settings_loader import SECTIONS, known_variables, own_fields, variables

ROOT = Path(__file__).parents[2]
TABLE_ROW = re.compile(r"^\| `(MILLRACE_\w+)` \| (?:`([^`]*)`)? ?\|", re.MULTILINE)


@cache
def tracked(*patterns: str) -> tuple[Path, ...]:
    listed = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return tuple(ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file())


def test_every_setting_is_documented_with_its_default() -> None:
    """In the order of declaration, so that a variable with two defaults (DRAIN_S) is distinguished."""
    documented = TABLE_ROW.findall((ROOT / "docs/settings.md").read_text())
    declared = []
    for kind in SECTIONS.values():
        for name, field in own_fields(kind).items():
            default = (
                field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
            )
            declared.append((variables(name, field)[0], default))
    assert [variable for variable, _ in documented] == [variable for variable, _ in declared]
    for (variable, said), (_, default) in zip(documented, declared, strict=True):
        shown = f"{default:g}" if isinstance(default, float) else "" if default is None else str(default)
        assert said == (shown.lower() if isinstance(default, bool) else shown), variable


@pytest.mark.parametrize("page", [path for path in tracked("*.md") if "decisions" not in path.parts], ids=str)
def test_every_variable_in_a_document_exists(page: Path) -> None:
    named = set(re.findall(r"\bMILLRACE_[A-Z_]*[A-Z]\b", page.read_text()))
    assert named <= known_variables()


def test_every_command_in_the_documents_exists_and_every_command_is_there() -> None:
    readme, page = ((ROOT / path).read_text() for path in ("README.md", "docs/commands.md"))
    assert set(re.findall(r"^\| `millrace (\w+)", page, re.MULTILINE)) == set(COMMANDS)
    assert set(re.findall(r"`millrace ([a-z]+)", readme)) <= set(COMMANDS)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)\b", "\n".join(code_of(readme)))) <= targets


def test_every_option_of_up_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    from millrace.__main__ import main

    with pytest.raises(SystemExit):
        main(["up", "--help"])
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
    page = (ROOT / "docs/commands.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| `millrace up`"))
    assert options == set(re.findall(r"--[a-z-]+", row))


def test_every_documented_endpoint_is_served() -> None:
    from api.main import create_app
    from api.settings import ApiSettings

    paths = set(create_app(ApiSettings()).app.openapi()["paths"]) | {"/docs", "/openapi.json"}
    table = (ROOT / "docs/http.md").read_text().partition("## Endpoints")[2].partition("## POST /predict")[0]
    named = set(re.findall(r"`(?:GET|POST|DELETE) (/[\w./{}]*)`", table))
    assert named == paths


def test_every_error_code_is_documented_and_every_documented_one_exists() -> None:
    from api.errors import CODE_OF, STATUS_OF

    source = "\n".join(path.read_text() for path in tracked("api/*.py"))
    named = set(re.findall(r"\bcode=\"([a-z_]+)\"", source))
    named |= {*CODE_OF.values(), *(error.code for error in STATUS_OF)}
    page = (ROOT / "docs/errors.md").read_text()
    # There for what the framework might raise; it does not.
    assert named - set(re.findall(r"`([a-z_]+)`", page)) == {"forbidden", "conflict"}
    rows = re.findall(r"^\| \d{3} \| ([^|]*) \|", page, re.MULTILINE)
    assert set(re.findall(r"`([a-z_]+)`", "".join(rows))) <= named


@pytest.mark.parametrize(
    "word",
    ["ARGS=--workers 2", "REDIS_URL=redis://x", "MILLRACE_REDIS_URL=redis://x", "ARGS=--redis-url redis://x"],
)
def test_make_run_starts_a_redis_unless_one_is_given(word: str) -> None:
    environment = {name: value for name, value in os.environ.items() if "REDIS_URL" not in name}
    shown = subprocess.run(
        ["make", "--no-print-directory", "-n", "run", word],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ("--data-dir" in shown.stdout.splitlines()[-1]) == ("redis" not in word)


@cache
def sections(page: Path) -> set[str]:
    """The anchors of a page."""
    headings = re.findall(r"^#+ (.+)$", without_code(page), re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w -]", "", heading).replace(" ", "-") for heading in plain}


def without_code(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("page", tracked("*.md"), ids=str)
def test_no_relative_link_is_dead(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", without_code(page))
    relative = [link.partition("#") for link in links if "://" not in link]
    dead = [path + sign + anchor for path, sign, anchor in relative if not leads(page, path, anchor)]
    assert dead == []


def leads(page: Path, path: str, anchor: str) -> bool:
    """Whether the file is there and, if it is a page, has the section."""
    target = (page.parent / path).resolve() if path else page
    return target.exists() and (not anchor or target.suffix != ".md" or anchor in sections(target))


NAMED_ELSEWHERE = re.compile(r"\b(docs/[\w/-]+\.md)#([\w-]+)")


def test_code_names_sections_that_exist() -> None:
    """In comments and messages, as the pages do in links."""
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in tracked("*.py", "*.yaml", "*.toml", "*.txt", "*.js", "*.json", "scripts/*")
        for match in NAMED_ELSEWHERE.finditer(path.read_text(errors="ignore"))
        if not leads(ROOT / "README.md", match[1], match[2])
    ]
    assert found == []


@pytest.mark.parametrize("page", tracked("docs/*.md", ":!docs/decisions/0*", ":!docs/decisions/1*"), ids=str)
def test_a_page_is_read_in_ten_minutes(page: Path) -> None:
    """Models and guarantees had 8,000 words each. Tables do not count: they are not read through."""
    lines = without_code(page).splitlines()
    prose = "\n".join(line for line in lines if not line.startswith(("|", "    ", "<!--")))
    assert len(prose.split()) <= 2_500


def test_the_front_page_leads_to_every_page() -> None:
    """So that two clicks are enough."""
    front = (ROOT / "docs/README.md").read_text()
    pages = {page.name for page in tracked("docs/*.md") if page.parent.name == "docs"} - {"README.md"}
    assert pages - set(re.findall(r"\]\(([\w-]+\.md)", front)) == set()


def test_no_file_names_the_machine_it_was_written_on() -> None:
    foreign = re.compile(r"/(?:work|root|home/[a-z]+|Users/\w+)/(?!\.\.\.)\w|/opt/(?:pypi|wheels)")
    text = (".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".lua", ".js", ".json", ".sh", "")
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in tracked()
        if path.suffix in text and path != Path(__file__)
        for match in foreign.finditer(path.read_text(errors="ignore"))
    ]
    assert found == []


def test_the_changelog_has_a_place_for_what_is_not_released() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## \[Unreleased\]\n", changelog, re.MULTILINE)


def test_a_user_could_not_find_what_matters_in_the_changelog() -> None:
    """Hundreds of entries, some of six lines, had neither a beginning nor what needs action."""
    versions = (ROOT / "CHANGELOG.md").read_text().split("\n## ")
    newest = next(version for version in versions if "\n### " in version)
    top, _, rest = newest.partition("\n### ")
    important, _, action = top.partition("**Needs action**")
    assert top.count("\n") < 40
    assert 1 <= important.count("\n- ") <= 5
    assert action.count("\n- ")
    assert [line for line in rest.split("\n") if len(line) > 250] == []


def test_decisions_are_numbered_once() -> None:
    pages = [page for page in tracked("docs/decisions/*.md") if page.name != "README.md"]
    numbers = [page.name[:4] for page in pages]
    assert all(re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", page.name) for page in pages)
    assert len(set(numbers)) == len(numbers)


def code_of(markdown: str) -> list[str]:
    """Blocks and spans of code."""
    return [block or span for block, span in re.findall(r"```\w*\n(.*?)```|`([^`\n]+)`", markdown, re.DOTALL)]


def test_keys_of_the_queue_are_written_with_the_present_format() -> None:
    """Except where keys of 0.1.0 are meant."""
    about_both = ("docs/upgrading.md", "tests/unit/batcher/core/test_formats.py")
    stale = re.compile(rf"{{millrace:(?!{FORMAT}:)[\w<%]")
    found = [
        path.relative_to(ROOT)
        for path in tracked()
        if stale.search(path.read_bytes().decode(errors="ignore"))
    ]
    assert [str(path) for path in found if str(path) not in about_both] == []
