"""Tiny folders in the layouts of public data sets, made of a room whose truth is known."""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from scipy.io import savemat
from scipy.spatial.transform import Rotation

from hamst3r.geometry import invert, make_T
from hamst3r.people.joint_sets import JOINT_SETS
from hamst3r.synthetic.render import SyntheticView

FLIP = np.diag([-1.0, -1.0, 1.0])


def write_image(path: Path, rgb: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.ascontiguousarray(rgb[..., ::-1]))


def write_json(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_pickle(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))


# --- people ---------------------------------------------------------------------------------------


def egohumans(
    root: Path, views: Sequence[SyntheticView], people: dict[str, np.ndarray], scale: float = 3.0
) -> None:
    """People are (17, 3) keypoints of COCO's; colmap's world is ``scale`` times as large as the
    glasses', turned and moved."""
    sequence = root / "01_tagging" / "001_tagging"
    T_colmap_aria = make_T(Rotation.from_rotvec([0.2, -0.4, 1.0]).as_matrix(), [5, -3, 2], scale)
    cameras, images = ["# Camera list"], ["# Image list"]
    for number, view in enumerate(views, 1):
        name, (height, width) = f"cam{number:02d}", view.depth.shape
        write_image(sequence / "exo" / name / "images" / "00001.jpg", view.rgb)
        fx, fy, cx, cy = view.K[0, 0], view.K[1, 1], view.K[0, 2] + 0.5, view.K[1, 2] + 0.5
        cameras.append(f"{number} OPENCV_FISHEYE {width} {height} {fx} {fy} {cx} {cy} 0 0 0 0")
        T_cam_aria = invert(view.T_world_cam)
        R = T_cam_aria[:3, :3] @ T_colmap_aria[:3, :3].T / scale
        t = scale * T_cam_aria[:3, 3] - R @ T_colmap_aria[:3, 3]
        x, y, z, w = Rotation.from_matrix(R).as_quat()
        pose = " ".join(str(value) for value in (w, x, y, z, *t))
        images += [f"{number} {pose} {number} {name}/00001.jpg", "1.0 2.0 -1"]
    workplace = sequence / "colmap" / "workplace"
    workplace.mkdir(parents=True)
    (workplace / "cameras.txt").write_text("\n".join(cameras), encoding="utf-8")
    (workplace / "images.txt").write_text("\n".join(images), encoding="utf-8")
    write_pickle(workplace / "colmap_from_aria_transforms.pkl", {"aria01": T_colmap_aria})
    labels = sequence / "processed_data" / "fit_poses3d"
    labels.mkdir(parents=True)
    sure = {who: np.c_[keypoints, np.ones(17)] for who, keypoints in people.items()}
    np.save(labels / "00001.npy", sure, allow_pickle=True)


def egoexo4d(root: Path, views: Sequence[SyntheticView], keypoints: np.ndarray) -> None:
    """One take of three frames, the middle one annotated with (17, 3) keypoints."""
    write_json(
        root / "takes.json",
        [{"take_uid": "uid-1", "take_name": "cooking_01", "root_dir": "takes/cooking_01"}],
    )
    cameras: dict = {"metadata": {"take_uid": "uid-1"}}
    for number, view in enumerate(views, 1):
        height, width = view.depth.shape
        path = root / f"takes/cooking_01/frame_aligned_videos/cam{number:02d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        fourcc = cv2.VideoWriter.fourcc(*"mp4v")
        writer = cv2.VideoWriter(str(path), fourcc, 30.0, (width, height))
        for brightness in (0.2, 1.0, 0.2):
            writer.write(np.ascontiguousarray((view.rgb[..., ::-1] * brightness).astype(np.uint8)))
        writer.release()
        factor = 3840 / width
        shift = np.array(
            [[factor, 0, factor / 2 - 0.5], [0, factor, factor / 2 - 0.5], [0, 0, 1.0]]
        )
        cameras[f"cam{number:02d}"] = {
            "camera_intrinsics": (shift @ view.K).tolist(),
            "camera_extrinsics": invert(view.T_world_cam)[:3].tolist(),
            "distortion_coeffs": [0.0] * 4,
        }
    split = root / "annotations" / "ego_pose" / "val"
    write_json(split / "camera_pose" / "uid-1.json", cameras)
    places = {
        name.replace("_", "-"): dict(zip("xyz", place.tolist(), strict=True))
        for name, place in zip(JOINT_SETS["coco17"], keypoints, strict=True)
    }
    del places["left-wrist"]  # not every joint is annotated
    places["left-thumb"] = {"x": 0.0, "y": 0.0, "z": 0.0}  # nor one of COCO's 17
    write_json(
        split / "body" / "annotation" / "uid-1.json",
        {"1": [{"annotation3D": places, "annotation2D": {}}]},
    )


