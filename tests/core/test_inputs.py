"""What users hand over, good and bad: read by the real libraries, from files made here."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from hamst3r.alignment.calibration import CameraCalibration, load_calibration
from hamst3r.inputs import InputError, InputOptions, open_inputs
from hamst3r.inputs.photos import exif_focal, read_photo
from hamst3r.recording import RecordingError

SIZE = (96, 64)


def picture(seed: int, size=SIZE) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (8, 12, 3), np.uint8)
    return cv2.resize(small, size, interpolation=cv2.INTER_CUBIC)


def write_images(folder, count, size=SIZE, suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        Image.fromarray(picture(k, size)).save(folder / f"im{k:02d}{suffix}")
    return folder


def write_video(path, frames, size=SIZE, fps=10):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, size)
    for k in range(frames):
        writer.write(np.full((size[1], size[0], 3), 4 * k, np.uint8))
    writer.release()
    return path


class Heard(list):
    __call__ = list.append


@pytest.fixture
def heard():
    return Heard()


def only_set(source):
    (frames,) = source.frame_sets()
    return frames


def test_a_folder_of_images_is_one_set_in_the_order_of_names(tmp_path, heard):
    source = open_inputs([write_images(tmp_path, 3)], InputOptions(), heard)
    frames = only_set(source)
    assert frames.cameras == ("im00", "im01", "im02") and not heard
    np.testing.assert_array_equal(frames.frames[1].image, picture(1))
    assert frames.frames[0].K is None
    assert source.originals["im02"].file == str(tmp_path / "im02.png")


def test_too_many_images_are_thinned_evenly_and_it_is_said(tmp_path, heard):
    source = open_inputs([write_images(tmp_path, 9)], InputOptions(max_images=3), heard)
    assert only_set(source).cameras == ("im00", "im04", "im08")
    assert heard == ["of 9 images 3 are used, evenly spread (--max-images)"]


def test_large_images_are_reduced_and_k_follows(tmp_path, heard):
    write_images(tmp_path, 1, (400, 300))
    options = InputOptions(side=100, focal=500.0)
    frame = only_set(open_inputs([tmp_path], options, heard)).frames[0]
    assert frame.image.shape == (75, 100, 3)
    # The middle of the image stays its middle: pixel centres are at integers.
    np.testing.assert_allclose(frame.K, [[125, 0, 49.5], [0, 125, 37.0], [0, 0, 1]])


def test_names_of_several_folders_stay_apart(tmp_path, heard):
    folders = [write_images(tmp_path / name, 2) for name in ("a", "b")]
    frames = only_set(open_inputs(folders, InputOptions(), heard))
    assert frames.cameras == ("a_im00", "a_im01", "b_im00", "b_im01")


def test_mixed_sizes_and_kinds_are_fine(tmp_path, heard):
    write_images(tmp_path, 1)
    Image.fromarray(picture(1, (64, 96))).convert("L").save(tmp_path / "x.bmp")
    Image.fromarray(picture(2)).convert("RGBA").save(tmp_path / "y.webp", lossless=True)
    deep = 257 * picture(3)[..., 0].astype(np.uint16)
    cv2.imwrite(str(tmp_path / "z.tif"), deep)
    images = {
        f.camera: f.image for f in only_set(open_inputs([tmp_path], InputOptions(), heard)).frames
    }
    assert images["x"].shape == (96, 64, 3) and not heard
    np.testing.assert_array_equal(images["y"], picture(2))
    np.testing.assert_array_equal(images["z"][..., 2], picture(3)[..., 0])


def test_exif_gives_the_focal_length_and_turns_the_image(tmp_path, heard):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    exif.get_ifd(0x8769)[0xA405] = 26  # mm in 35 mm film
    Image.fromarray(picture(0)).save(tmp_path / "x.jpg", exif=exif, quality=100)
    frame = only_set(open_inputs([tmp_path / "x.jpg"], InputOptions(), heard)).frames[0]
    assert frame.image.shape == (96, 64, 3)
    focal = 26 * np.hypot(*SIZE) / 43.267
    np.testing.assert_allclose(frame.K, [[focal, 0, 31.5], [0, focal, 47.5], [0, 0, 1]], rtol=1e-3)
    unknown = InputOptions(exif=False)
    assert only_set(open_inputs([tmp_path / "x.jpg"], unknown, heard)).frames[0].K is None


def test_exif_by_the_sensor_and_nonsense():
    sensor = {0x920A: 6.0, 0xA20E: 2000.0, 0xA210: 3, 0xA002: 4000}
    # 6 mm at 200 pixels per mm of a 4000 pixel image, here reduced to 1000.
    assert exif_focal(sensor, 1000, 750) == pytest.approx(300)
    assert exif_focal({0xA405: 0}, 1000, 750) is None
    assert exif_focal({0xA405: 1}, 1000, 750) is None, "no lens is so wide"
    assert exif_focal({0x920A: "x", 0xA20E: (0, 0)}, 1000, 750) is None


def test_heic_is_read_where_its_library_is(tmp_path, heard):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    Image.fromarray(picture(0)).save(tmp_path / "x.heic", quality=95)
    image, _ = read_photo(tmp_path / "x.heic")
    assert np.abs(image.astype(int) - picture(0)).mean() < 12


def test_photos_take_a_calibration_by_name(tmp_path, heard):
    write_images(tmp_path, 2)
    entry = {
        "K": [[80, 0, 47.5], [0, 80, 31.5], [0, 0, 1]],
        "R": np.eye(3).tolist(),
        "t": [0, 0, 1],
        "width": 96,
        "height": 64,
    }
    (tmp_path / "calibration.json").write_text(json.dumps({"cameras": {"im01": entry}}))
    frames = only_set(open_inputs([tmp_path], InputOptions(), heard)).frames
    assert frames[0].K is None and frames[0].T_rig_cam is None
    np.testing.assert_allclose(frames[1].K, entry["K"])
    np.testing.assert_allclose(frames[1].T_rig_cam[:3, 3], [0, 0, -1])
    entry["width"] = 97
    (tmp_path / "calibration.json").write_text(json.dumps({"cameras": {"im01": entry}}))
    with pytest.raises(InputError, match=r"im01\.png: is 96x64 pixels, its calibration is for 97x"):
        known = InputOptions(calibration=load_calibration(tmp_path / "calibration.json"))
        only_set(open_inputs([tmp_path / "im01.png"], known, heard))


def test_a_video_is_a_moving_camera(tmp_path, heard):
    video = write_video(tmp_path / "v.avi", 20)
    frames = only_set(open_inputs([video], InputOptions(every=0.5), heard))
    assert frames.cameras == ("v_0000000", "v_0000500", "v_0001000", "v_0001500")
    levels = [int(frame.image.mean()) for frame in frames.frames]
    np.testing.assert_allclose(levels, [0, 20, 40, 60], atol=2)
    assert [f.stamp for f in frames.frames] == [0, 500_000_000, 1_000_000_000, 1_500_000_000]
    assert open_inputs([tmp_path], InputOptions(), heard).ordered, "a folder with one video"


def test_a_truncated_video_is_used_as_far_as_it_goes(tmp_path, heard):
    video = write_video(tmp_path / "v.avi", 60)
    data = video.read_bytes()
    video.write_bytes(data[: len(data) // 2])
    frames = only_set(open_inputs([video], InputOptions(every=0.1), heard))
    assert 5 < len(frames.frames) < 60
    assert len(heard) == 1 and heard[0].startswith("v.avi: broke off at frame ")


def test_a_calibration_is_for_photos(tmp_path, heard):
    video = write_video(tmp_path / "v.avi", 3)
    known = {"v": CameraCalibration(np.eye(3), np.zeros(0), np.eye(4), 96, 64)}
    with pytest.raises(InputError, match=r"v\.avi: a calibration can be given only for photos"):
        open_inputs([video], InputOptions(calibration=known), heard.append)


def test_a_recording_is_played_set_by_set(tmp_path, heard):
    for name in ("left", "right"):
        write_images(tmp_path / name, 3)
    source = open_inputs([tmp_path], InputOptions(sets=2), heard)
    sets = list(source.frame_sets())
    assert source.sets == len(sets) == 2
    assert all(frames.cameras == ("left", "right") for frames in sets)
    np.testing.assert_array_equal(sets[1].frames[0].image, picture(1))
    assert open_inputs([tmp_path], InputOptions(sets=0), heard).sets == 3


def bad_text(folder):
    (folder / "x.jpg").write_text("this is no image")
    return [folder / "x.jpg"], "x.jpg: not an image that can be read"


def bad_cut(folder):
    Image.fromarray(picture(0, (640, 480))).save(folder / "x.jpg")
    data = (folder / "x.jpg").read_bytes()
    (folder / "x.jpg").write_bytes(data[: len(data) // 3])
    return [folder / "x.jpg"], "x.jpg: cannot be read as an image: "


def bad_pixel(folder):
    write_images(folder, 1, (1, 1))
    return [folder / "im00.png"], "im00.png: is 1x1 pixels; at least 32 are needed on each side"


def bad_empty(folder):
    return [folder], f"{folder}: holds no images"


def bad_missing(folder):
    return [folder / "no"], "no: no such file or folder"


def bad_video(folder):
    (folder / "v.mp4").write_bytes(b"\0" * 1000)
    return [folder / "v.mp4"], "v.mp4: cannot be read as a video; is it complete?"


def bad_two_videos(folder):
    videos = [write_video(folder / name, 3) for name in ("a.avi", "b.avi")]
    return videos, "a.avi: a video or bag must be the only input"


def bad_folder_of_bad(folder):
    (folder / "x.jpg").write_text("this is no image")
    return [folder], "none of the images can be used"


def bad_nothing(folder):
    return [], "no input"


@pytest.mark.parametrize(
    "make",
    [
        bad_text, bad_cut, bad_pixel, bad_empty, bad_missing, bad_video, bad_two_videos,
        bad_folder_of_bad, bad_nothing,
    ],
)  # fmt: skip
def test_bad_input_is_one_line_that_names_the_file(tmp_path, heard, make):
    paths, expected = make(tmp_path)
    with pytest.raises((InputError, RecordingError)) as caught:
        list(open_inputs(paths, InputOptions(), heard).frame_sets())
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_a_bad_image_in_a_folder_is_left_out_by_name(tmp_path, heard):
    write_images(tmp_path, 2)
    (tmp_path / "im01.png").write_text("no")
    assert only_set(open_inputs([tmp_path], InputOptions(), heard)).cameras == ("im00",)
    assert heard == [f"{tmp_path / 'im01.png'}: not an image that can be read; left out"]


@pytest.mark.parametrize(
    "wrong", [{"max_images": 0}, {"sets": -1}, {"every": 0.0}, {"focal": float("nan")}]
)
def test_options_are_checked(wrong):
    with pytest.raises(InputError):
        InputOptions(**wrong)
