"""The node as a process: how it starts, how it ends, and what it imports."""

from __future__ import annotations

import json
import os
import pkgutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import rclpy
from lifecycle_msgs.srv import ChangeState
from rclpy.node import Node

import hamst3r

NODE = [sys.executable, "-m", "hamst3r_ros.node"]
DEADLINE = 120


def run(*arguments: str, code: str = "") -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code] if code else [*NODE, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)


def test_importing_the_node_does_not_import_torch():
    code = "import hamst3r_ros.node, sys; sys.exit('torch' in sys.modules)"
    assert run(code=code).returncode == 0


def test_the_library_needs_no_ros():
    names = [m.name for m in pkgutil.iter_modules(hamst3r.__path__)]
    assert {"reconstructor", "engine", "frames"} <= set(names)
    code = (
        "import sys, importlib\n"
        "for name in ('rclpy', 'std_msgs', 'sensor_msgs', 'hamst3r_msgs', 'hamst3r_ros'):\n"
        "    sys.modules[name] = None\n"
        f"for name in {names}: importlib.import_module('hamst3r.' + name)\n"
    )
    done = run(code=code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-p", "cameras:=[a,b]", "-p", "model.weights:=none.safetensors"], "no such weights file"),
        ([], "'cameras' is empty"),
        (["-p", "cameras:=[a,b]", "-p", "sync.slop:=7.5"], "sync.slop"),
        (["-p", "cameras:=[a,b]", "-p", "tf.mode:=maybe"], "estimated | anchor | none"),
        (["-p", "cameras:=3"], "string[]"),
    ],
)
def test_a_start_that_fails_says_why_in_one_line(arguments, told):
    done = run("--ros-args", *arguments)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line and "[INFO]" not in line]
    assert len(lines) == 1 and told in lines[0], done.stderr


def test_what_ros_itself_cannot_do_is_one_line(tmp_path):
    environment = {"ROS_SECURITY_ENABLE": "true", "ROS_SECURITY_STRATEGY": "Enforce"}
    environment["ROS_SECURITY_KEYSTORE"] = str(tmp_path)  # nothing is in it
    done = subprocess.run(
        NODE, capture_output=True, text=True, timeout=DEADLINE, env=os.environ | environment
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and done.stderr.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("moment", ["loading the network", "active, waiting for /a/image_raw, /b"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_cleanly(number, moment, tiny_weights):
    file = Path(__file__).resolve().parents[2] / "config" / "hamst3r.yaml"
    arguments = ["--params-file", str(file), "-p", "cameras:=[a,b]", "-p", "model.device:=cpu"]
    arguments += ["-p", f"model.weights:={tiny_weights}"]
    process = subprocess.Popen(
        [*NODE, "--ros-args", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    watchdog = threading.Timer(DEADLINE, process.kill)
    watchdog.start()
    try:
        said = ""
        for line in process.stderr:
            said += line
            if moment in line:
                process.send_signal(number)
                break
        said += process.stderr.read()
        assert process.wait() == 0, said
        assert "Traceback" not in said
        assert "[ERROR]" not in said and moment in said
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "transitions",
    [
        (),
        ("configure",),
        ("configure", "activate", "deactivate"),
        ("configure", "activate", "deactivate", "cleanup"),
        ("shutdown",),
    ],
    ids=lambda t: "-".join(t) or "unconfigured",
)
def test_signals_end_it_in_every_state(number, transitions, tiny_weights, ros):
    settings = {"cameras": ["a", "b"], "model.device": "cpu", "model.weights": tiny_weights}
    settings["autostart"] = False
    parameters = [w for n, v in settings.items() for w in ("-p", f"{n}:={json.dumps(v)}")]
    domain = rclpy.get_default_context().get_domain_id()
    name = f"hamst3r_{os.getpid()}"  # nobody else's, whoever tests beside us
    process = subprocess.Popen(
        [*NODE, "--ros-args", "-r", f"__node:={name}", *parameters],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1", "ROS_DOMAIN_ID": str(domain)},
    )
    operator = Node("operator")
    try:
        client = operator.create_client(ChangeState, f"/{name}/change_state")
        assert client.wait_for_service(DEADLINE)
        for label in transitions:
            request = ChangeState.Request()
            request.transition.label = label
            answer = client.call_async(request)
            rclpy.spin_until_future_complete(operator, answer, timeout_sec=DEADLINE)
            if not answer.result().success:
                process.kill()
                pytest.fail(f"{label}: {process.communicate()[1]}")
        process.send_signal(number)
        _, said = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0, said
        assert "Traceback" not in said and "[ERROR]" not in said
    finally:
        operator.destroy_node()
        process.kill()
        process.wait()
