"""Every quality of service that the node uses, and why."""

from __future__ import annotations

from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
)
from rclpy.qos_overriding_options import QoSOverridingOptions

# What tf2 listeners and broadcasters use.
TF = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=100)
TF_STATIC = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
DIAGNOSTICS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10)


def output() -> QoSProfile:
    """Readers of any kind match a reliable publisher. New each time: overriding changes it."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.RELIABLE
    )


def latched() -> QoSProfile:
    """Who comes late gets the last message at once. New each time: overriding changes it."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL
    )


def image_input(reliability: str) -> QoSProfile:
    """Newest only: an image that waited in a queue is an old image."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=(
            ReliabilityPolicy.RELIABLE
            if reliability == "reliable"
            else ReliabilityPolicy.BEST_EFFORT
        ),
    )


def overridable() -> QoSOverridingOptions:
    """Lets parameters ``qos_overrides.<topic>.{publisher,subscription}.<policy>`` decide.

    Policies are reliability, durability, history and depth.
    """
    return QoSOverridingOptions(
        [
            QoSPolicyKind.HISTORY,
            QoSPolicyKind.DEPTH,
            QoSPolicyKind.RELIABILITY,
            QoSPolicyKind.DURABILITY,
        ]
    )
