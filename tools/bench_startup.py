"""Time what a user waits for before anything happens: imports and listings, median of several fresh processes.

python tools/bench_startup.py [--runs 9]
"""

import argparse
import platform
import statistics
import subprocess
import sys
import time

CASES = {
    "python -c pass": ["-c", "pass"],
    "import mimzoo": ["-c", "import mimzoo"],
    "import mimzoo.deploy": ["-c", "import mimzoo.deploy"],
    "mimzoo list": ["-m", "mimzoo", "list"],
    "mimzoo segment --help": ["-m", "mimzoo", "segment", "--help"],
    "import torch (for comparison)": ["-c", "import torch"],
}


def seconds(arguments: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    runs = parser.parse_args().runs
    print(f"Python {platform.python_version()}, {platform.machine()}, median of {runs} after one warm-up\n")
    print("| what | s | slowest |\n|---|---|---|")
    for name, arguments in CASES.items():
        seconds(arguments)
        taken = [seconds(arguments) for _ in range(runs)]
        print(f"| {name} | {statistics.median(taken):.3f} | {max(taken):.3f} |")


if __name__ == "__main__":
    main()
