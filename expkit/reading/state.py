"""How a run stands: what the badge, the line below it and the strip of alerts of every face say."""

from __future__ import annotations

import math
import operator
import re
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from expkit.ending import Ending, ending, life_sign
from expkit.forecast import forecast_text
from expkit.reading.feed import RunFeed
from expkit.severity import Severity
from expkit.spans import span
from expkit.standing import sign_of, standing

__all__ = ["AlertLine", "Gauge", "RunState", "StateReader"]

_ASK_AGAIN = 15.0
_RATE_OVER = 60.0  # seconds
_SHOWN_ALERTS = 200
_GPU = re.compile(r"gpu/(\d{1,9})/")


@dataclass(frozen=True, slots=True)
class AlertLine:
    """One event: what was seen where, by which rule, with which values."""

    step: int
    time: float
    severity: str
    kind: str
    rule: str
    message: str
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Gauge:
    """Something of the machine that is full to some part: a GPU's computing or its memory, the host's memory.

    Attributes:
        name: what.
        fraction: from 0 to 1.
        text: the same for people.
    """

    name: str
    fraction: float
    text: str


@dataclass(frozen=True, slots=True)
class RunState:
    """How a run stands.

    Attributes:
        name: its id.
        path: its directory.
        state: starting, running, stalled, crashed, finished, failed, interrupted, preempted, unknown or gone.
        text: what more there is to say of that in one line, or "".
        step, total_steps, epoch: how far it is; None if not known.
        steps_per_sec: over the last minute or so; None if nothing moves.
        eta: when it ends, in words; "" if not known.
        eta_seconds: until then.
        quiet_seconds: since the last record; None without one.
        records: entries in its journal.
        broken: lines of it that cannot be read.
        restarts: how often it was started again.
        gauges: of the machine.
        alerts: the last events, newest last.
        last: metric -> last value.
    """

    name: str
    path: str
    state: str
    text: str = ""
    step: int | None = None
    total_steps: int | None = None
    epoch: float | None = None
    steps_per_sec: float | None = None
    eta: str = ""
    eta_seconds: float | None = None
    quiet_seconds: float | None = None
    records: int = 0
    broken: int = 0
    restarts: int = 0
    gauges: tuple[Gauge, ...] = ()
    alerts: tuple[AlertLine, ...] = ()
    last: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self)


class StateReader:
    """Tells how the run of a feed stands.

    Whether its process lives is asked each time, which takes 0.2 ms; why one died at once, and now and then again:
    SLURM and the kernel may know more by then.
    """

    def __init__(self, feed: RunFeed) -> None:
        self._feed = feed
        self._ending: Ending | None = None
        self._asked: tuple[float, Any] = (-math.inf, None)

    def read(self) -> RunState:
        """Return how the run stands now."""
        feed, status = self._feed, self._feed.status
        step = _whole(feed.last.get("step")) if "step" in feed.last else _whole(status.get("step"))
        quiet = max(0.0, time.time() - feed.last["time"]) if "time" in feed.last else None
        state, text = self._standing(quiet)
        forecast = status.get("forecast") if state in ("running", "stalled") else None
        forecast = forecast if isinstance(forecast, Mapping) else {}
        moving = state == "running"
        rate = _number(forecast.get("steps_per_sec")) or (_rate(feed) if moving else None)
        total = _whole(status.get("total_steps"))
        left = _number(forecast.get("remaining_seconds")) if state == "running" else None
        if left is None and rate and moving and total is not None and step is not None:
            left = max(total - step, 0) / rate
        return RunState(
            name=feed.name,
            path=str(feed.run.root),
            state=state,
            text=text,
            step=step,
            total_steps=total,
            epoch=_number(feed.last.get("epoch")),
            steps_per_sec=rate if moving else None,
            eta=forecast_text(forecast) if left is not None and forecast else "",
            eta_seconds=left,
            quiet_seconds=quiet,
            records=feed.records,
            broken=feed.broken,
            restarts=_whole(status.get("restarts")) or 0,
            gauges=tuple(_gauges(feed.last)),
            alerts=tuple(_alert(entry) for entry in feed.events[-_SHOWN_ALERTS:]),
            last={name: value for name, value in feed.last.items() if name not in ("step", "time", "epoch")},
        )

    def _standing(self, quiet: float | None) -> tuple[str, str]:
        """Return the state and what there is to say of it."""
        feed = self._feed
        if not feed.run.root.is_dir():
            return "gone", f"{feed.run.root} is not there (any more)"
        ended = self._how_it_ended() if feed.status.get("state") is not None else None
        records = quiet if quiet is not None or not feed.records else math.inf  # records without a time are old ones
        state = standing(feed.status, sign_of(ended), records, _usual_gap(feed), has_results=bool(feed.curves))
        return state, self._said_of(state, ended, quiet)

    def _said_of(self, state: str, ended: Ending | None, quiet: float | None) -> str:
        """Return what there is to say of a state."""
        feed = self._feed
        ago = f"last record {span(quiet)} ago" if quiet is not None else "no record yet"
        if feed.status.get("state") is None:
            if not feed.records:
                return "from its results.json alone" if feed.curves else "no record yet"
            return f"no status.json; {ago}"
        if ended is not None:
            return f"{ended.why}; {ago}" if ended.state == "silent" else ended.why
        if state == "starting":
            return ago if quiet is not None else ""
        return ago if state == "stalled" else ""

    def _how_it_ended(self) -> Ending | None:
        status = self._feed.status
        going = status.get("state") in ("starting", "running")
        known = (status.get("state"), status.get("heartbeat_time"), life_sign(status) if going else "")
        moment, before = self._asked
        if known != before or (going and time.monotonic() - moment > _ASK_AGAIN):
            self._asked = (time.monotonic(), known)
            self._ending = ending(self._feed.run)
        return self._ending


