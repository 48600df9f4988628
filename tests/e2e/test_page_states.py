"""Each state of the page, photographed at each width with either theme.

`make page` takes all of the pictures and keeps them in build/page.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.browser import Viewer, launched, viewing
from tests.e2e.test_page import overlaps
from tests.servers import RedisServer, needs_server
from tests.service import Service

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.e2e

browser = pytest.fixture(scope="module")(launched)
viewer = pytest.fixture(viewing)

Frame = dict[str, Any]
JOB: Frame = {
    "id": "a" * 32,
    "status": "running",
    "total": 900,
    "done": 300,
    "failed": 0,
    "labels": [{"label": "POSITIVE", "texts": 180}, {"label": "NEGATIVE", "texts": 120}],
    "rate": 120.0,
    "position": None,
    "error": None,
    "created_at": "2026-11-22T12:00:00Z",
    "remaining_s": 5.0,
    "file": {"name": "reviews.csv", "description": "CSV"},
}
ENDED: Frame = {"status": "finished", "done": 900, "rate": None, "remaining_s": None}
STARTING = "the worker has been preparing default for 12 s: proving all 75 probes"
PAUSE = {"left_s": 600, "waiting": "keep", "reason": "", "by": "operator"}
FALLBACK = {"arithmetic": "f32", "fallback": "bf16 was 0.02 away from f32"}


# The stream of events ends only when the page is left; without events there is no service.
STREAM = """
const ask = window.fetch;
window.fetch = (url, options) => {
    if (!String(url).endsWith("stats")) return ask(url, options);
    if (!window.events) return Promise.reject(new TypeError("Failed to fetch"));
    const start = (stream) => stream.enqueue(new TextEncoder().encode(window.events));
    const headers = { "content-type": "text/event-stream" };
    return Promise.resolve(new Response(new ReadableStream({ start }), { headers }));
};
"""


def worker(frame: Frame, **differs: Any) -> None:
    frame["workers"] = [{**frame["workers"][0], **differs}]


def unready(frame: Frame, reason: str) -> None:
    frame.update(ready=False, reason=reason, workers=[])


# What makes each state of a frame that a calm service has sent, and what the page says then.
STATES: dict[str, tuple[Callable[[Frame], object], str]] = {
    "ready": (lambda frame: None, "Ready"),
    "starting": (lambda frame: unready(frame, STARTING), "preparing default for 12 s"),
    "no-redis": (lambda frame: unready(frame, "Redis does not answer"), "Redis does not answer"),
    "stopping": (lambda frame: worker(frame, state="stopping"), "Stopping"),
    "paused": (lambda frame: frame.update(pauses={"bulk": PAUSE}), "Paused by an operator: jobs"),
    "all-paused": (
        lambda frame: frame.update(pauses={"bulk": PAUSE, "interactive": PAUSE}),
        "requests",
    ),
    "full": (lambda frame: frame["now"].update(shed=120.4), "Overloaded: 120 texts"),
    "silent": (lambda frame: worker(frame, silent_s=2.0), "silent for 2 s"),
    "fallback": (lambda frame: worker(frame, **FALLBACK), "fell back to f32"),
    "shards": (lambda frame: frame.update(shards={"count": 2, "down": [1]}), "1 of 2 shards"),
    "job": (lambda frame: frame.update(jobs=[JOB]), "reviews.csv"),
    "failed-job": (
        lambda frame: frame.update(jobs=[{**JOB, **ENDED, "failed": 2}]),
        "1 job has errors",
    ),
    "gone": (lambda frame: None, "Trying again"),
}
WIDTHS = (390, 720, 768, 1440, 2560)


@pytest.fixture(scope="module")
def calm() -> Iterator[tuple[Service, Frame]]:
    """A service at rest, and a frame of it."""
    server = RedisServer(needs_server()).start()
    made = Service(server, {"model": "stub", "stub_batch_ms": 5})
    made.start_worker()
    made.wait_ready()
    yield made, made.http.get("/stats").json()
    made.close()
    server.close()


def shown(page: Page, service: Service, frame: Frame, state: str) -> None:
    """Opens the page in a state, and waits until it says so."""
    change, words = STATES[state]
    changed = json.loads(json.dumps(frame))
    change(changed)
    events = (
        ""
        if state == "gone"
        else f"event: history\ndata: {{}}\n\nevent: frame\ndata: {json.dumps(changed)}\n\n"
    )
    page.add_init_script(f"window.events = {json.dumps(events)}")
    page.goto(service.base_url)
    page.wait_for_function("words => document.body.innerText.includes(words)", arg=words)


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (390, "light"),
        *(
            pytest.param(width, scheme, marks=pytest.mark.long)
            for width, scheme in product(WIDTHS, ("light", "dark"))
        ),
    ],
)
def test_no_two_states_look_the_same(
    calm: tuple[Service, Frame],
    viewer: Viewer,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    width: int,
    scheme: Any,
) -> None:
    service, frame = calm
    long = request.node.get_closest_marker("long")
    folder = Path("build/page") if long else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    page = viewer.page
    page.add_init_script(STREAM)
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 844 if width < 400 else 900})
    pictures: dict[str, str] = {}
    for state in STATES:
        shown(page, service, frame, state)
        assert overlaps(page) == [], state
        assert page.evaluate("document.documentElement.scrollWidth") <= width, state
        assert page.locator("#no-workers, #no-jobs").locator("visible=true").count() == 0 or state != "gone"
        picture = page.screenshot(path=folder / f"{state}-{width}-{scheme}.png", full_page=True)
        pictures.setdefault(sha256(picture).hexdigest(), state)
    assert list(pictures.values()) == list(STATES)
