"""The launch file by launch_testing, where an installed ROS has it.

Elsewhere test_simulation.py has the same scenario by processes of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from dds_peer import DEADLINE

pytest.importorskip("launch_testing", reason="the launch packages are not on PyPI")
pytest.importorskip("launch_ros", reason="the launch packages are not on PyPI")


def test_the_launch_file(domain: int, tmp_path: Path) -> None:
    scenario = Path(__file__).with_name("launched_multi_cam.py")
    done = subprocess.run(
        [sys.executable, "-m", "launch_testing.launch_test", str(scenario)],
        env=os.environ
        | {
            "ROS_DOMAIN_ID": str(domain),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "ROS_LOG_DIR": str(tmp_path),
            "OMP_NUM_THREADS": "1",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
