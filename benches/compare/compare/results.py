"""What the rounds gave: figures by subject, their medians and how far they spread."""

from __future__ import annotations

from collections import defaultdict
from statistics import median

HALVES = {"limit", "limit.read"}
ADDED = ("paced_cpu", "burst_cpu", "invoke_cpu", "system_calls", "idle_kib", "stall_kib")
"""Figures of which the limit is the sum of its halves."""
OF_WRITING = ("burst_packing", "burst_first", "base_mib", "survives", "instructions")
"""Figures that the limit's server alone has."""


class Results:
    """Figures of all rounds."""

    def __init__(self) -> None:
        self.rounds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.failures: list[str] = []

    def add(self, subject: str, figures: dict) -> None:
        """Keeps what one measure gave."""
        for name, value in figures.items():
            if value is not None:
                self.rounds[subject][name].append(float(value))

    def values(self, subject: str, name: str) -> list[float]:
        """One figure's rounds; the limit's halves are added round by round."""
        own = self.rounds[subject][name]
        if subject != "limit" or name.startswith(OF_WRITING):
            return own
        if not name.startswith(ADDED) or name.endswith(("_core", "_rate")):
            return []  # the halves do not make one delay
        return [write + read for write, read in zip(own, self.rounds["limit.read"][name])]

    def median(self, subject: str, name: str) -> float | None:
        """The median of the rounds; `None` when there is none."""
        values = self.values(subject, name)
        return median(values) if values else None

    def spread(self, subject: str, name: str) -> float:
        """Half of the way from the least to the greatest, as a share of the median."""
        values = self.values(subject, name)
        middle = median(values) if values else 0
        return (max(values) - min(values)) / 2 / abs(middle) if middle else 0.0

    def ratio(self, name: str, other: str) -> float | None:
        """The bridge's median as a multiple of another's."""
        ours, theirs = self.median("bridge", name), self.median(other, name)
        return ours / theirs if ours is not None and theirs else None

    def as_json(self) -> dict:
        """Medians, extremes and every round."""
        return {
            subject: {
                name: {"median": median(values), "least": min(values), "greatest": max(values), "rounds": values}
                for name, values in figures.items() if values
            }
            for subject, figures in self.rounds.items()
        }
