#!/usr/bin/env bash
# Runs a command in the ROS environment of the image.
set -e
# shellcheck source=/dev/null
source "/opt/ros/$ROS_DISTRO/setup.bash"
# shellcheck source=/dev/null
source /opt/hamst3r_ros/install/local_setup.bash
exec "$@"