def rich(root: Path, views: Sequence[SyntheticView], parameters: dict, frames: int = 1) -> None:
    """One sequence, everybody standing still."""
    for number, view in enumerate(views):
        for frame in range(1, frames + 1):
            name = f"cam_{number:02d}/{frame:05d}_{number:02d}.png"
            write_image(root / "images/test/Gym_010_lunge1" / name, view.rgb)
        path = root / "scan_calibration" / "Gym" / "calibration" / f"{number:03d}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
        storage.write("CameraMatrix", invert(view.T_world_cam)[:3])
        storage.write("Intrinsics", view.K)
        storage.write("Distortion", np.zeros((1, 8)))
        storage.release()
    for frame in range(1, frames + 1):
        write_pickle(
            root / f"bodies/test/Gym_010_lunge1/{frame:05d}/010.pkl",
            {key: np.asarray(value, np.float32)[None] for key, value in parameters.items()},
        )


def emdb(root: Path, views: Sequence[SyntheticView], parameters: dict) -> Path:
    """One sequence; ``parameters`` are of every frame. The last frame is not good."""
    folder = root / "P0" / "09_outdoor_walk"
    for index, view in enumerate(views):
        write_image(folder / "images" / f"{index:05d}.jpg", view.rgb)
    count = len(views)
    good = np.ones(count, bool)
    good[-1] = False
    file = folder / "P0_09_outdoor_walk_data.pkl"
    write_pickle(
        file,
        {
            "name": "P0_09_outdoor_walk",
            "gender": "female",
            "emdb1": False,
            "emdb2": True,
            "n_frames": count,
            "good_frames_mask": good,
            "camera": {
                "intrinsics": views[0].K,
                "extrinsics": np.stack([invert(view.T_world_cam) for view in views]),
                "width": views[0].depth.shape[1],
                "height": views[0].depth.shape[0],
            },
            "smpl": {
                "betas": parameters["betas"],
                "poses_root": np.tile(parameters["global_orient"], (count, 1)),
                "poses_body": np.tile(parameters["body_pose"], (count, 1)),
                "trans": np.tile(parameters["transl"], (count, 1)),
            },
        },
    )
    return file


def sloper4d(root: Path, views: Sequence[SyntheticView], parameters: dict) -> None:
    """One sequence; the second frame has no image."""
    folder = root / "seq002_football_001"
    names = [f"{1000 + index}.jpg" for index in range(len(views))]
    for name, view in zip(names, views, strict=True):
        write_image(folder / "rgb_data" / "seq002_football_001_imgs" / name, view.rgb)
    names[1] = ""
    K = views[0].K
    pose = np.concatenate([parameters["global_orient"], parameters["body_pose"]])
    write_pickle(
        folder / "seq002_football_001_labels.pkl",
        {
            "framerate": 20,
            "RGB_info": {
                "fps": 20,
                "intrinsics": [K[0, 0], K[1, 1], K[0, 2], K[1, 2]],
                "dist": [0.0] * 5,
            },
            "RGB_frames": {
                "file_basename": names,
                "cam_pose": [invert(view.T_world_cam) for view in views],
            },
            "second_person": {
                "opt_pose": np.tile(pose, (len(views), 1)),
                "opt_trans": np.tile(parameters["transl"], (len(views), 1)),
                "beta": list(parameters["betas"]),
                "gender": "male",
            },
        },
    )


# --- poses ----------------------------------------------------------------------------------------


def co3d(root: Path, views: Sequence[SyntheticView], form: str = "ndc_isotropic") -> None:
    """One sequence of "apple" that is tested, one that is not."""
    entries, listed = [], []
    for sequence in ("110_13051_23361", "189_20393_38136"):
        for number, view in enumerate(views, 1):
            path = f"apple/{sequence}/images/frame{number:06d}.jpg"
            write_image(root / path, view.rgb)
            height, width = view.depth.shape
            half = np.array([width, height]) / 2
            scale = np.full(2, half.min()) if form == "ndc_isotropic" else half
            T_cam_world = invert(view.T_world_cam)
            entries.append(
                {
                    "sequence_name": sequence,
                    "frame_number": number,
                    "image": {"path": path, "size": [height, width]},
                    "viewpoint": {
                        "R": (FLIP @ T_cam_world[:3, :3]).T.tolist(),
                        "T": (FLIP @ T_cam_world[:3, 3]).tolist(),
                        "focal_length": (np.diag(view.K)[:2] / scale).tolist(),
                        "principal_point": ((half - view.K[:2, 2] - 0.5) / scale).tolist(),
                        "intrinsics_format": form,
                    },
                }
            )
            if sequence.startswith("110"):
                listed.append([sequence, number, path])
    with gzip.open(root / "apple" / "frame_annotations.jgz", "wt", encoding="utf-8") as file:
        json.dump(entries, file)
    write_json(
        root / "apple" / "set_lists" / "set_lists_fewview_dev.json",
        {"train": [], "val": [], "test": listed},
    )


