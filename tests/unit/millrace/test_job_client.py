"""The client of /jobs against a fake service: what it repeats, what it gives up on, what it says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from millrace import job_client
from millrace.errors import CommandError
from millrace.job_client import JobClient, together
from text_files.formats import Hints
from text_files.source import TextFile

JOB = {
    "id": "a" * 32,
    "status": "queued",
    "total": 3,
    "done": 0,
    "failed": 0,
    "position": 1,
    "rate": None,
    "models": [],
}
Answer = Callable[[httpx.Request], httpx.Response]

NOTHING_LISTENS = (
    "nothing listens at http://api: start a service with `millrace up`, or name another with --url."
)


class Service:
    """Answers requests from a list of answers, exceptions included, and keeps what it was asked.

    Its first model has the `revision`, if there is one; `models` is the whole answer about them. A request
    for that is not kept, and answered at once unless the next answer is that nothing listens.
    """

    def __init__(self) -> None:
        self.answers: list[httpx.Response | Exception] = []
        self.asked: list[str] = []
        self.keys: list[str] = []
        self.bodies: list[bytes] = []
        self.revision = "1" * 64
        self.models: dict[str, Any] = {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/models" and not isinstance(self.answers[0], httpx.ConnectError):
            first = {"name": "m", "first": True, **({"revision": self.revision} if self.revision else {})}
            return httpx.Response(200, json=self.models or {"models": [first]})
        self.asked.append(f"{request.method} {request.url.raw_path.decode()}")
        self.keys.append(request.headers.get("idempotency-key", ""))
        self.bodies.append(request.read())
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setattr(job_client, "PAUSE_S", 0.0)
    monkeypatch.setattr(job_client, "PATIENCE_S", 0.2)
    monkeypatch.setattr(job_client, "FIRST_PATIENCE_S", 0.1)
    return Service()


@pytest.fixture
def client(service: Service) -> Iterator[JobClient]:
    with JobClient("http://api", "secret", httpx.MockTransport(service)) as made:
        yield made


@pytest.fixture
def source(tmp_path: Path) -> TextFile:
    path = tmp_path / "in.txt"
    path.write_text("a\nb\nc\n")
    return TextFile(path, Hints(format="txt"))


def job(code: int = 200, **facts: Any) -> httpx.Response:
    return httpx.Response(code, json={**JOB, **facts})


def refusal(status: int, detail: Any, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"detail": detail, "code": "x", "request_id": "r"}, headers=headers)


def test_a_file_is_handed_in_as_lines(service: Service, client: JobClient, source: TextFile) -> None:
    service.answers = [job(202)]
    assert client.submit(source) == JOB
    assert service.asked == ["POST /jobs"]
    assert service.bodies == [b'"a"\n"b"\n"c"\n']


@pytest.mark.parametrize(("name", "content"), [("a.csv", "id,text\n"), ("a.txt", "\n \n"), ("a.json", "[]")])
def test_a_file_without_texts_was_sent_and_said_to_be_empty(
    service: Service, client: JobClient, tmp_path: Path, name: str, content: str
) -> None:
    service.answers = [job()]
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(CommandError, match=f"^{re.escape(str(path))} has no texts.$"):
        client.submit(TextFile(path, Hints()))
    assert service.asked == []


def test_the_key_follows_from_the_texts(service: Service, client: JobClient, source: TextFile) -> None:
    service.answers = [job(202), job(), job(202)]
    client.submit(source)
    client.submit(source)
    source.path.write_text("a\nb\nother\n")
    client.submit(TextFile(source.path, Hints()))
    assert service.keys[0] == service.keys[1] != service.keys[2]


@pytest.mark.parametrize("revision", ["2" * 64, ""], ids=["another", "not known"])
def test_the_same_texts_got_the_kept_answers_of_another_model(
    service: Service, client: JobClient, source: TextFile, revision: str
) -> None:
    """The key followed from the texts alone: a job of yesterday's model was handed out, without a word."""
    service.revision = revision
    service.answers = [job(status="finished", models=["m@111111111111"]), job(202, id="b" * 32)]
    assert client.submit(source)["id"] == "b" * 32
    assert len(set(service.keys)) == 2


def test_a_job_that_was_made_before_the_first_worker_came_is_found(
    service: Service, client: JobClient, source: TextFile
) -> None:
    """The key had the revision, so that it was another one once that was known."""
    service.answers = [job(202), job(status="finished", models=["m@111111111111"])]
    for service.revision in ("", "1" * 64):
        assert client.submit(source)["id"] == JOB["id"]
    assert len(set(service.keys)) == 1


