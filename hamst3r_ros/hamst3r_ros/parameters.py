"""All parameters of the node in one table, from which declaration, checks and documents follow.

python -m hamst3r_ros.parameters > docs/parameters.md
python -m hamst3r_ros.parameters --yaml > config/hamst3r.yaml
"""

from __future__ import annotations

import sys

from hamst3r_ros.parameter import Parameter, Values, shown

_NAME = r"[/~]?[A-Za-z_]\w*(/[A-Za-z_]\w*)*"
_FRAME = r"[^\s/][^\s]*"

TABLE: tuple[Parameter, ...] = (
    Parameter(
        "cameras",
        [""],
        "Names of the cameras. Images are taken from <name>/image_raw and <name>/camera_info.",
        pattern=_NAME,
        expected="topic names without the last part, such as front or /rig/cam0",
    ),
    Parameter(
        "image_topics",
        [""],
        "Topics of the images, one per camera, where drivers call them otherwise; with transport "
        "compressed those of the CompressedImage. Empty: by the cameras' names.",
        pattern=_NAME,
        expected="topic names, as many as cameras",
    ),
    Parameter(
        "info_topics",
        [""],
        "Topics of the CameraInfo, one per camera, likewise.",
        pattern=_NAME,
        expected="topic names, as many as cameras",
    ),
    Parameter(
        "stamp_offsets",
        [0.0],
        "Seconds added to the stamps of each camera before its images are matched with others: "
        "for cameras whose clocks or delays differ. One per camera; a single 0: none.",
        -3600.0,
        3600.0,
        dynamic=True,
    ),
    Parameter(
        "transport",
        "raw",
        "Whether images come as Image on <name>/image_raw or as CompressedImage (JPEG, PNG) on "
        "<name>/image_raw/compressed.",
        choices=("raw", "compressed"),
    ),
    Parameter(
        "image_reliability",
        "best_effort",
        "Reliability of the image subscriptions. best_effort matches every camera driver.",
        choices=("best_effort", "reliable"),
    ),
    Parameter(
        "sync.slop",
        0.05,
        "Largest difference between the stamps of one frame set, seconds.",
        0.0,
        1.0,
        dynamic=True,
    ),
    Parameter(
        "sync.min_cameras",
        2,
        "Smallest number of cameras in a frame set; sets are partial while cameras are silent.",
        1,
        16,
        dynamic=True,
    ),
    Parameter(
        "sync.max_age",
        0.5,
        "A camera whose newest image is older than this and the time between its images is not "
        "waited for, seconds.",
        0.05,
        60.0,
        dynamic=True,
    ),
    Parameter(
        "sync.reference_camera",
        "",
        "Camera whose stamp a frame set carries; empty: the newest stamp of the set.",
    ),
    Parameter(
        "pairs",
        "complete",
        "Pairs of views the network looks at: all of them, a ring, the first camera with each, or "
        "for cameras that move all of them and each with its own past.",
        choices=("complete", "swin", "oneref", "rig"),
    ),
    Parameter(
        "model.weights",
        "",
        "Path of the network's weights: ours (.safetensors), or a public file of DUSt3R, MASt3R or "
        "DUNE-MASt3R (.pth); empty: those shipped with the library.",
    ),
    Parameter(
        "model.encoder_weights",
        "",
        "Path of DUNE's encoder, for DUNE-MASt3R's weights; empty: beside them, as published.",
    ),
    Parameter(
        "model.human_weights",
        "",
        "Weights of a second network that sees the people where model.weights only knows places; "
        "'compact': those shipped with the library; empty: none.",
    ),
    Parameter(
        "model.weights_sha256",
        "",
        "SHA-256 that the weights file must have; empty: any.",
        pattern=r"([0-9a-fA-F]{64})?",
        expected="64 hex digits or empty",
    ),
    Parameter(
        "model.device",
        "auto",
        "Where the network runs; auto takes the first GPU if there is one.",
        pattern=r"auto|cpu|cuda(:\d+)?",
        expected="auto | cpu | cuda | cuda:N",
    ),
    Parameter(
        "model.precision",
        "auto",
        "Arithmetic of the network; auto takes bf16 where the device is fast at it. fp16 is for "
        "GPUs without bf16.",
        choices=("auto", "bf16", "fp16", "fp32"),
    ),
    Parameter(
        "model.compile",
        False,
        "Compile the decoders (torch.compile): minutes of start-up for some speed on GPUs.",
    ),
    Parameter(
        "model.image_size",
        0,
        "Long side of the images that the network sees, pixels; 0: what it was trained for.",
        0,
        2048,
    ),
    Parameter(
        "model.warmup",
        1,
        "Runs on blank images while configuring, so that the first frame set is not slow.",
        0,
        10,
    ),
    Parameter(
        "rate.max",
        0.0,
        "Most frame sets reconstructed per second; 0: as many as the machine can.",
        0.0,
        1000.0,
        dynamic=True,
    ),
    Parameter(
        "deadline",
        0.0,
        "Frame sets that take longer than this, three in a row, lead to no close-ups, then to "
        "fewer pairs, then to smaller images, until there is room again; seconds, 0: never.",
        0.0,
        3600.0,
        dynamic=True,
    ),
    Parameter(
        "lazy",
        True,
        "Rest while nobody subscribes to any output.",
        dynamic=True,
    ),
    Parameter(
        "points.max",
        200000,
        "Largest number of points in ~/points; larger clouds are thinned evenly.",
        1,
        10000000,
        dynamic=True,
    ),
    Parameter(
        "points.min_confidence",
        1.0,
        "Points with no more than this confidence (DUSt3R's, >= 1) are left out.",
        1.0,
        1000.0,
        dynamic=True,
    ),
    Parameter(
        "points.voxel",
        0.0,
        "Keep only the most confident point of each cube of this side, metres; 0: keep all.",
        0.0,
        10.0,
        dynamic=True,
    ),
    Parameter(
        "points.body_coordinates",
        "auto",
        "Fields u v w (place on the body, NaN elsewhere) in ~/points; auto: while somebody is "
        "there.",
        choices=("auto", "on", "off"),
        dynamic=True,
    ),
    Parameter(
        "points.rate",
        0.0,
        "Most clouds published per second; 0: one for every frame set.",
        0.0,
        1000.0,
        dynamic=True,
    ),
    Parameter(
        "obstacles.voxel",
        0.05,
        "In ~/obstacles keep one point of each cube of this side, metres; 0: keep all.",
        0.0,
        10.0,
        dynamic=True,
    ),
    Parameter(
        "map.rate",
        1.0,
        "Frame sets per second that are gathered into ~/map, which is published as often; 0: all.",
        0.0,
        1000.0,
        dynamic=True,
    ),
    Parameter(
        "map.voxel",
        0.05,
        "Side of the cubes of ~/map, metres; a change starts a new map.",
        0.005,
        10.0,
        dynamic=True,
    ),
    Parameter(
        "map.max_points",
        500000,
        "Largest number of points in ~/map; what was seen least goes first.",
        1,
        10000000,
        dynamic=True,
    ),
    Parameter(
        "map.always",
        False,
        "Gather ~/map also while nobody subscribes to it, but something is made for others.",
        dynamic=True,
    ),
    Parameter(
        "humans.min_score",
        0.5,
        "Smallest score of a person: the network's probability times the Dice that its mask can "
        "expect.",
        0.0,
        1.0,
        dynamic=True,
    ),
    Parameter(
        "humans.min_pixels",
        24,
        "Smallest mask of a person in a view, pixels of the output grid.",
        1,
        1000000,
        dynamic=True,
    ),
    Parameter(
        "humans.closeups",
        6,
        "Most parts of an image that the network is shown once more, larger, as there might be "
        "somebody; 0: none.",
        0,
        100,
        dynamic=True,
    ),
    Parameter(
        "humans.body_model",
        "",
        "Path of your own SMPL, SMPL-H or SMPL-X file (.npz or .pkl) to fit; empty: the embedded "
        "anny24.",
    ),
    Parameter(
        "humans.fit_body_model",
        True,
        "Fit a body model to each person; off: positions and masks only.",
    ),
    Parameter(
        "humans.track_timeout",
        2.0,
        "A person unseen for this long is lost, seconds.",
        0.0,
        60.0,
        dynamic=True,
    ),
    Parameter(
        "humans.remember",
        60.0,
        "Who was lost and comes back within this time in the same clothes gets the same id, "
        "seconds; 0: never.",
        0.0,
        3600.0,
        dynamic=True,
    ),
    Parameter(
        "world.frame",
        "hamst3r_world",
        "Frame of the outputs. Where every camera's pose is known it is the rig's frame; then "
        "it may be given that frame's name.",
        pattern=_FRAME,
        expected="a frame id",
    ),
    Parameter(
        "world.map_frame",
        "hamst3r_map",
        "With pairs rig and unless tf.mode is anchor: parent of world.frame on /tf. The world is "
        "continuous, as REP-105's odom; what is corrected later, as loops are closed, moves it "
        "within the map. Empty: not published.",
        pattern=rf"{_FRAME}|",
        expected="a frame id, or nothing",
    ),
    Parameter(
        "world.known_extrinsics",
        "none",
        "Where known camera poses come from: nowhere, TF, or world.calibration_file. Poses of "
        "cameras not found there are estimated.",
        choices=("none", "tf", "file"),
    ),
    Parameter(
        "world.rig_frame",
        "rig",
        "With known_extrinsics tf: frame in which the camera poses are looked up; z up, metres.",
        pattern=_FRAME,
        expected="a frame id",
    ),
    Parameter(
        "world.anchor_camera",
        "",
        "With tf.mode anchor: the camera whose pose on TF ties the world to world.anchor_frame. "
        "~/set_anchor sets another one, or a pose.",
    ),
    Parameter(
        "world.anchor_frame",
        "map",
        "With tf.mode anchor: the frame that the robot knows, parent of world.frame.",
        pattern=_FRAME,
        expected="a frame id",
    ),
    Parameter(
        "world.calibration_file",
        "",
        "With known_extrinsics file: path of calibration.json with K, distortion, R, t of the "
        "cameras. Its intrinsics then replace those of camera_info.",
    ),
    Parameter(
        "world.static_cameras",
        False,
        "The cameras never move: once the poses that are estimated have converged (30 frame sets), "
        "they are kept until ~/reset. Not with pairs rig.",
        dynamic=True,
    ),
    Parameter(
        "world.find_gravity",
        False,
        "Which way is up where no calibration tells: by the floor, and by people who stand, seen "
        "by cameras whose images are upright. Else the first camera is taken to be level.",
    ),
    Parameter(
        "world.keypoints",
        "depth",
        "What keypoints (SIFT) are asked for where the network does not know, of cameras that "
        "stand: where unknown ones are (now and then), and depth, too (in every frame set). Not "
        "with pairs rig, and not of poses with a covariance.",
        choices=("off", "poses", "depth"),
    ),
    Parameter(
        "world.keypoint_size",
        640,
        "Long side of the images in which keypoints of unknown cameras are found, pixels: as "
        "delivered, or reduced to this.",
        64,
        4096,
    ),
    Parameter(
        "tf.mode",
        "estimated",
        "What is published on /tf: the cameras' estimated poses below world.frame; with anchor "
        "also world.frame below world.anchor_frame, so that world.anchor_camera is where TF has "
        "it; or nothing.",
        choices=("estimated", "anchor", "none"),
    ),
    Parameter(
        "tf.prefix",
        "hamst3r/",
        "Set before the frame ids on /tf, so that frames of drivers keep their own parents.",
        pattern=r"([^\s/][^\s]*)?",
        expected="text without spaces",
    ),
    Parameter(
        "tf.rate",
        0.0,
        "With world.static_cameras, once the poses are kept: times per second that /tf is sent, "
        "stamped with the time of sending, also between frame sets and while no images come; 0: "
        "only with frame sets, stamped as they are.",
        0.0,
        100.0,
    ),
    Parameter(
        "output_dir",
        "",
        "Folder that ~/save_scene writes below; empty: it refuses.",
        dynamic=True,
    ),
    Parameter(
        "diagnostics.period",
        1.0,
        "Seconds between two messages on /diagnostics.",
        0.1,
        60.0,
    ),
    Parameter(
        "diagnostics.max_processing",
        10.0,
        "A frame set that takes longer than this is reported as an error, seconds.",
        0.1,
        3600.0,
        dynamic=True,
    ),
    Parameter(
        "diagnostics.max_delay",
        2.0,
        "Outputs that are usually older than this when they are published, by the stamps of their "
        "images, lead to a warning, seconds; 0: never.",
        0.0,
        3600.0,
        dynamic=True,
    ),
    Parameter(
        "faults.max_consecutive",
        10,
        "So many frame sets in a row that failed put the node into its error state.",
        1,
        1000,
        dynamic=True,
    ),
    Parameter(
        "autostart",
        True,
        "Configure and activate at start; off: wait for a lifecycle manager.",
    ),
)


