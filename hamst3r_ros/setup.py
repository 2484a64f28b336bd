"""The ament_python package of the node; launch/ and config/ are links to the repository's."""

from pathlib import Path

from setuptools import setup

package = "hamst3r_ros"


def files(folder: str) -> list[str]:
    """Paths of the files in a folder beside this one."""
    return sorted(str(path) for path in Path(folder).iterdir() if path.is_file())


setup(
    name=package,
    version="0.1.0",
    packages=[package],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{package}"]),
        (f"share/{package}", ["package.xml"]),
        (f"share/{package}/launch", files("launch")),
        (f"share/{package}/config", files("config")),
    ],
    install_requires=["setuptools"],
    zip_safe=False,
    maintainer="hamst3r_ros developers",
    maintainer_email="hamst3r_ros@example.com",
    description="People and places together, live, from a few ordinary cameras",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "hamst3r = hamst3r_ros.node:main",
            "sim_cameras = hamst3r_ros.sim_cameras:main",
            "replay = hamst3r_ros.replay:main",
            "bringup = hamst3r_ros.bringup:main",
            "demo = hamst3r_ros.demo:main",
            "top = hamst3r_ros.top:main",
            "hri_bridge = hamst3r_ros.hri_bridge:main",
        ]
    },
)
