"""ROS 2 around the library hamst3r: a lifecycle node, camera sources, bringup and demo."""
