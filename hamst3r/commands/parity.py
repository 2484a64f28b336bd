"""``hamst3r parity NAME.json``: the same numbers as a public network, or not."""

from __future__ import annotations

import argparse
from pathlib import Path

from hamst3r.network.parity import MEDIAN_LIMIT, WORST_LIMIT, compare


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("fixture", type=Path, help="NAME.json, with NAME.npz beside it")


def run(options: argparse.Namespace) -> int:
    """Print relative differences; 0 if all are within the limits."""
    differences = compare(options.fixture)
    print(f"{'output':28}{'median':>12}{'worst':>12}")
    for d in differences:
        verdict = "" if d.within else "  too large"
        print(f"{d.output:28}{d.median:12.2e}{d.worst:12.2e}{verdict}")
    print(f"{'limit':28}{MEDIAN_LIMIT:12.0e}{WORST_LIMIT:12.0e}")
    return 0 if all(d.within for d in differences) else 1
