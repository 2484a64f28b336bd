"""Every quality of service that the node uses, and why."""

from __future__ import annotations

from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSCompatibility,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)
from rclpy.qos_overriding_options import QoSOverridingOptions

# No events: rclpy waits for each kind of event of each topic one by one, which for 8 cameras with
# their outputs is most of the time that taking an image costs. What the events would tell is asked
# for once a second, see :func:`mismatch`.
SILENT_PUBLISHER = PublisherEventCallbacks(use_default_callbacks=False)
SILENT_SUBSCRIPTION = SubscriptionEventCallbacks(use_default_callbacks=False)

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


def mismatch(offered: QoSProfile, requested: QoSProfile) -> str:
    """Why nothing gets from a publisher to a subscription; "" if it does."""
    compatibility, reason = qos_check_compatible(offered, requested)
    if compatibility != QoSCompatibility.ERROR:
        return ""
    reasons = reason.replace("ERROR:", "").split(";")
    return ", ".join(own.strip().lower() for own in reasons if own.strip())


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