def _rate(feed: RunFeed) -> float | None:
    """Return the steps per second over the last minute of records; over the last two of them, if they are rarer."""
    if len(feed.recent) < 2:
        return None
    step, moment = feed.recent[-1]
    earlier = list(feed.recent)[:-1]
    before, began = next((pair for pair in earlier if moment - pair[1] <= _RATE_OVER), earlier[-1])
    return (step - before) / (moment - began) if moment > began and step > before else None


def _usual_gap(feed: RunFeed) -> float:
    """Return the seconds from one record to the next, lately: the median, as a resume may have come after days."""
    moments = [moment for _, moment in feed.recent]
    began = _moment(feed.status.get("started"))
    if len(moments) == 1 and began is not None:
        moments = [began, max(began, *moments)]  # nothing is known yet but how long the first one took
    return statistics.median(map(operator.sub, moments[1:], moments)) if len(moments) > 1 else 0.0


def _moment(text: Any) -> float | None:
    """Return the seconds since 1970 of a time as a status.json has it, or None."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def _gauges(last: Mapping[str, float]) -> list[Gauge]:
    """Return the gauges that the last values of the machine's metrics make, GPU by GPU, then the host."""
    gauges = []
    gpus = sorted({int(match[1]) for name in last if (match := _GPU.match(name)) is not None})
    for gpu in gpus:
        used = {name.split("/", 2)[2]: value for name, value in last.items() if name.startswith(f"gpu/{gpu}/")}
        heat = f", {used['temp_c']:.0f} °C" if "temp_c" in used else ""
        gauges += _percent(f"gpu {gpu}", used.get("compute_util"), heat)
        memory = f", {used['memory_used_gb']:.1f} GB" if "memory_used_gb" in used else ""
        gauges += _percent(f"gpu {gpu} memory", used.get("memory_used_pct"), memory)
    own = f", this process {last['process/rss_gb']:.1f} GB" if "process/rss_gb" in last else ""
    return [
        *gauges,
        *_percent("cpu", last.get("cpu/percent"), ""),
        *_percent("memory", last.get("memory/percent"), own),
    ]


def _percent(name: str, value: float | None, more: str) -> list[Gauge]:
    if value is None or not math.isfinite(value):
        return []
    return [Gauge(name, min(max(value / 100, 0.0), 1.0), f"{value:.0f} %{more}")]


def _alert(entry: Mapping[str, Any]) -> AlertLine:
    values = entry.get("values")
    return AlertLine(
        step=entry["step"],
        time=_number(entry.get("time")) or 0.0,
        severity=Severity(entry["severity"]).value,
        kind=entry["kind"],
        rule=str(entry.get("detector") or entry["kind"]),
        message=entry["message"],
        values=values if isinstance(values, Mapping) else {},
    )


def _whole(value: Any) -> int | None:
    return int(value) if type(value) in (int, float) and math.isfinite(value) else None


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None
