"""Commands of the pages that no test runs, why not, and what is tested in their place.

``test_docs_commands.py`` holds this complete: every command of a block that is not run matches one
of these, and each matches some. What they name (options, files, arguments) is checked all the same.
"""

from __future__ import annotations

NOT_RUN = {
    r"(python -m )?pip install |sudo apt |rosdep |python3 -m venv |mkdir -p ws": (
        "installs packages: .ci/run does it by scripts/setup, tests/core/test_docker.py by pip"
    ),
    r"scripts/(setup|test)\b|source scripts/env\.sh|cp runs/new/": "runs these tests",
    r"scripts/demo\b": "tests/system/test_demo.py runs it for two seconds, not twenty",
    r"hamst3r (reconstruct|view|localize|batch) ": (
        "the README's, on files of the reader: docs/quickstart.md's are run"
    ),
    r"hamst3r weights ": (
        "the README's, over the network: tests/core/test_weights.py has a server of its own, and "
        "docs/troubleshooting.md's are run"
    ),
    r"hamst3r eval (synthetic --seed 900000|recording)": (
        "minutes: docs/evaluation.md's first is run, recordings in tests/core/test_evaluation.py"
    ),
    r"hamst3r eval (emdb|kitti) ": (
        "data of others: tests/core/test_datasets.py reads tiny folders in their layouts"
    ),
    r"hamst3r (synth|train|eval synthetic --weights runs/new)": (
        "minutes to days: docs/training.md and docs/worlds.md run the same in small"
    ),
    r"python3 (scripts/gpu_run|-m pytest|benchmarks/inference\.py)": (
        "a GPU: tests/core/test_gpu_run.py rehearses it"
    ),
    r"python benchmarks/": "minutes to hours each; the results are in benchmarks/results",
    r"ros2 (bag|security) |ros2 launch .*(record|use_sim_time):=|ros2 run .*enclave|export ROS_": (
        "an installed ROS: ROS from PyPI has neither ros2 bag nor DDS with security"
    ),
    r"ros2 run hamst3r_ros hri_bridge": (
        "hri_msgs of an installed ROS: tests/ros/test_hri_bridge.py"
    ),
    r"ros2 launch .*(rviz:=true|calibration:=calibration\.json|weights:=FILE)": (
        "the README's: docs/robot.md's are run"
    ),
}
