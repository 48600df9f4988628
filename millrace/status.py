"""`millrace status`: prints the state of the service. Exit status 0 if it can answer requests now, else 1."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from millrace.service_client import Frame, StatsClient, add_client_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_client_arguments(parser, StatsClient)


def run(args: argparse.Namespace) -> int:
    client = StatsClient.of(args)
    frame = client.one()
    print("\n".join(lines(client.url, frame)))
    return 0 if frame["ready"] else 1


def lines(url: str, frame: Frame) -> Iterator[str]:
    """The lines to print for a frame."""
    model, now = frame["model"], frame["now"]
    yield f"ready        {url}" if frame["ready"] else f"NOT READY    {url}: {frame['reason']}"
    if model:
        yield f"model        {model['name']} {model['revision']}, {model['engine']} {model['precision']}"
    for one in frame.get("models", [])[1:]:
        found, waits = one["model"], sum(lane["entries"] for lane in one["lanes"].values())
        runs = f"{found['revision']}, {found['engine']} {found['precision']}" if found else "no record"
        yield f"also serves  {one['name']} {runs}; {number(waits)} waiting, {one['workers']} workers"
    for name, pause in frame.get("pauses", {}).items():
        yield f"PAUSED       {name}, for {number(pause['left_s'], 's')} (what waits: {pause['waiting']})"
    for name, lane in frame["lanes"].items():
        oldest = f", the oldest for {number(lane['oldest_s'], 's')}" if lane["entries"] else ""
        yield f"{name:<12} {number(lane['entries'])} waiting ({number(lane['cost'], 'tokens')}){oldest}"
    yield f"in flight    {number(frame['in_flight'])}; {number(frame['solo'])} recovered from lost workers"
    shards = frame.get("shards") or {"count": 1, "up": 1}
    if shards["count"] > 1:
        down = ", ".join(map(str, shards.get("down", ())))
        yield f"shards       {shards['up']} of {shards['count']} up" + (f"; down: {down}" if down else "")
    yield f"throughput   {number(now['worked'])} texts/s by all workers"
    yield f"this API     {number(now['answered'])} texts/s, p99 {number(now['p99_ms'], 'ms')}"
    yield f"workers      {len(frame['workers'])}"
    for worker in frame["workers"]:
        did = f"{number(worker['texts'])} texts in {number(worker['batches'])} batches"
        runs = (
            f"{worker['engine']} {worker['precision']} in {worker.get('arithmetic') or worker['precision']}"
        )
        yield f"  {worker['id']}  {worker['state']:<8} {worker['revision']}  {runs}  {did}"
        if fallback := worker.get("fallback"):
            yield f"    not the requested setting: {fallback}"
    for job in frame["jobs"] or ():
        done = f"{number(job['done'])} of {number(job['total'])} texts"
        yield f"job          {job['id'][:8]}  {job['status']:<9} {done}"


def number(value: float | None, unit: str = "") -> str:
    """Formats a number with about three significant digits."""
    if value is None:
        return "-"
    text = f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
    return f"{text} {unit}".rstrip()
