"""Labels of the series of pandas and polars, and a bar that shows how far they are. Imports neither."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from time import monotonic
from typing import Any

from millrace_client.errors import TextError
from millrace_client.predict import checked
from millrace_client.results import OnProgress, Prediction, Progress, Result

# Seconds between two states of the bar, and its width in characters.
REDRAW_S = 0.1
WIDTH = 24


class Series:
    """The texts of a series, and what is put beside them. Missing texts stay missing.

    Raises TypeError for anything but a series of pandas or polars.
    """

    def __init__(self, series: Any) -> None:
        self._library = type(series).__module__.partition(".")[0]
        if self._library not in ("pandas", "polars") or type(series).__name__ != "Series":
            raise TypeError(f"labels() needs a Series of pandas or polars, not {type(series).__name__}")
        self._series = series
        missing: Iterable[bool] = series.isna() if self._library == "pandas" else series.is_null()
        self._known = [not one for one in missing]
        places = enumerate(zip(series, self._known, strict=True))
        self.known: Sequence[str] = [checked(text, place) for place, (text, known) in places if known]

    def labels(self, results: Iterable[Result], errors: str) -> Any:
        """A series `label` with the best label of each text."""
        found = iter([None if one is None else one.label for one in self._checked(results, errors)])
        return self._made([next(found) if known else None for known in self._known], "label")

    def scores(self, results: Iterable[Result], errors: str) -> Any:
        """A frame with a column for each label, which has the score of each text."""
        rows = [{} if one is None else one.scores for one in self._checked(results, errors)]
        columns = {}
        for name in dict.fromkeys(name for row in rows for name in row):
            found = iter([row.get(name) for row in rows])
            columns[name] = self._made([next(found) if known else None for known in self._known], name, float)
        more = {"index": self._series.index} if self._library == "pandas" else {}
        return sys.modules[self._library].DataFrame(columns, **more)

    def _checked(self, results: Iterable[Result], errors: str) -> Iterator[Prediction | None]:
        """The predictions; None for a text that failed, or else its error is raised, with its place."""
        places = (place for place, known in enumerate(self._known) if known)
        for place, one in zip(places, results, strict=True):
            if isinstance(one, TextError) and errors == "raise":
                raise TextError.of(one, place)
            yield None if isinstance(one, TextError) else one

    def _made(self, values: list[Any], name: str, kind: type = str) -> Any:
        library = sys.modules[self._library]
        if self._library == "polars":
            return library.Series(name, values, library.Float64 if kind is float else library.String)
        # Without values, pandas would choose a type for numbers.
        chosen = "float64" if kind is float else None if any(one is not None for one in values) else "object"
        return library.Series(values, index=self._series.index, name=name, dtype=chosen)


class Bar:
    """Progress on standard error, where that is a terminal or a notebook."""

    def __init__(self) -> None:
        self._shown = bool(sys.stderr and (sys.stderr.isatty() or "ipykernel" in sys.modules))
        self._next = 0.0
        self._begun = monotonic()

    def __call__(self, seen: Progress) -> None:
        now = monotonic()
        if self._shown and seen.total and (now >= self._next or seen.done >= seen.total):
            self._next = now + REDRAW_S
            full = "#" * (WIDTH * seen.done // seen.total)
            rate = seen.done / max(now - self._begun, REDRAW_S)
            end = "\n" if seen.done >= seen.total else ""
            sys.stderr.write(f"\r{full:.<{WIDTH}} {seen.done:,} of {seen.total:,} texts, {rate:,.0f}/s {end}")
            sys.stderr.flush()


def progress_of(progress: OnProgress | bool) -> OnProgress | None:
    """The function that is called with the progress: by default a bar."""
    if isinstance(progress, bool):
        return Bar() if progress else None
    return progress
