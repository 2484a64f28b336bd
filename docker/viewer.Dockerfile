# A bridge from ROS 2 to Foxglove, for docker/compose.yaml.
ARG ROS_DISTRO=jazzy
FROM ros:${ROS_DISTRO}-ros-core
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ros-${ROS_DISTRO}-foxglove-bridge \
    && rm -rf /var/lib/apt/lists/*
ENV ROS_LOG_DIR=/tmp
USER 1000:1000
STOPSIGNAL SIGINT
