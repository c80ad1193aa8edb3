"""Time and memory of create_dataset.py for one million generated patients of 100 hospitals; prints JSON.

It runs as a process, as a user starts it: seconds from start to end, and peak resident memory.
"""

import argparse
import json
import resource
import subprocess
import tempfile
import time
from pathlib import Path

import common  # noqa: F401  # finds the project
from scripts import script_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=1_000_000)
    parser.add_argument("--hospitals", type=int, default=100)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        partition = ("--by", "dirichlet", "--alpha", "0.5", "--hospitals", flags.hospitals, "--out", folder)
        command = script_command(
            "create_dataset.py", "--source", "readmission", "--patients", flags.patients, *partition
        )
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        written = sum(file.stat().st_size for file in Path(folder).iterdir())
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # in KiB on Linux
    result = {"seconds": round(seconds, 1), "peak_mib": round(peak / 1024), "written_mib": round(written / 2**20)}
    print(json.dumps({"patients": flags.patients, "hospitals": flags.hospitals, **result}, indent=2))


if __name__ == "__main__":
    main()
