"""Benchmark results: one ``Row`` per rung or baseline and shape, and its JSON and CSV forms.

The JSON of a run is ``{"device", "driver", "torch", "cuda", "commit", "command", "rows": [...]}``;
a row has the fields of ``Row.as_json``. In CSV a row is a line with those fields, flat, and the
run's device, driver and commit.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from workbench import operators
from workbench.operators.operator import Case


@dataclass(frozen=True)
class Environment:
    """The machine and source version of a run; ``clocks`` is only kept in the history."""

    device: str
    driver: str | None
    torch: str
    cuda: str | None
    commit: str | None
    command: str
    clocks: str | None = None


@dataclass(frozen=True)
class Estimated:
    """The time a GPU might take for a row that ran on the simulator (workbench.estimate).

    Attributes:
        gpu: its name for --gpu.
        time_ms: the estimate.
        band: its relative error, as found in comparison with published times.
        limiter: the kernel's bottleneck.
        occupancy: theoretical, a fraction.
        occupancy_limiter: what keeps it from more.
        parts: what each unit would take alone, in ms, and what waiting adds ("latency").
        registers: per thread; this and the next two are the most of any kernel launched.
        shared_bytes: per block, static and dynamic.
        spill_bytes: of spill stores and loads per thread, counted once each in the code.
    """

    gpu: str
    time_ms: float
    band: float
    limiter: str
    occupancy: float
    occupancy_limiter: str
    parts: Mapping[str, float] = field(default_factory=dict)
    registers: int | None = None
    shared_bytes: int | None = None
    spill_bytes: int | None = None


@dataclass(frozen=True)
class Traffic:
    """Bytes of a memory-bound operator, as the simulator counts them.

    Attributes:
        ideal_bytes: every input read once and every output written once.
        asked: bytes that lanes and bulk copies request, over the ideal.
        moved: bytes between the multiprocessors and the L2 cache, in sectors, over the ideal.
    """

    ideal_bytes: int
    asked: float
    moved: float


@dataclass(frozen=True)
class Row:
    """One rung, or one library baseline, on one shape.

    Attributes:
        op: the operator's name.
        kernel: the rung's name, or the baseline's.
        shape: the sizes, as workbench.operators.shapes writes them.
        dtype: torch's name for it.
        target: gpu or simulator.
        checked: it was checked and found right; if not, nothing else is known about it.
        options: those requested, as on the command line.
        layout: memory layout of the tensors; "" is the operator's first.
        time_ms: median time on the GPU; None on the simulator, whose own time is meaningless.
        spread: interquartile range of that time, in ms.
        rate: TFLOP/s or GB/s, as ``unit`` ("tflops" or "gbps") says.
        roof_fraction: rate over the hardware's peak.
        ratios: each baseline's time over ours; above 1 is faster.
        counters: what the simulator counted (workbench.harness.counters).
        share: largest error over the error allowed; None if not checked.
        note: a report about a wrong rung or baseline, why a figure is missing, or what is odd.
        baseline: the row is a library's, not a rung's.
        refused: why it was not run: what it needs, why it declines, that memory is short.
        estimate: what a GPU might take, on the simulator.
        sampled_blocks: how many blocks of each launch were simulated, and their counters scaled to
            its grid; 0 if all were.
        traffic: bytes asked for and moved, where no FLOPs are of interest; on a GPU those of a
            few rows on the simulator.
    """

    op: str
    kernel: str
    shape: str
    dtype: str
    target: str
    checked: bool
    options: str = ""
    layout: str = ""
    unit: str = "tflops"
    time_ms: float | None = None
    spread: float | None = None
    rate: float | None = None
    roof_fraction: float | None = None
    ratios: Mapping[str, float] = field(default_factory=dict)
    counters: Mapping[str, float] = field(default_factory=dict)
    share: float | None = None
    note: str = ""
    baseline: bool = False
    refused: str = ""
    estimate: Estimated | None = None
    traffic: Traffic | None = None
    sampled_blocks: int = 0

    @property
    def case(self) -> Case:
        """The input."""
        operator = operators.get(self.op)
        layout = {"layout": self.layout} if self.layout else {}
        return operator.case(self.shape, options=self.options, dtype=self.dtype, **layout)

    @property
    def subject(self) -> str:
        """Sizes, options, layout and dtype: ``M=64,N=64,K=64 nt float32``."""
        return " ".join(filter(None, (self.shape, self.options, self.layout, self.dtype)))

    def as_json(self) -> dict[str, Any]:
        """The row as stored in JSON files; fields without a value are null."""
        fields = asdict(self)
        row = {name: fields[name] for name in _SAME}
        row[self.unit] = self.rate
        row["roof_fraction"] = self.roof_fraction
        row |= {f"{_RATIO}{name}": ratio for name, ratio in self.ratios.items()}
        row["counters"] = dict(self.counters)
        if self.target == "simulator":
            row["estimate"] = self.estimate and {
                name: value for name, value in fields["estimate"].items() if value is not None
            }
            row["sampled_blocks"] = self.sampled_blocks
        if self.traffic is not None:
            row["traffic"] = fields["traffic"]
        row["baseline"] = self.baseline
        row["refused"] = self.refused or None
        row["note"] = self.note
        return row

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Row:
        """The row from the output of ``as_json``."""
        unit = "gbps" if "gbps" in row else "tflops"
        estimate, traffic = row.get("estimate"), row.get("traffic")
        return cls(
            **{name: row[name] for name in _SAME},
            unit=unit,
            rate=row[unit],
            roof_fraction=row["roof_fraction"],
            ratios={k.removeprefix(_RATIO): v for k, v in row.items() if k.startswith(_RATIO)},
            counters=row["counters"],
            note=row["note"],
            baseline=row["baseline"],
            refused=row["refused"] or "",
            estimate=Estimated(**estimate) if estimate else None,
            traffic=Traffic(**traffic) if traffic else None,
            sampled_blocks=row.get("sampled_blocks", 0),
        )


_SAME = (
    *("op", "kernel", "shape", "options", "layout", "dtype", "target"),
    *("checked", "share", "time_ms", "spread"),
)
_RATIO = "ratio_vs_"


def json_text(environment: Environment, rows: Sequence[Row]) -> str:
    """A run as JSON."""
    head = asdict(environment)
    del head["clocks"]
    document = head | {"rows": [row.as_json() for row in rows]}
    return json.dumps(document, indent=2) + "\n"


def csv_text(environment: Environment, rows: Sequence[Row]) -> str:
    """A run as CSV (RFC 4180, but lines end as in Unix), one line per row below their titles.

    The columns: the fields of ``Row.as_json`` with its sizes (``M``, ``N``), those of its estimate
    as ``estimate_time_ms`` and ``estimate_part_DRAM``, its traffic as ``traffic_moved``, the run's,
    and its counters by their names. Numbers keep all digits; what a row does not have is empty.
    """
    about = {name: getattr(environment, name) for name in ("device", "driver", "commit")}
    lines = [_flat(row) | about for row in rows]
    titles = {title: None for line in lines for title in line}
    counted = {name for row in rows for name in row.counters}

    def group(title: str) -> tuple[bool, ...]:
        inside = title.startswith("traffic_"), title.startswith("estimate_")
        return (title in counted, title in about, *inside)

    order = sorted(titles, key=group)
    file = io.StringIO()
    writer = csv.DictWriter(file, order, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def _flat(row: Row) -> dict[str, Any]:
    """The fields of a row's JSON, those inside others with a prefix; texts in one line each."""
    fields = row.as_json()
    inside = {name: fields.pop(name, None) or {} for name in ("counters", "estimate", "traffic")}
    parts = inside["estimate"].pop("parts", {})
    first = {name: fields.pop(name) for name in ("op", "kernel", "shape")}
    sizes = dict(size.split("=") for size in row.shape.split(",") if "=" in size)
    flat = {
        **{**first, **sizes, **fields},
        **{f"estimate_{name}": value for name, value in inside["estimate"].items()},
        **{f"estimate_part_{name}": value for name, value in parts.items()},
        **{f"traffic_{name}": value for name, value in inside["traffic"].items()},
        **inside["counters"],
    }
    return {name: _cell(value) for name, value in flat.items()}


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return "; ".join(value.splitlines()) if isinstance(value, str) else value
