"""Augmentation keeps labels, depends on nothing but its arguments, and undoes the treebank's tokens."""

from __future__ import annotations

from random import Random

import pytest

from default_model import augment, templates
from default_model.corpus import Row, Split
from default_model.recipe import Recipe, epoch_rows

SPLIT = Split(
    phrases=tuple(Row(f"some phrase {number}", float(number % 2)) for number in range(50)),
    sentences=tuple(Row(f"sentence {number} is n't long .", float(number % 2)) for number in range(20)),
    held_out=(),
)


@pytest.mark.parametrize(
    ("tokenised", "natural"),
    [
        ("it 's a film you ca n't miss .", "it's a film you can't miss."),
        ("they wo n't , i 'm sure !", "they won't, i'm sure!"),
        ("`` big trouble '' is small", '"big trouble" is small'),
        ("the actors ' faces ( mostly ) fit", "the actors' faces (mostly) fit"),
        ("-lrb- a -rrb- 1\\/2 idea ...", "(a) 1/2 idea..."),
        ("they 're gon na say we 've won ; he 'd , she 'll", "they're gonna say we've won; he'd, she'll"),
        ("rock 'n' roll", "rock 'n' roll"),
        ("", ""),
    ],
)
def test_detokenise(tokenised: str, natural: str) -> None:
    assert augment.detokenise(tokenised) == natural


def test_detokenising_twice_changes_nothing_more() -> None:
    once = augment.detokenise("it 's n't the `` worst '' thing -lrb- yet -rrb- ... is it ?")
    assert augment.detokenise(once) == once


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_a_tweet_keeps_the_label_and_never_wears_the_other_emoticon(label: float) -> None:
    wrong = augment._SAD if label else augment._HAPPY
    for seed in range(200):
        row = augment.tweet(Row("plain words", label), Random(seed))
        assert row.positive == label
        assert not any(f" {mark}" in row.text for mark in wrong)


def test_misspelling_touches_some_long_words_and_no_short_ones() -> None:
    text = "an ox is at a zoo " * 20
    assert augment.misspell(text, Random(1), rate=1.0) == text
    words = ["wonderful"] * 200
    slipped = augment.misspell(" ".join(words), Random(1), rate=0.5).split(" ")
    assert len(slipped) == 200
    assert 60 < sum(word != "wonderful" for word in slipped) < 140


def test_most_sentences_of_a_long_review_share_its_label() -> None:
    words = ("awful", "splendid")
    for seed in range(50):
        review = augment.long_review(
            lambda _, side: words[side],
            lambda _: "",
            lambda _, side: f"verdict {side}",
            Random(seed),
            sentences=90,
        )
        own, other = ("splendid", "awful") if review.positive else ("awful", "splendid")
        assert review.text.count(own) > review.text.count(other)
        assert f"verdict {1 - review.positive:.0f}" not in review.text


@pytest.mark.parametrize("maker", templates.MAKERS)
def test_templates_are_filled_and_balanced(maker: templates.Maker) -> None:
    rows = [maker(Random(seed)) for seed in range(400)]
    assert not any("{" in row.text or "}" in row.text for row in rows)
    assert {row.positive for row in rows} == {0.0, 1.0}
    assert 140 < sum(row.positive for row in rows) < 260


def test_an_epoch_is_a_function_of_seed_and_number() -> None:
    recipe = Recipe(sentence_repeat=2, long_share=0.5)
    assert epoch_rows(SPLIT, recipe, 0) == epoch_rows(SPLIT, recipe, 0)
    assert epoch_rows(SPLIT, recipe, 0) != epoch_rows(SPLIT, recipe, 1)


def test_without_augmentation_an_epoch_is_the_data() -> None:
    recipe = Recipe(
        phrase_share=2.0, sentence_repeat=1, natural_share=0, noise_share=0, long_share=0,
        template_share=0, neutral_share=0,
    )  # fmt: skip
    assert sorted(epoch_rows(SPLIT, recipe, 0)) == sorted(SPLIT.phrases + SPLIT.sentences)
