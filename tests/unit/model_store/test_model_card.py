from __future__ import annotations

from pathlib import Path

import pytest

from model_store.model_card import CARD, MAX_CHARS, MAX_EXAMPLES, examples


def card(folder: Path, front: str, rest: str = "# A model\n\nwidget:\n- text: below\n") -> Path:
    (folder / CARD).write_text(f"---\n{front}---\n{rest}", "utf-8")
    return folder


@pytest.mark.parametrize(
    ("front", "expected"),
    [
        ("license: mit\nwidget:\n- text: I hate you.\n- text: I love you.\n", ("I hate you.", "I love you.")),
        ('widget:\n  - text: "a \\"b\\": ü"\n    example_title: One\n', ('a "b": ü',)),
        ("widget:\n- example_title: One\n  text: 'it''s'\nlicense: mit\n", ("it's",)),
        ("widget:\n- text: <b>bold</b>   \n- output: [1]\n", ("<b>bold</b>",)),
        ("widget:\n- src: a.wav\n- text: last", ("last",)),
        # What needs a parser of YAML is not an example: half of it would be another text.
        ("widget:\n- text: one line\n    and another\n- text: whole\n", ("whole",)),
        ("widget:\n- text: >\n    folded\n- text: |\n    kept\n- text: a # b\n- text: 'a' b\n", ()),
        ('widget:\n- text: "open\n- text: "two\\nlines"\n- text: ""\n', ()),
        (f"widget:\n- text: {'x' * (MAX_CHARS + 1)}\n", ()),
        # What UTF-8 cannot encode made the artefact's manifest unreadable; a "\r" is a line end on the page.
        (
            'widget:\n- text: "I \\ud83d"\n- text: "a\\rb"\n- text: "a\\u2028b"\n'
            '- text: "\\u0000"\n- text: ok\n',
            ("ok",),
        ),
        ("widget:\n- text: '  '\n- text: 👩\u200d🚒\n", ("👩\u200d🚒",)),
        # It took half an hour to find the end of a line with a million spaces.
        (f"widget:\n- text: a{' ' * 1_000_000}b\n- text: ok\n", ("ok",)),
        ("widget: []\ntags:\n- text: no\n", ()),
        ("license: mit\n", ()),
    ],
)
def test_the_examples_of_a_card(tmp_path: Path, front: str, expected: tuple[str, ...]) -> None:
    assert examples(card(tmp_path, front if front.endswith("\n") else f"{front}\n")) == expected


def test_at_most_a_few_examples(tmp_path: Path) -> None:
    many = "".join(f"- text: number {number}\n" for number in range(50))
    assert examples(card(tmp_path, f"widget:\n{many}")) == tuple(f"number {n}" for n in range(MAX_EXAMPLES))


@pytest.mark.parametrize(
    "content", [b"", b"# No front matter\nwidget:\n- text: x\n", b"---\nwidget:\n- text: \xff\n---\n"]
)
def test_a_card_that_says_nothing(tmp_path: Path, content: bytes) -> None:
    assert examples(tmp_path) == ()
    (tmp_path / CARD).write_bytes(content)
    assert examples(tmp_path) == ()


def test_the_card_of_the_default_has_examples() -> None:
    import model_store

    assert len(examples(Path(model_store.__file__).parent / "default")) == 3
