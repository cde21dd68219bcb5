"""Questions: what a process that measures is asked, and its answers.

The process imports everything once and answers one question after another, see `monaiseg.planning.probes`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import IO, cast

from typing_extensions import Self

from monaiseg.data import Shape, Spacing
from monaiseg.errors import SettingsError
from monaiseg.planning.probes import ANSWERED, PROBED, DataProbe, StepProbe, step_of
from monaiseg.settings import Settings, dump_settings

ENDING_SECONDS = 5.0
"""How long to wait for the process to end."""


class MeasuringProcess:
    """A process that measures steps, and what surrounds them. It starts in the background and ends with the block.

    ```python
    with MeasuringProcess() as process:
        steps, data = process.run([(settings, 3)], None, (1.0, 1.0, 1.0), cores=2)
    ```
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603  our own words
            [sys.executable, "-m", "monaiseg.planning.probes", str(time.time())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        process = self._process
        with contextlib.suppress(BrokenPipeError):
            self._pipe("stdin").close()
        try:
            process.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for name in ("stdout", "stderr"):
            self._pipe(name).close()

    def run(
        self,
        steps: Sequence[tuple[Settings, int]],
        data: tuple[Settings, Shape, int] | None,
        spacing: Spacing,
        *,
        cores: int,
        device: str = "cpu",
        on_probe: Callable[[], object] = lambda: None,
    ) -> tuple[list[StepProbe | None], DataProbe | None]:
        """Measure training steps, and what surrounds them.

        Args:
            steps: settings and number of classes of each step.
            data: settings, shape of a scan along X, Y, Z, and number of classes; None: what surrounds steps is not
                measured.
            spacing: voxel size of networks and scans, in mm along X, Y, Z.
            cores: number of threads for computation.
            device: device that computes the steps.
            on_probe: called after each measurement: one of the data, and one per step.

        Returns:
            The steps, None for each that ran out of memory, and the cost of what surrounds them.

        Raises:
            SettingsError: the process has ended; the message says why.
        """
        question = {
            "steps": [(dump_settings(settings), classes) for settings, classes in steps],
            "data": data and (dump_settings(data[0]), data[1], data[2]),
            "spacing": spacing,
            "cores": cores,
            "device": device,
        }
        with contextlib.suppress(BrokenPipeError):  # it ended at once; stderr says why
            self._pipe("stdin").write(json.dumps(question) + "\n")
            self._pipe("stdin").flush()
        self._await_answer(on_probe)
        document = json.loads(self._pipe("stdout").readline())
        found = [None if record is None else step_of(record) for record in document["steps"]]
        return found, document["data"] and DataProbe(**document["data"])

    def _await_answer(self, on_probe: Callable[[], object]) -> None:
        complaints = []
        for line in self._pipe("stderr"):
            if line.strip() == ANSWERED:
                return
            if line.strip() == PROBED:
                on_probe()
            else:
                complaints.append(line)
        code = self._process.wait()
        said = "".join(complaints).strip() or f"the process ended with exit code {code}"
        if code == -signal.SIGKILL:
            said = "the system killed the process that measures, as it does when memory runs out"
        raise SettingsError(
            f"the speed of this computer could not be measured: {said.splitlines()[-1]}; correct that, or give "
            "--measurements from a similar computer"
        )

    def _pipe(self, name: str) -> IO[str]:
        return cast(IO[str], getattr(self._process, name))