def defaults() -> Values:
    """All values of the table as they are by default."""
    return {p.name: p.check(p.default) for p in TABLE}


def markdown() -> str:
    """The table as docs/parameters.md has it."""
    lines = [
        "# Parameters of the node `hamst3r`",
        "",
        "Made by `python -m hamst3r_ros.parameters` from the table in that module; a test holds it "
        "current. Dynamic parameters (D) may change at any time (`ros2 param set`), the others are "
        "read when the node configures.",
        "",
        "| parameter | default | allowed | D | what |",
        "| --- | --- | --- | --- | --- |",
    ]
    for p in TABLE:
        allowed = (f"{p.type_name}: {p.allowed}" if p.allowed else p.type_name).replace("|", "\\|")
        dynamic = "D" if p.dynamic else ""
        lines.append(
            f"| `{p.name}` | `{shown(p.default)}` | {allowed} | {dynamic} | {p.description} |"
        )
    return "\n".join(lines) + "\n"


def yaml() -> str:
    """The table as config/hamst3r.yaml has it: every parameter with its default."""
    lines = [
        "# Every parameter of the node with its default; copy, change, and start with",
        "#   ros2 launch hamst3r_ros multi_cam.launch.py params_file:=FILE",
        "# Made by: python -m hamst3r_ros.parameters --yaml",
        "/**/hamst3r:",
        "  ros__parameters:",
    ]
    for p in TABLE:
        lines.append("")
        words, line = p.description.split(), "    #"
        for word in [*words, *(f"({p.type_name}: {p.allowed})".split() if p.allowed else [])]:
            if len(line) + 1 + len(word) > 96:
                lines.append(line)
                line = "    #"
            line += f" {word}"
        lines += [line, f"    {p.name}: {shown(p.default)}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(yaml() if "--yaml" in sys.argv[1:] else markdown())
