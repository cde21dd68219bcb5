"""Limits: the minutes, cores and memory that a run may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The time, cores and memory that the user gives to a run."""

    minutes: float
    """Wall-clock minutes of the run."""
    cores: int
    memory_gb: float
    """GiB of memory that the run and its workers may use together."""
    gpu_memory_gb: float | None = None
    """GiB of GPU memory. None: the run uses the CPU."""
    gpu_id: int = 0
    """Index of the GPU."""

    @property
    def device(self) -> str:
        """Type of the device that computes steps, as in torch."""
        return "cpu" if self.gpu_memory_gb is None else "cuda"

    @property
    def place(self) -> str:
        """The device itself, with the index of the GPU."""
        return "cpu" if self.gpu_memory_gb is None else f"cuda:{self.gpu_id}"
