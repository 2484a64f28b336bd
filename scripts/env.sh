# Source this (bash or zsh): enters the Python and ROS environment that scripts/setup made.
#
#   source scripts/env.sh
#
# A ROS already sourced, or installed below /opt/ros, is used as it is. Otherwise ROS comes from
# the wheels in .venv. Variables that are set already are kept.

if [ -n "${BASH_VERSION:-}" ]; then
  _hamst3r_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
  _hamst3r_shell=bash
else
  _hamst3r_root="$(cd "$(dirname "$0")/.." && pwd)"  # zsh sets $0 to the sourced file
  _hamst3r_shell=zsh
fi

# Setup files of ROS and of venvs read unset variables; callers may run under "set -u".
case $- in *u*) _hamst3r_nounset=1 ;; *) _hamst3r_nounset= ;; esac
set +u

if [ ! -f "$_hamst3r_root/.venv/bin/activate" ]; then
  echo "env.sh: $_hamst3r_root/.venv does not exist; run scripts/setup first" >&2
  [ -z "$_hamst3r_nounset" ] || set -u
  return 1
fi

. "$_hamst3r_root/scripts/lib/ros_source.sh"
_hamst3r_ros_source="$(hamst3r_ros_source)"

if [ -z "$ROS_DISTRO" ] && [ -f "$_hamst3r_ros_source/setup.$_hamst3r_shell" ]; then
  . "$_hamst3r_ros_source/setup.$_hamst3r_shell"
fi

. "$_hamst3r_root/.venv/bin/activate"

if [ "$_hamst3r_ros_source" = wheels ]; then
  case ":$AMENT_PREFIX_PATH:" in
    *":$VIRTUAL_ENV:"*) ;;
    *) export AMENT_PREFIX_PATH="$VIRTUAL_ENV${AMENT_PREFIX_PATH:+:$AMENT_PREFIX_PATH}" ;;
  esac
  # The wheels restart Python once to set LD_LIBRARY_PATH and mark that in this variable. Where
  # the mark was inherited but the path was not, rclpy could not be imported.
  unset _ROS_WHEELS_BOOTSTRAP_COMPLETE
fi

if [ -f "$_hamst3r_root/ros2_ws/install/local_setup.$_hamst3r_shell" ]; then
  . "$_hamst3r_root/ros2_ws/install/local_setup.$_hamst3r_shell"
fi

# Where images travel by shared memory (Fast DDS 2 reads the first name, Fast DDS 3 the second).
if [ -z "$FASTRTPS_DEFAULT_PROFILES_FILE" ]; then
  export FASTRTPS_DEFAULT_PROFILES_FILE="$_hamst3r_root/config/fastdds.xml"
fi
if [ -z "$FASTDDS_DEFAULT_PROFILES_FILE" ]; then
  export FASTDDS_DEFAULT_PROFILES_FILE="$FASTRTPS_DEFAULT_PROFILES_FILE"
fi

# rcl refuses to start without a place for its log files.
if [ -z "$ROS_LOG_DIR" ] && [ -z "$ROS_HOME" ] && [ -z "$HOME" ]; then
  export ROS_LOG_DIR="${TMPDIR:-/tmp}/ros_log_$(id -u)"
fi

[ -z "$_hamst3r_nounset" ] || set -u
unset _hamst3r_root _hamst3r_shell _hamst3r_nounset _hamst3r_ros_source
