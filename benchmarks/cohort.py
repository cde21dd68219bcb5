"""Many phantoms through `predict`: memory from the first scan to the last, and kills by SIGKILL at random moments.

Trains a tiny network on five phantoms, labels the scans of a cohort undisturbed, then again in a folder whose run is
killed at random moments and repeated. Resident memory is that of the command after each scan, read from /proc.

Usage: python benchmarks/cohort.py [--scans 300] [--kills 10] [--threads 2] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import MONAISEG, machine, table

from monaiseg.data import make_phantom, write_phantom
from monaiseg.settings import dump_settings, settings_from_dict

SETTINGS = {
    "dataset": {"seg": {"patch_size": [32, 32, 32], "augmentation": {"enabled": False}}},
    "tsk_set": {
        "gpu_id": -1,
        "epochs": 2,
        "val_period": 2,
        "network": {"channels": 8, "num_stages": 2},
    },
}


def made_scans(folder: Path, count: int) -> Path:
    """Phantoms of 32 to 48 voxels along each axis."""
    draws = random.Random(0)  # noqa: S311  sizes, no secrets
    for number in range(count):
        x, y, z = (draws.randrange(32, 49) for _ in range(3))
        made = make_phantom((x, y, z), (1.0, 1.0, 1.0), "RAS", (1, 2), seed=number)
        write_phantom(folder, f"case_{number:03d}", made)
    return folder / "images"


def trained(folder: Path) -> Path:
    made_scans(folder / "training", 5)
    say = ("--output-root-path", folder / "work", "--data-task-name", "phantoms")
    run(*MONAISEG, "prepare", "--dataset-path", folder / "training", *say)
    settings = folder / "settings.json"
    settings.write_text(dump_settings(settings_from_dict(SETTINGS)))
    run(*MONAISEG, "train", folder / "work" / "phantoms", "--settings", settings, "--name", "tiny")
    return folder / "work" / "phantoms" / "tiny"


def run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)  # noqa: S603


def started(model: Path, scans: Path, out: Path, threads: int) -> subprocess.Popen[str]:
    command = [*MONAISEG, "predict", model, scans, "-o", out, "--confidence"]
    command += ["--volumes", out / "volumes.csv", "--threads", threads]
    return subprocess.Popen(  # noqa: S603
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def undisturbed(process: subprocess.Popen[str]) -> list[float]:
    """Resident memory after each scan, in MiB; the command prints a line for each."""
    assert process.stdout is not None
    memory = [resident_mib(process.pid) for line in process.stdout if "_pred.nii.gz" in line]
    assert process.wait() == 0
    return memory


def killed(model: Path, scans: Path, out: Path, options: argparse.Namespace, longest: float) -> int:
    """Kill and repeat the command; returns how many of the kills found it at work."""
    draws, hits = random.Random(1), 0  # noqa: S311
    for _ in range(options.kills):
        process = started(model, scans, out, options.threads)
        time.sleep(draws.uniform(0, longest))
        hits += process.poll() is None
        process.kill()
        process.communicate()
    process = started(model, scans, out, options.threads)
    process.communicate()
    assert process.returncode == 0
    return hits


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=300)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as place:
        folder = options.folder or Path(place)
        model, scans = trained(folder), made_scans(folder / "cohort", options.scans)
        begun = time.perf_counter()
        memory = undisturbed(started(model, scans, folder / "once", options.threads))
        seconds = time.perf_counter() - begun
        tenth = options.scans // 10
        early, late = (statistics.median(part) for part in (memory[:tenth], memory[-tenth:]))
        hits = killed(model, scans, folder / "killed", options, seconds / options.kills * 2)
        same = contents(folder / "once") == contents(folder / "killed")
        files = len(contents(folder / "once"))
    rows = [
        ["scans, seconds", f"{options.scans}, {seconds:.0f}"],
        [f"resident MiB, median of the first {tenth}", f"{early:.1f}"],
        [f"resident MiB, median of the last {tenth}", f"{late:.1f} ({late / early - 1:+.1%})"],
        ["kills while it worked", f"{hits} of {options.kills}"],
        [f"{files} files equal, hidden ones included", "yes" if same else "NO"],
    ]
    print(table(["", ""], rows))
    sys.exit(not same)


if __name__ == "__main__":
    main()
