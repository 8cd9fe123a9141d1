"""What `expkit show` prints for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from expkit.cli.checkpoints import readable_size
from expkit.printable import printable
from expkit.spans import span

__all__ = ["lines"]

_EVENTS = 3
_ENDINGS = 3
_WIDTH = 11


def lines(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yield what `expkit.cli.show.describe` has found of a run: each name with its lines, one below the other.

    A terminal finds nothing in them to obey.
    """
    for name, texts in _parts(summary):
        said = [text for text in texts if text]
        for place, text in enumerate(said):
            yield printable(f"{name if not place else '':<{_WIDTH}} {text}")


def _parts(summary: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    yield "run", [summary["run"]]
    yield "state", [_state(summary)]
    for name in ("ended", "event", "forecast"):
        if name in summary:
            yield name, [summary[name]["text"]]
    yield "step", [summary["step"]]
    yield "started", [_started(summary)]
    yield "before", list(_endings(summary.get("ended_before", ())))
    for name in ("rewound", "stopped_by"):
        yield name, [summary.get(name, "")]
    yield "parent", [_parent(summary.get("parent", {}))]
    yield "command", [summary["command"]]
    yield "git", [_git(summary)]
    yield "model", [_model(summary.get("model", {}))]
    yield "data", [_data(summary.get("dataset", {}))]
    yield "seed", ["" if summary.get("seed") is None else str(summary["seed"])]
    yield "host", [_host(summary)]
    yield "processes", [_processes(summary.get("processes", {}))]
    yield "metrics", [_numbers(summary["metrics"], without=("final/",))]
    ended = summary["standing"] not in ("starting", "running", "stalled", "crashed")  # else they are old
    said = summary.get("final_metrics", {}) if ended else {}
    final = {name: value for name, value in said.items() if not name.startswith("best_")}
    yield "final", [_numbers({name: value for name, value in final.items() if name not in summary["metrics"]})]
    yield "best", [_best(summary.get("best", {}))]
    yield "events", list(_events(summary.get("events", {})))
    yield "snapshots", [_snapshots(summary.get("snapshots", {}))]
    yield "checkpoints", [_checkpoints(summary.get("checkpoint_files", {}))]
    yield "pictures", list(summary.get("pictures", ()))
    yield "undelivered", list(_undelivered(summary.get("undelivered", {})))
    commands = summary["commands"]
    width = min(72, max((len(each["command"]) for each in commands), default=0))
    yield "next", [f"{each['command']:<{width}}  # {each['does']}" for each in commands]


def _state(summary: Mapping[str, Any]) -> str:
    said, state = str(summary["state"]), str(summary["standing"])
    told = said.partition(" (")[2]
    return f"{state} ({told}" if told else state


def _started(summary: Mapping[str, Any]) -> str:
    if summary.get("started") is None:
        return ""
    words = [str(summary["started"])]
    if "duration_seconds" in summary:
        took = "for" if summary["standing"] in ("starting", "running", "stalled") else "took"
        words.append(f"{took} {span(summary['duration_seconds'])}")
    if "restarts" in summary:
        steps = [str(step) for step in summary.get("resumes", ()) if step is not None]
        at = f", at step {', '.join(steps[-5:])}" if steps else ""
        words.append(f"started again {_times(summary['restarts'])}{at}")
    return "; ".join(words)


def _endings(before: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield how it ended the last times that it was gone on with."""
    if len(before) > _ENDINGS:
        yield f"the last {_ENDINGS} of {len(before)} times that it stopped:"
    for each in before[-_ENDINGS:]:
        why = f" ({each['why']})" if each.get("why") else ""
        yield f"stopped at step {each.get('step')}, {each.get('time')}: {each.get('state')}{why}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _parent(parent: Mapping[str, Any]) -> str:
    words = [str(parent[name]) for name in ("run", "snapshot") if parent.get(name)]
    return ", ".join(words) + (f", step {parent['step']}" if words and parent.get("step") is not None else "")


def _git(summary: Mapping[str, Any]) -> str:
    if not summary.get("git"):
        return ""
    return f"{summary['git']}{', with changes that were not committed' if summary.get('git_dirty') else ''}"


def _model(model: Mapping[str, Any]) -> str:
    name, count = model.get("class"), model.get("parameters")
    return ", ".join([*([str(name)] if name else []), *([f"{count:,} parameters"] if isinstance(count, int) else [])])


def _data(data: Mapping[str, Any]) -> str:
    """Return which data it was: its name and other plain values, and how many samples it has."""
    plain = {key: value for key, value in data.items() if isinstance(value, str | int | float) and key != "name"}
    sizes = [
        f"{data[part]['samples']:,} {word} samples"
        for part, word in (("train", "training"), ("val", "validation"))
        if isinstance(data.get(part), Mapping) and isinstance(data[part].get("samples"), int)
    ]
    more = "  ".join(f"{key} {value}" for key, value in plain.items())
    return ", ".join(filter(None, [str(data.get("name") or ""), *sizes, more]))


def _host(summary: Mapping[str, Any]) -> str:
    hardware = summary.get("hardware", {})
    gpus, model = hardware.get("gpu_count"), hardware.get("gpu_model")
    device = f"{gpus} x {model}" if gpus else hardware.get("cpu")
    return ", ".join(str(each) for each in (summary.get("host"), device) if each)


def _processes(found: Mapping[str, Any]) -> str:
    if not found:
        return ""
    where = Counter(map(str, found.get("hosts") or ()))
    each = ", ".join(f"{count} on {host}" for host, count in where.items())
    return f"{found.get('count')} ({found.get('strategy')}){f': {each}' if len(where) > 1 else ''}"


def _numbers(metrics: Mapping[str, Any], without: tuple[str, ...] = ()) -> str:
    return "  ".join(
        f"{name} {_short(value)}"
        for name, value in metrics.items()
        if not name.startswith(without or "\0") and not isinstance(value, dict | list)
    )


def _best(best: Mapping[str, Any]) -> str:
    if not best:
        return ""
    at = f" at step {best['step']}" if best.get("step") is not None else ""
    return f"{best['metric']} {_short(best['value'])}{at}" + (f", {best['checkpoint']}" if best["checkpoint"] else "")


def _events(events: Mapping[str, Any]) -> Iterator[str]:
    if not events:
        return
    yield f"{events['count']}: " + ", ".join(f"{count} {kind}" for kind, count in events["kinds"].items())
    for each in events["last"][-_EVENTS:]:
        yield f"step {each['step']}  {each['severity'].lower()}  {each['kind']}: {each['message']}"


def _snapshots(found: Mapping[str, Any]) -> str:
    if not found:
        return ""
    last = found["last"][-1]
    return f"{found['count']}, the last one {last['reason']}" + (f" at step {last['step']}" if last["step"] else "")


def _checkpoints(found: Mapping[str, Any]) -> str:
    if not found:
        return ""
    words = [f"{found['count']}, {readable_size(found['total_bytes'])}"]
    words += [f"{name} step {found[name]}" for name in ("newest", "best") if found[name] is not None]
    return "; ".join([*words, *([f"{found['set_aside']} set aside"] if found["set_aside"] else [])])


def _undelivered(trackers: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, trouble in trackers.items():
        count, error = trouble["undelivered"], trouble.get("last_error")
        yield f"{name} lacks {count} item{'s' if count != 1 else ''}" + (f" ({error})" if error else "")


def _short(value: Any) -> str:
    if value is None:  # JSON has no NaN
        return "not finite"
    return f"{value:.5g}" if isinstance(value, float) else str(value)