def realestate10k(root: Path, views: Sequence[SyntheticView]) -> None:
    """One clip; of its last row there is no frame."""
    rows = ["https://www.youtube.com/watch?v=xyz"]
    for number, view in enumerate(views):
        height, width = view.depth.shape
        shares = [
            view.K[0, 0] / width,
            view.K[1, 1] / height,
            (view.K[0, 2] + 0.5) / width,
            (view.K[1, 2] + 0.5) / height,
        ]
        pose = invert(view.T_world_cam)[:3].ravel()
        stamp = 1_000_000 + 33_333 * number
        rows.append(" ".join(map(str, [stamp, *shares, 0.0, 0.0, *pose])))
        write_image(root / "frames" / "test" / "000c3ab189999a83" / f"{stamp}.png", view.rgb)
    rows.append(rows[-1].replace(str(1_000_000 + 33_333 * (len(views) - 1)), "9999999"))
    (root / "test").mkdir()
    (root / "test" / "000c3ab189999a83.txt").write_text("\n".join(rows), encoding="utf-8")


# --- depth ----------------------------------------------------------------------------------------


def scannet(root: Path, views: Sequence[SyntheticView]) -> None:
    for number, view in enumerate(views):
        write_image(root / "scene0000_00" / "color" / f"{number}.jpg", view.rgb)
        _png(root / "scene0000_00" / "depth" / f"{number}.png", view.depth * 1000)


def kitti(root: Path, views: Sequence[SyntheticView]) -> None:
    drive = "2011_09_26_drive_0002_sync"
    for number, view in enumerate(views):
        name = f"{number:010d}.png"
        write_image(root / "raw_data" / drive[:10] / drive / "image_02" / "data" / name, view.rgb)
        truth = root / "depth_completion_prediction/val" / drive / "proj_depth/groundtruth/image_02"
        if number == 2:
            _png(truth / name, view.depth * 256)


def eth3d(root: Path, views: Sequence[SyntheticView]) -> None:
    for number, view in enumerate(views):
        name = f"DSC_{number:04d}.JPG"
        write_image(root / "courtyard" / "images" / "dslr_images" / name, view.rgb)
        path = root / "courtyard" / "ground_truth_depth" / "dslr_images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.where(view.depth > 0, view.depth, np.inf).astype(np.float32).tofile(path)


def dtu(root: Path, views: Sequence[SyntheticView]) -> None:
    for number, view in enumerate(views):
        write_image(root / "scan1" / "images" / f"{number:08d}.png", view.rgb)
        path = root / "scan1" / "gt_depths" / f"{number:08d}.pfm"
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), view.depth.astype(np.float32))


def tanks(root: Path, views: Sequence[SyntheticView]) -> None:
    for number, view in enumerate(views):
        write_image(root / "Barn" / "images" / f"{number:08d}.jpg", view.rgb)
        path = root / "Barn" / "depth" / f"{number + 1:06d}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, view.depth)


def _png(path: Path, counts: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.round(counts).astype(np.uint16))


# --- scans ----------------------------------------------------------------------------------------


def dtu_scans(root: Path, views: Sequence[SyntheticView], points: np.ndarray) -> None:
    """Scan 1; ``points`` in metres."""
    import trimesh

    for number, view in enumerate(views, 1):
        write_image(root / "Rectified" / "scan1" / f"rect_{number:03d}_3_r5000.png", view.rgb)
        P = view.K @ np.column_stack(
            [invert(view.T_world_cam)[:3, :3], 1000 * invert(view.T_world_cam)[:3, 3]]
        )
        path = root / "Calibration" / "cal18" / f"pos_{number:03d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savetxt(path, 0.7 * P)  # a projection has no scale
    scan = root / "Points" / "stl" / "stl001_total.ply"
    scan.parent.mkdir(parents=True)
    trimesh.PointCloud(1000 * points).export(scan)
    low, high = 1000 * points.min(0) - 100, 1000 * points.max(0) + 100
    resolution = 50.0
    size = np.ceil((high - low) / resolution).astype(int) + 1
    (root / "ObsMask").mkdir()
    savemat(
        str(root / "ObsMask" / "ObsMask1_10.mat"),
        {"ObsMask": np.ones(size, np.uint8), "BB": np.stack([low, high]), "Res": resolution},
    )
    savemat(str(root / "ObsMask" / "Plane1.mat"), {"P": np.array([[0, 0, 1.0, 1e6]]).T})
