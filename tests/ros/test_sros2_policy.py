"""config/sros2_policy.xml allows exactly what the node does."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[2] / "config" / "sros2_policy.xml"
CAMERAS = ("front", "left")


def allowed(what: str, rule: str) -> set[str]:
    """Names of "topics" or "services" with a rule, as sros2 expands them."""
    (profile,) = ElementTree.parse(FILE).getroot().iter("profile")
    namespace, node = profile.attrib["ns"], profile.attrib["node"]
    names = [e.text or "" for group in profile.findall(what) if rule in group.attrib for e in group]
    assert len(names) == len(set(names))
    assert {group.attrib.get(rule, "ALLOW") for group in profile.findall(what)} == {"ALLOW"}
    return {
        f"{namespace}{node}{name[1:]}"
        if name.startswith("~")
        else name
        if name.startswith("/")
        else f"{namespace}{name}"
        for name in names
    }


@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_it_allows_what_the_node_does_and_no_more(bench, transport):
    pytest.importorskip("vision_msgs.msg", reason="without it there are no detections")
    it = bench(CAMERAS, transport=transport, tf__mode="anchor", use_sim_time=True)
    it.activate()
    node = it.node
    who = node.get_name(), node.get_namespace()
    it.until(lambda: node.get_publisher_names_and_types_by_node(*who))
    published = {name for name, _ in node.get_publisher_names_and_types_by_node(*who)}
    assert allowed("topics", "publish") == published
    answered = {name for name, _ in node.get_service_names_and_types_by_node(*who)}
    assert allowed("services", "reply") == answered
    assert node.get_client_names_and_types_by_node(*who) == []
    assert allowed("services", "request") == set()
    heard = {name for name, _ in node.get_subscriber_names_and_types_by_node(*who)}
    other = "/image_raw/compressed" if transport == "raw" else "/image_raw"
    not_now = {f"/{camera}{other}" for camera in CAMERAS}
    assert allowed("topics", "subscribe") - not_now == heard
    assert ElementTree.parse(FILE).getroot().find("enclaves/enclave").attrib["path"] == "/hamst3r"
