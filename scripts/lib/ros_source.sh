# Where ROS comes from on this machine; read by scripts/setup and scripts/env.sh (bash and zsh).

# Prints the prefix of an installed ROS 2 ("sourced" if one is sourced already), or "wheels".
# HAMST3R_ROS=wheels asks for the wheels although there is an installed ROS.
hamst3r_ros_source() {
  if [ "${HAMST3R_ROS:-}" = wheels ]; then
    echo wheels
  elif [ -n "${ROS_DISTRO:-}" ]; then
    echo sourced
  else
    for distro in jazzy kilted lyrical rolling; do
      if [ -f "/opt/ros/$distro/setup.bash" ]; then
        echo "/opt/ros/$distro"
        return
      fi
    done
    echo wheels
  fi
}
