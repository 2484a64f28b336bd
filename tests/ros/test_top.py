"""The dashboard shows what a real node reports."""

from __future__ import annotations

import pytest
from hamst3r_msgs.msg import HumanArray
from hamst3r_ros.status_table import ESCAPES

from hamst3r_ros import top


def shown(reports: dict[str, top.Report]) -> dict[str, str]:
    (report,) = reports.values()
    return {
        ESCAPES.sub("", name).strip(): ESCAPES.sub("", text)
        for name, text in report.rows("/hamst3r")
    }


def test_everything_worth_knowing_of_a_running_node(bench):
    it = bench(("a", "b"), world__known_extrinsics="tf")
    it.put_up()
    dashboard = top.Top("/hamst3r")
    it.executor.add_node(dashboard)
    it.listen(HumanArray, "/hamst3r/humans")
    it.activate()
    try:
        reports = dashboard.reports
        it.until(
            lambda: reports and reports["/hamst3r"].whole and "latency" in shown(reports), it.shoot
        )
        found = shown(reports)
        assert found["/hamst3r"] == "active"
        assert found["a"].startswith("active") and "intrinsics camera_info, pose tf" in found["a"]
        assert "?" not in " ".join(found.values())
        assert "Hz in" in found["frame sets"] and "p99" in found["latency"]
        assert "network" in found["stages, ms"]
        assert "MiB" in found["device"] and "weights" in found["device"]
        assert "2 cameras" in found["world"]
        assert "\n" not in reports["/hamst3r"].brief("/hamst3r")
        told = "cameras: b: no image on /b/image_raw any more"
        it.until(
            lambda: any(told in text for _, text in reports["/hamst3r"].rows("/hamst3r")),
            lambda: it.shoot(["a"]),
        )
        assert shown(reports)["b"].startswith("stale")
    finally:
        it.executor.remove_node(dashboard)
        dashboard.destroy_node()


def test_only_the_node_that_was_asked_for(bench):
    it = bench(("a", "b"))
    dashboard = top.Top("/robot2/hamst3r")
    it.executor.add_node(dashboard)
    try:
        it.until(lambda: it.status)
        assert dashboard.reports == {}
    finally:
        it.executor.remove_node(dashboard)
        dashboard.destroy_node()


def test_nothing_to_hear_is_one_line(capsys: pytest.CaptureFixture, monkeypatch) -> None:
    monkeypatch.setattr(top, "PATIENCE", 0.2)
    monkeypatch.setenv("ROS_DOMAIN_ID", "99")
    assert top.main(["/nobody", "--once"]) == 1
    error = capsys.readouterr().err
    assert "nothing heard of /nobody on /diagnostics" in error and error.count("\n") == 1