@pytest.mark.parametrize(
    ("status", "models", "reused"),
    [
        ("running", ["fast@111111111111"], True),
        ("finished", ["fast@111111111111", "sure@222222222222"], True),
        ("finished", ["fast@111111111111", "sure@333333333333"], False),
        ("running", ["sure@333333333333"], False),
    ],
)
def test_a_job_of_a_cascade_has_answers_of_both_members(
    service: Service, source: TextFile, status: str, models: list[str], reused: bool
) -> None:
    """It was never found again, so that each repeat of an interrupted command made another one."""
    service.models = {
        "models": [
            {"name": "m", "first": True, "revision": "4" * 64},
            {"name": "fast", "first": False, "revision": "1" * 64},
            {"name": "sure", "first": False, "revision": "2" * 64},
        ],
        "cascades": [{"name": "quick", "fast": "fast", "sure": "sure"}],
    }
    service.answers = [job(status=status, models=models), job(202, id="b" * 32)]
    with JobClient("http://api", transport=httpx.MockTransport(service), model="quick") as client:
        assert client.submit(source)["id"] == (JOB["id"] if reused else "b" * 32)


def test_a_name_that_was_another_model_gets_another_job(
    service: Service, client: JobClient, source: TextFile
) -> None:
    other = {"detail": "this Idempotency-Key belongs to", "code": "idempotency_conflict", "job": "c" * 32}
    service.answers = [httpx.Response(409, json=other), job(202)]
    assert client.submit(source) == JOB
    assert len(set(service.keys)) == 2


def test_a_quota_that_is_used_up_was_waited_for_until_midnight(
    service: Service, client: JobClient, source: TextFile
) -> None:
    used = {"detail": "9 of 9 texts of this day are used; the next day begins at X", "code": "quota_exceeded"}
    service.answers = [httpx.Response(429, json=used, headers={"retry-after": "70000"})]
    with pytest.raises(CommandError, match=r"429: 9 of 9 .* begins at X\. Repeat the command then\.$"):
        client.submit(source)


