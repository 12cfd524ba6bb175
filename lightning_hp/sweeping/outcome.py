"""What one training of a sweep leaves, in plain types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

Status: TypeAlias = Literal["complete", "failed", "pruned"]


@dataclass(frozen=True)
class Outcome:
    """What one training of a sweep leaves.

    Attributes:
        status: ``"complete"``, ``"failed"`` or ``"pruned"``.
        score: The monitored value; ``None`` if it failed.
        reason: Why it failed, in one line.
        seconds: Duration of ``fit`` with its searches.
        parameters: Number of weights.
        latency_ms: Time of one sample, if it was asked for.
        used: What it was trained with instead of the settings: found by finders, or scaled with the batch size.
        finders: The states of the finders, for the other seeds of the same settings.
        log_dir: Folder of its logs.
        traceback: Where it failed.
        ends_sweep: Whether no training of the sweep can be scored.

    """

    status: Status
    score: float | None = None
    reason: str | None = None
    seconds: float = 0.0
    parameters: int | None = None
    latency_ms: float | None = None
    used: Mapping[str, float] = field(default_factory=dict)
    finders: Sequence[Any] = ()
    log_dir: str | None = None
    traceback: str | None = None
    ends_sweep: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The fields in JSON types."""
        return asdict(self)
