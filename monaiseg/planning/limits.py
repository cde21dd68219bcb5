"""Limits: the minutes, cores and memory that a run may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What the user has."""

    minutes: float
    """Wall clock of the training."""
    cores: int
    memory_gb: float
    """GiB that the training and its workers may take together."""
    gpu_memory_gb: float | None = None
    """GiB of the GPU that it runs on. None: it runs on the processor."""

    @property
    def device(self) -> str:
        """Where steps are computed, in torch's words."""
        return "cpu" if self.gpu_memory_gb is None else "cuda"