def test_a_long_wait_is_cut_short(
    service: Service, client: JobClient, source: TextFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that is held back for a week by mistake need not wait for so long once that has ended."""
    pauses = list[float]()
    monkeypatch.setattr(job_client.time, "sleep", pauses.append)
    service.answers = [refusal(429, "paused", **{"retry-after": "604800"}), job(202)]
    client.submit(source)
    assert pauses == [60.0]


@pytest.mark.parametrize(
    ("facts", "reused"),
    [
        ({"status": "finished", "models": ["m@111111111111"]}, True),
        ({"status": "finished", "models": []}, True),
        ({"status": "finished", "models": ["m@222222222222"]}, False),
        ({"status": "finished", "models": ["m@111111111111", "m@222222222222"]}, False),
        ({"status": "running", "models": ["m@222222222222"]}, False),
        ({"status": "running", "models": ["m@111111111111", "m@222222222222"]}, True),
        ({"status": "running", "models": []}, True),
    ],
)
def test_a_job_that_another_revision_answered_meanwhile_is_left_alone(
    service: Service, client: JobClient, source: TextFile, facts: dict[str, Any], reused: bool
) -> None:
    """The model was moved while the job ran, and has been moved back since."""
    service.answers = [job(**facts), job(202, id="b" * 32)]
    assert client.submit(source)["id"] == (JOB["id"] if reused else "b" * 32)
    assert service.asked == ["POST /jobs"] * (1 if reused else 2)
    assert len(set(service.keys)) == len(service.keys)


def test_a_lost_connection_is_tried_again_with_the_whole_body(
    service: Service, client: JobClient, source: TextFile
) -> None:
    service.answers = [httpx.ReadError("lost"), refusal(503, "away", **{"retry-after": "0"}), job()]
    assert client.submit(source) == JOB
    assert len(set(service.bodies)) == 1
    assert len(service.bodies) == 3


@pytest.mark.parametrize("status", [502, 503, 504])
def test_an_outage_behind_a_proxy_is_tried_again(
    service: Service, client: JobClient, source: TextFile, status: int
) -> None:
    away = httpx.Response(status, text="<html>", headers={"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"})
    service.answers = [away, job()]
    assert client.submit(source) == JOB
    parts = [httpx.Response(200, content=content) for content in (b"[0]\n", b"[1]\n[2]\n")]
    service.answers = [parts[0], away, parts[1]]
    assert list(client.results(JOB)) == [[0], [1], [2]]


@pytest.mark.parametrize("value", ["", "nan", "inf", "-1", "soon"])
def test_a_malformed_retry_after_is_ignored(
    service: Service, client: JobClient, source: TextFile, value: str
) -> None:
    service.answers = [refusal(503, "away", **{"retry-after": value}), job()]
    assert client.submit(source) == JOB


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b"1", b"null", b'"id status"'])
def test_an_answer_that_is_no_job_is_an_error(
    service: Service, client: JobClient, source: TextFile, body: bytes
) -> None:
    service.answers = [httpx.Response(200, content=body)]
    with pytest.raises(CommandError, match=r"http://api/jobs did not answer with a job: is this a Millrace"):
        client.submit(source)


def test_a_service_that_stays_away_is_given_up(service: Service, client: JobClient, source: TextFile) -> None:
    service.answers = [httpx.ConnectError("refused") for _ in range(10**5)]
    with pytest.raises(CommandError, match="nothing listens at http://api: start a"):
        client.submit(source)


def test_waiting_is_told_once_and_at_once(
    service: Service, client: JobClient, source: TextFile, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answers = [httpx.ConnectError("refused"), httpx.ConnectError("refused"), job(202)]
    client.submit(source)
    assert capsys.readouterr().err == f"Waiting: {NOTHING_LISTENS}\n"
    service.answers = [refusal(429, "full", **{"retry-after": "0"}), job(202)]
    client.submit(source)
    assert capsys.readouterr().err == "Waiting: the service answered 429: full.\n"


def test_a_service_that_is_not_there_is_given_up_sooner(
    service: Service, client: JobClient, source: TextFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_client, "PATIENCE_S", 1000.0)
    service.answers = [httpx.ConnectError("refused") for _ in range(10**5)]
    with pytest.raises(CommandError, match=re.escape(NOTHING_LISTENS)):
        client.submit(source)


def test_a_full_queue_is_waited_for(service: Service, client: JobClient, source: TextFile) -> None:
    service.answers = [*[refusal(429, "full", **{"retry-after": "0"}) for _ in range(50)], job(202)]
    assert client.submit(source) == JOB


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (refusal(413, "the body is larger than 64 bytes"), "413: the body .* split the file"),
        (
            httpx.Response(413, json={"detail": "the results need too much", "code": "job_too_large"}),
            "413: the results need too much; split the file.$",
        ),
        (refusal(422, [{"type": "t", "loc": ["body", 5], "msg": "line 5: bad"}]), "422: line 5: bad"),
        (httpx.Response(404, text="nginx"), "404: Not Found"),
    ],
)
def test_a_refusal_is_told_in_a_sentence(
    service: Service, client: JobClient, source: TextFile, answer: httpx.Response, said: str
) -> None:
    service.answers = [answer]
    with pytest.raises(CommandError, match=said):
        client.submit(source)


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_job_that_failed_before_is_begun_anew(
    service: Service, client: JobClient, source: TextFile, status: str
) -> None:
    service.answers = [job(status=status), httpx.Response(204), job(202)]
    assert client.submit(source)["status"] == "queued"
    assert service.asked == ["POST /jobs", f"DELETE /jobs/{JOB['id']}", "POST /jobs"]


def test_a_job_is_followed_to_its_end(service: Service, client: JobClient) -> None:
    running = job(status="running", done=1, position=None, rate=10.0)
    service.answers = [running, httpx.ReadTimeout("slow"), job(status="finished", done=3, position=None)]
    assert client.follow(JOB)["status"] == "finished"
    assert service.asked == [f"GET /jobs/{JOB['id']}?wait=10"] * 3


def test_without_a_terminal_progress_is_a_line_now_and_then(
    service: Service, client: JobClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = {"status": "running", "position": None, "rate": 10.0, "total": 3000}
    service.answers = [job(**running, done=1000), job(**{**running, "status": "finished"}, done=3000)]
    client.follow(JOB)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(job_client, "LINE_S", 0.0)
    service.answers = [job(), job(**running, done=1000), job(**{**running, "status": "finished"}, done=3000)]
    client.follow(JOB)
    said = "queued at 1: 0 of 3 texts\nrunning: 1,000 of 3,000 texts\nfinished: 3,000 of 3,000 texts\n"
    assert capsys.readouterr().err == said


def test_results_go_on_after_a_broken_connection(service: Service, client: JobClient) -> None:
    class Broken(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield b"[0]\n[1]\n"
            raise httpx.ReadError("lost")

    service.answers = [httpx.Response(200, stream=Broken()), httpx.Response(200, content=b"[2]\n")]
    assert list(client.results(JOB)) == [[0], [1], [2]]
    offsets = [asked.partition("offset=")[2].partition("&")[0] for asked in service.asked]
    assert offsets == ["0", "2"]


def test_results_that_do_not_come_are_no_end(service: Service, client: JobClient) -> None:
    service.answers = [httpx.Response(200, content=b"")]
    with pytest.raises(CommandError, match="no longer exist"):
        list(client.results(JOB))


def test_the_key_is_shown(client: JobClient, service: Service) -> None:
    service.answers = [httpx.Response(204)]
    client.delete(JOB)
    assert client._http.headers["authorization"] == "Bearer secret"
    assert json.dumps(service.asked) == f'["DELETE /jobs/{JOB["id"]}"]'


GONE = httpx.Response(404, json={"detail": "no such job, or it has expired", "code": "not_found"})
FINISHED = {"status": "finished", "done": 3, "position": None}


def test_a_run_whose_job_another_run_deleted_failed_at_the_end(service: Service, client: JobClient) -> None:
    """Two commands for the same texts find one job. The results were complete, and the exit status was 2."""
    service.answers = [GONE]
    client.delete(JOB)


def test_a_job_that_another_run_deleted_is_submitted_again(
    service: Service, client: JobClient, source: TextFile
) -> None:
    service.answers = [GONE, job(202, id="b" * 32), job(**FINISHED, id="b" * 32)]
    followed = client.follow(JOB, source)
    assert (followed["id"], followed["status"]) == ("b" * 32, "finished")
    part = httpx.Response(200, content=b"[0]\n")
    service.answers = [part, GONE, job(202, id="c" * 32), job(**FINISHED, id="c" * 32)]
    service.answers += [httpx.Response(200, content=b"[1]\n[2]\n")]
    assert list(client.results(followed, source)) == [[0], [1], [2]]
    assert service.asked[-1] == f"GET /jobs/{'c' * 32}/predictions?offset=1&limit=2"


def test_a_job_is_for_the_model_that_is_named(service: Service, source: TextFile) -> None:
    service.answers = [job(), job()]
    with JobClient("http://api", transport=httpx.MockTransport(service)) as client:
        client.submit(source)
    with JobClient("http://api", transport=httpx.MockTransport(service), model="org/other") as client:
        client.submit(source)
    assert service.asked == ["POST /jobs", "POST /jobs?model=org%2Fother"]
    assert service.keys[0] != service.keys[1]


def test_results_of_two_models_are_not_mixed(service: Service, client: JobClient, source: TextFile) -> None:
    part = httpx.Response(200, content=b"[0]\n")
    moved = job(**FINISHED, models=["m@222222222222"])
    service.answers = [part, GONE, job(202), moved]
    with pytest.raises(CommandError, match="the job no longer exists"):
        list(client.results({**JOB, "models": ["m@111111111111"]}, source))


def test_a_million_and_one_results_could_not_be_fetched(
    service: Service, client: JobClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them were asked for at once, and a page had at most a million."""
    monkeypatch.setattr(job_client, "PAGE", 2)
    service.answers = [httpx.Response(200, content=content) for content in (b"[0]\n[1]\n", b"[2]\n")]
    assert list(client.results(JOB)) == [[0], [1], [2]]
    assert [asked.partition("?")[2] for asked in service.asked] == ["offset=0&limit=2", "offset=2&limit=1"]


def test_texts_were_torn_at_characters_that_python_takes_for_line_ends(
    service: Service, client: JobClient
) -> None:
    texts = ["a\u2028b", "c\u2029d", "e\x85f", "g\x0bh"]
    lines = "".join(json.dumps(text, ensure_ascii=False) + "\n" for text in texts)  # of an earlier version
    service.answers = [httpx.Response(200, content=lines.encode())]
    assert list(client.texts(JOB)) == texts


@pytest.mark.parametrize("ask", [JobClient.texts, JobClient.results])
def test_lines_that_are_not_json_were_put_down_to_texts_that_changed(
    service: Service, client: JobClient, ask: Callable[[JobClient, job_client.Job], Iterator[Any]]
) -> None:
    """`sample` and `classify` took every ValueError for that."""
    service.answers = [httpx.Response(200, content=b"<html>\n")]
    with pytest.raises(CommandError, match=r"^http://api/jobs/a+/\w+ did not answer with lines of JSON\.$"):
        list(ask(client, JOB))


@pytest.mark.parametrize("count", [2, 4])
def test_texts_that_changed_are_not_put_beside_the_results_of_others(count: int) -> None:
    with pytest.raises(CommandError, match=r"^in.csv changed while being classified: repeat the command.$"):
        list(together("abc", range(count), "in.csv"))
    with pytest.raises(UnicodeEncodeError):
        list(together(("\udcff".encode() for _ in "abc"), range(count), "in.csv"))
