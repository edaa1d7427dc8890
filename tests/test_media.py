"""media.py, and what predict.py makes of it: files as people have them, made here by Pillow and
PyAV. Only grid.heic was not: an image of 1024x768 pixels in four tiles."""

import contextlib
import io
import os
import shutil
import struct
import warnings
from fractions import Fraction
from pathlib import Path

import coral_age
import numpy as np
import pytest
from conftest import ROOT, load
from coral_age import hdr, marked, media, raw
from coral_age.tracks import Clip
from PIL import Image, ImageEnhance, ImageOps
from test_predict import (  # noqa: F401 (bare is a fixture)
    FACE,
    GREY,
    PLACE,
    av,
    bare,
    box_of,
    call,
    moving,
    near,
    peak_of,
    predict,
    read_video,
    save_video,
    small,
    split,
    table,
)

GRID = Path(__file__).parent / "grid.heic"


def answers(bare, tmp_path, capsys, *words):  # noqa: F811
    """Exit code, rows, and lines to stdout and stderr, of predict.py with these words."""
    capsys.readouterr()
    code = call(*bare, *words, "--out", tmp_path / "out", "--overwrite")
    shown = capsys.readouterr()
    return code, table(tmp_path / "out"), shown.out.splitlines(), shown.err.splitlines()


def failing(bare, tmp_path, capsys, path, *words):  # noqa: F811
    """The one line to stderr about ``path``, after and before which another input is done."""
    first, last = tmp_path / "first.png", tmp_path / "last.png"
    for face in (first, last):
        small(0.5).save(face)
    code, rows, _, err = answers(bare, tmp_path, capsys, first, path, last, *words)
    sources = [row["source"] for row in rows if row["source"] != str(path)]
    assert code == 1 and sources == [str(first), str(last)]
    [line] = err
    assert line.startswith(f"predict.py: error: {path}: ")
    return line.removeprefix(f"predict.py: error: {path}: ")


# ---- Marked copies that can't be written


def test_copies_that_cannot_be_written(bare, tmp_path, capsys):  # noqa: F811
    """Their names are taken by folders, or the picture is too wide for a JPEG: a line, exit code 1,
    and the rows of all, these too."""
    small(0.5).save(tmp_path / "photo.png")
    save_video(tmp_path / "film.avi", moving(5), "mpeg4")
    for name in ("photo.jpg", "film.mp4"):
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / "mine").touch()
    code, rows, _, err = answers(
        bare, tmp_path, capsys, tmp_path / "photo.png", tmp_path / "film.avi"
    )
    assert code == 1 and len(err) == 2
    for line, name in zip(err, ("photo.png", "film.avi"), strict=True):
        assert line.startswith(f"predict.py: error: {tmp_path / name}: its marked copy: ")
    assert [row["kind"] for row in rows] == ["image", *["frame"] * 5, "track"]
    left = ["film.mp4", "photo.jpg", "predictions.csv", "predictions.json"]
    assert sorted(os.listdir(tmp_path / "out")) == left

    Image.new("RGB", (70_000, 2)).save(tmp_path / "wide.png")
    reason = failing(bare, tmp_path, capsys, tmp_path / "wide.png", "--crops")
    assert reason == "its marked copy: a side of more than 65,500 pixels; give --no_draw"


def test_a_disk_that_takes_part_of_a_copy(bare, tmp_path, capsys):  # noqa: F811
    """The limit on a file's size stands for its end: a line, and nothing of the copy stays."""
    resource = pytest.importorskip("resource")
    noise = np.random.default_rng(1).integers(0, 256, (200, 200, 3), np.uint8)
    path, limits = tmp_path / "noise.png", resource.getrlimit(resource.RLIMIT_FSIZE)
    Image.fromarray(noise).save(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        code, rows, _, err = answers(bare, tmp_path, capsys, path, "--crops")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert err == [f"predict.py: error: {path}: its marked copy: File too large"]
    assert (code, len(rows)) == (1, 1)
    assert sorted(os.listdir(tmp_path / "out")) == ["predictions.csv", "predictions.json"]


def test_a_copy_whose_encoder_fails_midway(bare, tmp_path, capsys, monkeypatch):  # noqa: F811
    save_video(tmp_path / "film.mp4", moving(9))
    encode = marked.encode

    def broken(image, clip, seconds):
        encode(image, clip, seconds)
        if seconds > 0.1:
            raise MemoryError("no more")

    monkeypatch.setattr(marked, "encode", broken)
    reason = failing(bare, tmp_path, capsys, tmp_path / "film.mp4")
    assert reason == "its marked copy: no more"
    assert len(split(table(tmp_path / "out"))[0]) == 9
    names = ["first.jpg", "last.jpg", "predictions.csv", "predictions.json"]
    assert sorted(os.listdir(tmp_path / "out")) == names


@pytest.mark.parametrize("letter", ["n", "ü"])
def test_long_names(letter, bare, tmp_path, capsys):  # noqa: F811
    """As long as a file system allows, in bytes."""
    stem = letter * (251 // len(letter.encode()))
    for end in (".jpg", ".png"):
        small(0.5).save(tmp_path / f"{stem}{end}")
    paths = [tmp_path / f"{stem}{end}" for end in (".jpg", ".png")]
    code, rows, _, err = answers(bare, tmp_path, capsys, *paths)
    assert code == 0 and err == [] and [row["source"] for row in rows] == list(map(str, paths))
    copies = list((tmp_path / "out").glob("*.jpg"))
    assert len(copies) == 2 and all(path.name.startswith(letter * 90) for path in copies)


def test_a_gap_of_sixty_thousand_seconds(bare, tmp_path, capsys):  # noqa: F811
    """Two recordings in one file: the times are told, the copy waits for ten seconds."""
    ticks = [*range(5), *range(60_000 * 25, 60_000 * 25 + 5)]
    path = tmp_path / "two.ts"
    save_video(path, moving(10), "mpeg2video", ticks, rate=25)
    code, rows, _, err = answers(bare, tmp_path, capsys, path)
    assert code == 0 and err == []
    frames, tracks = split(rows)
    assert [float(row["seconds"]) for row in frames] == [tick / 25 for tick in ticks]
    assert [row["face"] for row in tracks] == ["1", "2"]
    times, _ = read_video(tmp_path / "out" / "two.mp4")
    assert len(times) == 10 and times[5] - times[4] == pytest.approx(10, abs=0.01)


def test_joined_recordings(bare, tmp_path, capsys):  # noqa: F811
    """`cat a.ts b.ts > c.ts`: the clock begins anew, and time goes on."""
    pictures = moving(36)
    for name, part in (("a", pictures[:30]), ("b", pictures[30:])):
        save_video(tmp_path / f"{name}.ts", part, "mpeg2video", rate=25)
    joined = tmp_path / "c.ts"
    joined.write_bytes(b"".join((tmp_path / f"{name}.ts").read_bytes() for name in "ab"))
    code, rows, _, err = answers(bare, tmp_path, capsys, joined)
    assert code == 0 and err == []
    frames, _ = split(rows)
    assert [float(row["seconds"]) for row in frames] == pytest.approx(np.arange(36) / 25)


# ---- Images


def test_heic(bare, tmp_path, capsys):  # noqa: F811
    """The whole picture, under any name."""
    for name in ("grid.heic", "grid.jpg"):
        shutil.copy(GRID, tmp_path / name)
        pixels = media.read_image(tmp_path / name, pytest.fail)
        assert pixels.shape == (768, 1024, 3)
        tiles = pixels[256, 256], pixels[256, 768], pixels[640, 256], pixels[640, 768]
        due = [[90, 90, 90], [200, 40, 40], [40, 40, 200], [200, 40, 40]]
        assert np.abs(np.array(tiles, int) - due).max() < 6
    code, rows, out, err = answers(bare, tmp_path, capsys, tmp_path, "--crops")
    assert code == 0 and err == []
    assert [(row["kind"], row["right"], row["bottom"]) for row in rows] == [
        ("image", "1024", "768")
    ] * 2


def test_avif_is_an_image(bare, tmp_path, capsys):  # noqa: F811
    exif = Image.Exif()
    exif[0x0112] = 6
    FACE.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.avif", exif=exif, quality=95)
    code, [row], _, err = answers(bare, tmp_path, capsys, tmp_path / "a.avif")
    assert code == 0 and err == [] and row["kind"] == "image" and near(row, PLACE)


def tiff_head(orientation, odd):
    """EXIF data with an orientation and an XResolution of an odd kind: text, or signed -1/0."""
    kind, count, value = odd
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    entries += struct.pack("<HHII", 0x011A, kind, count, 8 + 2 + 2 * 12 + 4)
    return b"II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4) + value


@pytest.mark.parametrize("odd", [(2, 8, b"72 dpi\0\0"), (10, 1, struct.pack("<ii", -1, 0))])
def test_odd_exif_data(odd, bare, tmp_path, capsys):  # noqa: F811
    """The orientation counts, whatever else there is."""
    turned = FACE.transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "a.jpg", quality=95, exif=b"Exif\0\0" + tiff_head(6, odd))
    code, [row], _, err = answers(bare, tmp_path, capsys, tmp_path / "a.jpg")
    assert code == 0 and err == [] and near(row, PLACE)


def test_several_pictures_in_one_file(bare, tmp_path, capsys):  # noqa: F811
    """Of a TIFF the first and a line, a GIF that moves is a video."""
    pictures = moving(6, step=3)
    pictures[0].save(tmp_path / "two.tif", save_all=True, append_images=pictures[1:2])
    code, rows, _, err = answers(bare, tmp_path, capsys, tmp_path / "two.tif")
    line = f"predict.py: warning: {tmp_path / 'two.tif'}: only the first of 2 pictures in it"
    assert code == 0 and err == [line] and len(rows) == 1
    film = tmp_path / "film.gif"
    pictures[0].save(film, save_all=True, append_images=pictures[1:], duration=200)
    code, rows, _, err = answers(bare, tmp_path, capsys, film)
    assert code == 0 and err == []
    assert [float(row["seconds"]) for row in split(rows)[0]] == pytest.approx(
        [0.2 * number for number in range(6)]
    )


@pytest.mark.parametrize(
    "kind, reason",
    [(np.float32, "floating-point numbers"), (np.int32, "integers of 32 bits")],
)
def test_pixels_of_unknown_range(kind, reason, bare, tmp_path, capsys):  # noqa: F811
    Image.fromarray(np.ones((40, 40), kind)).save(tmp_path / "a.tif")
    line = failing(bare, tmp_path, capsys, tmp_path / "a.tif")
    assert line == f"its pixels are {reason} of unknown range; convert it to 8 bits"


def test_warnings_of_pillow_are_not_printed(bare, tmp_path):  # noqa: F811
    """Of a palette with transparency, for one: it is read, and no user could mend it. The filters
    of a program that imports media.py stay as they are."""
    image = FACE.quantize(9)
    image.save(tmp_path / "a.png", transparency=bytes([9, 99, 200]))
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        assert call(*bare, tmp_path / "a.png", "--crops") == 0 and noted == []
        pixels = media.read_image(tmp_path / "a.png", pytest.fail)
    assert len(noted) == 1 and np.array_equal(pixels, np.asarray(image.convert("RGB")))


def test_no_limit(tmp_path, monkeypatch):
    """A program may have lifted Pillow's limit of pixels."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    FACE.save(tmp_path / "a.png")
    assert media.read_image(tmp_path / "a.png", pytest.fail).shape == (256, 256, 3)
    save_video(tmp_path / "a.mp4", moving(3))
    frames = list(media.read_video(tmp_path / "a.mp4", Clip(), pytest.fail))
    assert len(frames) == 3


# ---- Folders


def test_what_a_folder_leaves_out(bare, tmp_path, capsys):  # noqa: F811
    """Hidden folders and files; other kinds, folders named @... and links that lead nowhere are
    counted; links are followed, but not in circles."""
    folder, other = tmp_path / "in", tmp_path / "other"
    for name in ("in/deep", "in/.thumbnails", "in/@eaDir", "in/deep/@Maria", "other"):
        (tmp_path / name).mkdir(parents=True)
        small(0.5).save(tmp_path / name / "t.jpg")
    shutil.copy(GRID, folder / "grid.HEIC")
    for name in ("a.txt", "b.txt", "deep/c.pdf", "Makefile", ".hidden.txt"):
        (folder / name).write_text("nothing")
    (folder / "link").symlink_to(other, target_is_directory=True)
    (folder / "deep" / "circle").symlink_to(folder, target_is_directory=True)
    (other / "circle").symlink_to(other, target_is_directory=True)
    for name in ("gone.jpg", "gone"):
        (folder / "deep" / name).symlink_to(tmp_path / "unplugged")
    code, rows, out, err = answers(bare, tmp_path, capsys, folder, "--crops", "--no_draw")
    assert code == 0 and err == []
    names = ["deep/t.jpg", "grid.HEIC", "link/t.jpg"]
    assert [row["source"] for row in rows] == [str(folder / name) for name in names]
    kinds = "2 .txt, 1 without suffix, 1 .pdf"
    line, *others = [line for line in out if line.startswith(f"{folder}: ")]
    assert line.startswith(f"{folder}: 4 other files left out: ")
    assert sorted(line.partition("out: ")[2].split(", ")) == sorted(kinds.split(", "))
    assert sorted(others) == [
        f"{folder}: 2 folders named @... not searched, as {folder / '@eaDir'}",
        f"{folder}: 2 links lead nowhere, as {folder / 'deep' / 'gone'}",
    ]

    shutil.rmtree(folder / "deep")
    for name in ("grid.HEIC", "a.txt", "b.txt", "link"):
        (folder / name).unlink()
    assert call(*bare, folder, "--crops") == 2
    left = "1 other files left out: 1 without suffix; 1 folders named @... not searched, as "
    due = f"{folder}: no image or video in this folder or the folders in it ({left}{folder}/@eaDir)"
    assert capsys.readouterr().err == f"predict.py: error: {due}\n"


def test_control_characters_are_not_printed(bare, tmp_path, capsys):  # noqa: F811
    """Those in names might clear the screen, or forge a line."""
    good, bad = tmp_path / "a\x1b[2Jb\nc.png", tmp_path / "\u202egnp.txt"
    small(0.5).save(good)
    bad.write_text("text")
    code, rows, out, err = answers(bare, tmp_path, capsys, good, bad)
    assert code == 1 and [row["source"] for row in rows] == [str(good)]
    assert any(line.endswith(r"a\x1b[2Jb\nc.png") for line in out)
    assert [r"\u202egnp.txt: " in line for line in err] == [True]


def test_carriage_returns_in_names_and_labels(bare, tmp_path, capsys):  # noqa: F811
    """The CSV can be read, and is predictions.json (see table())."""
    for name in ("a\rb.png", "c.png"):
        small(0.5).save(tmp_path / name)
    (tmp_path / "labels.csv").write_bytes(b'file,age\nc.png,"31\r"\n')
    words = [*tmp_path.glob("*.png"), "--crops", "--labels", tmp_path / "labels.csv"]
    code, rows, _, err = answers(bare, tmp_path, capsys, *words)
    assert code == 0 and err == []
    assert {row["source"]: row["true_age"] for row in rows} == {
        rf"{tmp_path}/a\rb.png": "",
        f"{tmp_path}/c.png": "31",
    }


# ---- Videos


def matrix_of(turns, mirrored):
    """A display matrix as 9 integers: mirrored about the vertical axis, then turned clockwise."""
    a, b, c, d = -1 if mirrored else 1, 0, 0, 1
    for _ in range(turns):
        a, b, c, d = -b, a, -d, c
    return a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_display_matrices(turns, mirrored, tmp_path):
    """A picture of four colours whose file says how a player is to show it."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32] = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    path = tmp_path / "film.mp4"
    save_video(path, [Image.fromarray(picture)] * 2, "mpeg4")
    content, numbers = path.read_bytes(), struct.Struct(">9i")
    begin = content.index(numbers.pack(*matrix_of(0, False)), content.index(b"tkhd"))
    matrix = numbers.pack(*matrix_of(turns, mirrored))
    path.write_bytes(content[:begin] + matrix + content[begin + 36 :])
    due = np.rot90(picture[:, ::-1] if mirrored else picture, -turns)
    clip = Clip()
    for _, pixels in media.read_video(path, clip, pytest.fail):
        assert pixels.shape == due.shape
        assert np.abs(pixels.astype(int) - due).mean() < 12


def test_the_film_and_not_its_cover(bare, tmp_path, capsys):  # noqa: F811
    path = tmp_path / "film.mp4"
    with av.open(path, "w") as container:
        film, cover = (container.add_stream(name, 30) for name in ("mpeg4", "mjpeg"))
        cover.disposition = av.stream.Disposition.attached_pic.value
        for stream, pixel_format in ((film, "yuv420p"), (cover, "yuvj420p")):
            stream.width, stream.height, stream.pix_fmt = 200, 128, pixel_format
        container.mux(cover.encode(av.VideoFrame.from_image(Image.new("RGB", (200, 128)))))
        for picture in moving(3):
            container.mux(film.encode(av.VideoFrame.from_image(picture)))
        for stream in (film, cover):
            container.mux(stream.encode())
    # the cover is metadata (udta); FFmpeg lists it first if it comes before the film (trak)
    content = path.read_bytes()
    track, data = (content.index(name) - 4 for name in (b"trak", b"udta"))
    end = data + int.from_bytes(content[data : data + 4], "big")
    parts = content[:track], content[data:end], content[track:data], content[end:]
    path.write_bytes(b"".join(parts))
    with av.open(path) as container:
        assert container.streams.video[0].codec_context.name == "mjpeg"
    code, rows, _, err = answers(bare, tmp_path, capsys, path)
    assert code == 0 and err == [] and len(split(rows)[0]) == 3


def two_streams(path):
    """Write a video with two streams of pictures, the second one larger."""
    with av.open(path, "w") as container:
        for size in ((64, 48), (200, 128)):
            stream = container.add_stream("mpeg4", 30)
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for picture in moving(3):
            for stream in container.streams.video:
                image = picture.resize((stream.width, stream.height))
                container.mux(stream.encode(av.VideoFrame.from_image(image)))
        for stream in container.streams.video:
            container.mux(stream.encode())


def test_the_largest_of_two_streams(bare, tmp_path, capsys):  # noqa: F811
    path = tmp_path / "film.mkv"
    two_streams(path)
    code, rows, _, err = answers(bare, tmp_path, capsys, path, "--crops")
    note = "only one of its 2 video streams, the largest: number 2, 200x128"
    assert code == 0 and err == [f"predict.py: warning: {path}: {note}"]
    assert [row["right"] for row in split(rows)[0]] == ["200"] * 3


@pytest.mark.parametrize("aspect, size", [((4, 3), (267, 128)), ((1, 2), (200, 256))])
def test_pixels_that_are_not_square(aspect, size, bare, tmp_path, capsys):  # noqa: F811
    """Faces and copy as a player shows them."""
    path = tmp_path / "film.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", 30)
        stream.width, stream.height, stream.pix_fmt = 200, 128, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(*aspect)
        picture = Image.new("RGB", size, GREY)
        picture.paste(small(0.5), (40, 0))
        for _ in range(3):
            frame = av.VideoFrame.from_image(picture.resize((200, 128)))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    code, rows, _, err = answers(bare, tmp_path, capsys, path)
    assert code == 0 and err == []
    assert all(near(row, PLACE / 2 + [40, 0, 40, 0]) for row in split(rows)[0])
    assert read_video(tmp_path / "out" / "film.mp4")[1][0].shape[:2] == (size[1], size[0] // 2 * 2)


def test_another_person_after_three_seconds(bare, tmp_path, capsys):  # noqa: F811
    """At the same place, in a file that counts thousandths of a second, with a thousand pictures a
    second by its own account."""
    ticks = [*range(0, 1000, 33), *range(4000, 5000, 33)]
    picture = Image.new("RGB", (200, 128), GREY)
    picture.paste(small(0.5), (20, 0))
    save_video(tmp_path / "film.mkv", [picture] * len(ticks), "mpeg4", ticks, rate=1000)
    code, rows, _, err = answers(bare, tmp_path, capsys, tmp_path / "film.mkv")
    assert code == 0 and err == []
    frames, tracks = split(rows)
    assert len(frames) == len(ticks)
    assert [(row["face"], row["seconds"]) for row in tracks] == [("1", "0.0"), ("2", "4.0")]


def test_times_never_go_back(tmp_path):
    """AVI holds no times of pictures that were encoded in another order."""
    path = tmp_path / "film.avi"
    random = np.random.default_rng(1)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", 25)
        stream.options = {"bf": "2", "x264-params": "b-adapt=0:scenecut=0"}
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(12):
            noise = random.integers(0, 255, (48, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise)))
        container.mux(stream.encode())
    with av.open(path) as container:
        plain = [frame.time for frame in container.decode(video=0)]
    assert plain != sorted(plain)
    times = [seconds for seconds, _ in media.read_video(path, Clip(), pytest.fail)]
    assert times == sorted(times) and len(times) == 12
    assert np.abs(np.array(times) - np.arange(12) / 25).max() < 0.15


def test_a_video_that_is_read_from_before_its_beginning(bare, tmp_path, capfd):  # noqa: F811
    """A damaged length in a WMV makes FFmpeg seek there."""
    path = tmp_path / "film.wmv"
    save_video(path, [small(0.5)] * 5, "wmv2")
    content = path.read_bytes()
    path.write_bytes(content[:47] + content[55:])
    assert call(*bare, path, "--crops", "--out", tmp_path / "out") == 1
    [line] = capfd.readouterr().err.splitlines()
    reason = "neither an image nor a video, or too damaged (invalid data)"
    assert line == f"predict.py: error: {path}: {reason}"


def test_a_karaoke_disc_is_no_video(bare, tmp_path, capsys):  # noqa: F811
    """FFmpeg takes any file that begins with this byte for one, as a damaged ONNX file may."""
    content = "090e32370a0c0a01780201792204520a08080112040a0208" + "04620f0a0179120a0a0a0a080801"
    (tmp_path / "model.onnx").write_bytes(bytes.fromhex(content + "12040a0208044202"))
    reason = failing(bare, tmp_path, capsys, tmp_path / "model.onnx")
    assert reason == "neither an image nor a video (cdg)"


TEXTS = {
    "readme.txt": "Dear reader,\n" * 500,
    "group.nfo": "Dear reader,\n" * 500,
    "drawing.ans": "\x1b[1mDear reader,\n",
    "page.jpg": "<!DOCTYPE html>\n<html><body>Not found</body></html>",
    "answer.jpg": '{"error": "not found"}',
    "drawing.png": '<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "list.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfilm.avi\n#EXT-X-ENDLIST\n",
    "list.jpg": "ffconcat version 1.0\nfile film.avi\n",
    "cars.bmp": "BMW and others",
    "pnm.ppm": "P5 is grey, P6 has colours",
    "umlauts.jpg": "\ufeffGrüße an alle",
    "a.mov": "a",
}


@pytest.mark.parametrize("code", ["utf-8", "utf-16"])
def test_text_is_neither(code, bare, tmp_path, capsys, monkeypatch):  # noqa: F811
    """However it is named, in a folder, as bytes, or as a video: FFmpeg never sees it, which would
    follow lists of other files."""
    model = predict.load(weights=bare[1], script=bare[3], image_size=32)
    monkeypatch.setattr(av, "open", lambda *_, **__: pytest.fail("FFmpeg was asked"))
    for name, text in TEXTS.items():
        (tmp_path / name).write_bytes(text.encode(code))
    assert call(*bare, tmp_path, *(tmp_path / name for name in TEXTS), "--no_draw") == 1
    lines = capsys.readouterr().err.splitlines()
    told = dict(line.removeprefix("predict.py: error: ").split(": ", 1) for line in lines)
    line = "neither an image nor a video (it begins as text)"
    assert told == {str(tmp_path / name): line for name in TEXTS} and len(lines) == len(TEXTS)
    for name in TEXTS:
        with pytest.raises(ValueError, match="^neither an image nor a video .it begins as text.$"):
            coral_age.faces(model, (tmp_path / name).read_bytes())
        with pytest.raises(ValueError, match="^neither an image nor a video .it begins as text.$"):
            list(coral_age.video(model, tmp_path / name))


def test_pictures_that_begin_as_text(tmp_path):
    """PPM files do, and YUV4MPEG2, a kind of video."""
    (tmp_path / "a.ppm").write_bytes(b"P3 2 1 255\n" + b" 65 " * 6 + b"\n" * 50)
    (tmp_path / "b.ppm").write_bytes(b"P6\n# made by hand\n9 9 255\n" + b"A" * 243)
    for name, shape in (("a.ppm", (1, 2, 3)), ("b.ppm", (9, 9, 3))):
        pixels = media.read_image(tmp_path / name, pytest.fail)
        assert pixels.shape == shape and (pixels == 65).all()
    film = b"YUV4MPEG2 W16 H16 F25:1 Ip A1:1 C420jpeg\nFRAME\n" + b"A" * 384
    (tmp_path / "a.y4m").write_bytes(film)
    assert len(list(media.read_video(tmp_path / "a.y4m", Clip(), pytest.fail))) == 1


def test_an_unknown_codec(bare, tmp_path, capsys):  # noqa: F811
    path = tmp_path / "film.mkv"
    save_video(path, moving(3), "mpeg4")
    content = path.read_bytes()
    assert b"V_MPEG4/ISO/ASP" in content
    path.write_bytes(content.replace(b"V_MPEG4/ISO/ASP", b"V_OTHER/ISO/ASP"))
    reason = failing(bare, tmp_path, capsys, path)
    assert reason == "the codec of its video is unknown to FFmpeg; convert it to H.264"


def test_a_copy_without_sound_is_told(bare, tmp_path, capsys):  # noqa: F811
    path = tmp_path / "film.mp4"
    save_video(path, moving(3), "mpeg4", sound=True)
    code, rows, _, err = answers(bare, tmp_path, capsys, path)
    assert code == 0 and len(split(rows)[0]) == 3
    assert err == [f"predict.py: warning: {path}: the marked copy is without its sound"]
    code, _, _, err = answers(bare, tmp_path, capsys, path, "--no_draw")
    assert code == 0 and err == []


def test_sound_alone_is_no_video(bare, tmp_path, capsys):  # noqa: F811
    path = tmp_path / "song.mp4"
    with av.open(path, "w") as container:
        sound = container.add_stream("aac", 44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 2048), np.float32), "fltp", "stereo")
        frame.sample_rate = 44100
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    assert failing(bare, tmp_path, capsys, path) == "no video in it"


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_tiff_files_are_turned_once(orientation, tmp_path):
    """Pillow turns them while it loads them (and wrongly where it maps an uncompressed one)."""
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    image = Image.fromarray(pixels)
    image.save(tmp_path / "photo.tif", tiffinfo={0x0112: orientation})
    upright = np.rot90(pixels, {1: 0, 3: 2, 6: -1, 8: 1}[orientation])
    found = media.read_image(tmp_path / "photo.tif", print)
    assert np.array_equal(found[:, :, 0], upright)


def test_crops_are_turned_as_the_script_turns_them(tmp_path):
    """What --crops shows the network is what the script trains on: the paper's scripts ignore the
    EXIF orientation, as the reference does, the others go by it."""
    pixels = np.zeros((60, 60, 3), np.uint8)
    pixels[:30] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the top is on the right
    Image.fromarray(pixels).save(tmp_path / "photo.png", exif=exif)
    for name, turned in (("utk-coral", False), ("faces-coral", True)):
        script = load(ROOT / "model-code" / f"{name}.py")
        with Image.open(tmp_path / "photo.png") as image:
            trained = script.prepare_image(image, 40)
        shown = media.read_image(tmp_path / "photo.png", print, script.UPRIGHT)
        assert np.array_equal(script.prepare_image(Image.fromarray(shown), 40), trained)
        corners = trained[0, 5, 5], trained[0, 5, 35], trained[0, 35, 5], trained[0, 35, 35]
        assert corners == ((0, 255, 0, 255) if turned else (255, 255, 0, 0))


# ---- Cuts


OTHER = ImageOps.mirror(FACE)  # somebody else to the eye that compares faces
BLOCKS = np.random.default_rng(1).integers(0, 256, (8, 13, 3), np.uint8)
ROOMS = [Image.fromarray(some).resize((200, 128), 0) for some in (BLOCKS, BLOCKS[::-1, ::-1])]


def scene(face, room):
    """A face of 128 pixels in the middle of a room of 200x128."""
    picture = room.copy()
    picture.paste(face.resize((128, 128), Image.Resampling.LANCZOS), (36, 0))
    return picture


@pytest.mark.parametrize("every, first", [(1, 25), (4, 28)])
def test_a_cut_ends_tracks(every, first, bare, tmp_path, capsys, monkeypatch):  # noqa: F811
    """Two people at the same place, the second of whom turns up four frames after the cut. In the
    copy no mark of the first lies on the other scene."""
    pictures = [scene(FACE, ROOMS[0])] * 21 + [ROOMS[1]] * 4 + [scene(OTHER, ROOMS[1])] * 15
    save_video(tmp_path / "film.mp4", pictures)
    marks, mark = [], marked.mark
    monkeypatch.setattr(marked, "mark", lambda *args: marks.append(len(args[1])) or mark(*args))
    code, rows, _, err = answers(bare, tmp_path, capsys, tmp_path / "film.mp4", "--every", every)
    assert code == 0 and err == []
    spans = [(row["frame"], round(float(row["until_seconds"]) * 30)) for row in split(rows)[1]]
    assert spans == [("0", 20), (str(first), 39 // every * every)]
    assert marks == [1] * 21 + [0] * (first - 21) + [1] * (40 - first)


@pytest.mark.parametrize("rooms", [ROOMS, ROOMS[:1] * 2])
def test_faces_before_and_after_a_cut(rooms, bare, tmp_path, capsys):  # noqa: F811
    """Two people at the same place, one frame after the other, and not where the whole picture is
    searched anyway; the same in one room, which is no cut."""
    pictures = [scene(FACE, rooms[0])] * 21 + [scene(OTHER, rooms[1])] * 19
    save_video(tmp_path / "film.mp4", pictures)
    code, rows, _, err = answers(bare, tmp_path, capsys, tmp_path / "film.mp4")
    assert code == 0 and err == [] and len(split(rows)[0]) == 40
    spans = [(row["frame"], round(float(row["until_seconds"]) * 30)) for row in split(rows)[1]]
    assert spans == [("0", 20), ("21", 39)]


def test_another_face_without_a_cut(bare, tmp_path, capsys):  # noqa: F811
    """Two people at one place in the same room, one a second; the first comes back, lit anew."""
    bright = ImageEnhance.Brightness(FACE).enhance(1.4)
    pictures = [scene(face, ROOMS[1]) for face in (FACE, OTHER, FACE, bright)]
    save_video(tmp_path / "film.mp4", pictures, rate=1)
    code, rows, _, err = answers(bare, tmp_path, capsys, tmp_path / "film.mp4")
    assert code == 0 and err == []
    spans = [(float(row["seconds"]), float(row["until_seconds"])) for row in split(rows)[1]]
    assert spans == [(0, 3), (1, 1)]


def test_a_flash_ends_no_track(bare, tmp_path, capsys):  # noqa: F811
    pictures = moving(20)
    pictures[9] = Image.blend(pictures[9], Image.new("RGB", (200, 128), (255, 255, 255)), 0.7)
    save_video(tmp_path / "film.mp4", pictures)
    code, rows, _, err = answers(bare, tmp_path, capsys, tmp_path / "film.mp4")
    assert code == 0 and err == [] and [row["frames"] for row in split(rows)[1]] == ["20"]


def test_brief_tracks_are_left_out(bare, tmp_path, capsys):  # noqa: F811
    """One of 4 frames at 30 a second beside one that stays; alone it would be told."""
    pictures = moving(30, size=(300, 128))
    for picture in pictures[8:12]:
        picture.paste(small(0.5, mirrored=True), (172, 0))
    for some, due in ((pictures, [("1", "30")]), (pictures[8:12], [("1", "4"), ("2", "4")])):
        save_video(tmp_path / "film.mp4", some)
        code, rows, _, err = answers(bare, tmp_path, capsys, tmp_path / "film.mp4", "--no_draw")
        frames, tracks = split(rows)
        assert code == 0 and len(frames) == len(some) + 4 * (len(some) == 30) + 4 * (len(some) == 4)
        assert [(row["face"], row["frames"]) for row in tracks] == due
        what = "1 tracks shorter than 0.25 s left out; the rows of their frames are there"
        expected = [f"predict.py: warning: {tmp_path / 'film.mp4'}: {what}"]
        assert err == (expected if len(some) == 30 else [])


# ---- Interlaced


@pytest.mark.parametrize("progressive", [False, True])
def test_interlaced_frames(progressive, tmp_path):
    """Of two fields of a face that moves by 6 pixels from one to the next: as in one of them."""
    fields = [np.asarray(picture) for picture in moving(12, step=6)]
    path = tmp_path / "film.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", 25)
        stream.width, stream.height, stream.pix_fmt = 200, 128, "yuv420p"
        stream.options = {"crf": "10"} | ({} if progressive else {"x264-params": "tff=1"})
        for first, second in zip(fields[::2], fields[1::2], strict=True):
            woven = first.copy()
            woven[1::2] = first[1::2] if progressive else second[1::2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(woven)))
        container.mux(stream.encode())
    with av.open(path) as container:
        plain = list(container.decode(video=0))
    assert {frame.interlaced_frame for frame in plain} == {not progressive}
    found = list(media.read_video(path, Clip(), pytest.fail))
    assert [seconds for seconds, _ in found] == pytest.approx([n / 25 for n in range(6)])
    for number, ((_, pixels), frame) in enumerate(zip(found, plain, strict=True)):
        untouched = frame.to_ndarray(format="rgb24")
        far = [
            min(np.abs(some - due.astype(float)).mean() for due in fields[2 * number :][:2])
            for some in (pixels, untouched)
        ]
        assert far[0] < 5 and (far[1] > 10 or progressive)
        assert np.array_equal(untouched, pixels) or not progressive


# ---- JPEGs one after the other


def test_a_recording_of_jpegs_is_a_video(bare, tmp_path, capsys):  # noqa: F811
    """But a photo with a smaller picture behind it, or in it, is one."""
    empty, path = tmp_path / "empty.jpg", tmp_path / "film.mjpeg"
    Image.new("RGB", (128, 128), GREY).save(empty)
    small(0.5).save(tmp_path / "face.jpg")
    face = (tmp_path / "face.jpg").read_bytes()
    path.write_bytes(empty.read_bytes() + face + face)
    code, rows, _, err = answers(bare, tmp_path, capsys, tmp_path)
    assert code == 0 and err == []
    film = [row for row in rows if row["source"] == str(path)]
    assert [(row["kind"], row["frame"]) for row in film] == [
        ("frame", "1"), ("frame", "2"), ("track", "1"),
    ]  # fmt: skip
    assert near(film[0], PLACE / 2)

    small(0.25).save(tmp_path / "gain.jpg")
    exif = Image.Exif()
    exif[0x010E] = face.decode("latin-1")  # as a thumbnail would lie in it
    small(0.5).save(tmp_path / "with.jpg", exif=exif)
    for content in (
        face + (tmp_path / "gain.jpg").read_bytes(),
        (tmp_path / "with.jpg").read_bytes(),
    ):
        path.write_bytes(content)
        _, rows, _, _ = answers(bare, tmp_path, capsys, path)
        assert [row["kind"] for row in rows] == ["image"]


# ---- High dynamic range


def test_light_of_signals_of_high_dynamic_range():
    """Tables of BT.2408: white paper, 203 cd/m2, is 58 % of PQ and 75 % of HLG."""
    grey = np.array([[0.58] * 3, [0.75] * 3])
    assert hdr.light_of(grey[0], hdr.PQ) == pytest.approx([203] * 3, rel=0.01)
    assert hdr.light_of(grey[1], hdr.HLG) == pytest.approx([203] * 3, rel=0.01)
    assert hdr.light_of(np.ones(3), hdr.PQ) == pytest.approx([10_000] * 3)
    assert hdr.light_of(np.ones(3), hdr.HLG) == pytest.approx([1000] * 3, rel=1e-3)


def signal_of(light, transfer):
    """The signal of light in cd/m2: BT.2100, inverse EOTF of PQ, inverse OOTF and OETF of HLG."""
    if transfer == hdr.PQ:
        y = (light / 10_000) ** 0.1593017578125
        return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375
    luminance = (light @ [0.2627, 0.6780, 0.0593] / 1000)[..., None].clip(1e-9)
    scene = light / 1000 * luminance ** (1 / 1.2 - 1)
    high = 0.17883277 * np.log((12 * scene - 0.28466892).clip(1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), high)


def wide_planes(twin, transfer):
    """The planes of an array like ``twin``, (128, 128, 3) in sRGB, of high dynamic range: 10 bits,
    4:2:0, BT.2020, uint16 (192, 128)."""
    light = twin / 255
    light = 203 * np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)
    wide = np.maximum(light @ np.linalg.inv(hdr.TO_BT709).T, 0)
    red, green, blue = np.moveaxis(signal_of(wide, transfer), -1, 0)
    luma = 0.2627 * red + 0.6780 * green + 0.0593 * blue
    planes = [64 + 876 * luma, 512 + 896 * (blue - luma) / 1.8814]
    planes.append(512 + 896 * (red - luma) / 1.4746)
    planes[1:] = [plane.reshape(64, 2, 64, 2).mean((1, 3)) for plane in planes[1:]]
    flat = np.concatenate([plane.ravel() for plane in planes])
    return flat.round().astype(np.uint16).reshape(192, 128)


@contextlib.contextmanager
def as_before():
    """Keep this thread's priority: SVT-AV1, run by root, gives it one that stops all others."""
    priority = os.sched_getscheduler(0), os.sched_getparam(0)
    yield
    os.sched_setscheduler(0, *priority)


def save_wide(path, planes, transfer, codec, **options):
    """Write a frame of wide_planes() by an encoder of FFmpeg, with this transfer characteristic."""
    with as_before(), av.open(path, "w") as container:
        stream = container.add_stream(codec, 30)
        stream.width, stream.height, stream.pix_fmt = 128, 128, "yuv420p10le"
        stream.options = options
        for name, value in (("color_trc", transfer), ("color_primaries", 9), ("colorspace", 9)):
            setattr(stream.codec_context, name, value)
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p10le")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("transfer", [16, 18])
def test_videos_of_high_dynamic_range(transfer, tmp_path):
    """A film whose brightest is at 70 % of white looks as its twin in sRGB."""
    twin, path = np.asarray(small(0.5)) * 0.85, tmp_path / "film.mp4"
    params = f"colorprim=9:transfer={transfer}:colormatrix=9"
    planes = wide_planes(twin, transfer)
    save_wide(path, planes, transfer, "libx264", crf="8", **{"x264-params": params})
    [(_, pixels)] = media.read_video(path, Clip(), pytest.fail)
    assert np.abs(pixels - twin).mean() < 6


def box(kind, *parts):
    """A box of an ISO base media file."""
    content = b"".join(parts)
    return struct.pack(">I", 8 + len(content)) + kind + content


def heic(stream, colours):
    """A frame of 128x128 pixels of 10 bits in HEVC, the bytes of the stream (ITU-T H.265, annex B),
    as a HEIC with these primaries, transfer characteristic and matrix (ISO/IEC 23008-12)."""
    units = [unit.rstrip(b"\0") for unit in stream.split(b"\0\0\1")[1:]]
    units = [(unit[0] >> 1, struct.pack(">I", len(unit)) + unit) for unit in units]
    frame = b"".join(unit for kind, unit in units if kind < 32)
    settings = bytes.fromhex("01022000000000000000000000f000fcfdfafa00000f03")  # of three kinds
    for due in (32, 33, 34):
        [unit] = [unit for kind, unit in units if kind == due]
        settings += bytes([0x80 | due, 0, 1]) + unit[2:]
    properties = box(b"hvcC", settings), box(b"ispe", struct.pack(">III", 0, 128, 128))
    properties += (box(b"colr", b"nclx", struct.pack(">HHHB", *colours, 0)),)
    used = struct.pack(">IIHBBBB", 0, 1, 1, 3, 0x81, 2, 3)
    entry = box(b"infe", struct.pack(">IHH", 2 << 24, 1, 0), b"hvc1\0")

    def meta(place):
        location = struct.pack(">IHHHHHII", 0, 0x4400, 1, 1, 0, 1, place, len(frame))
        return box(
            b"meta",
            bytes(4),
            box(b"hdlr", bytes(8), b"pict", bytes(13)),
            box(b"pitm", struct.pack(">IH", 0, 1)),
            box(b"iloc", location),
            box(b"iinf", struct.pack(">IH", 0, 1), entry),
            box(b"iprp", box(b"ipco", *properties), box(b"ipma", used)),
        )

    head = box(b"ftyp", b"heic", bytes(4), b"mif1heic")
    return head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", frame)


@pytest.mark.parametrize("kind", ["heic", "avif"])
@pytest.mark.parametrize("transfer", [16, 18])
def test_photos_of_high_dynamic_range(transfer, kind, bare, tmp_path, capsys):  # noqa: F811
    """Of 10 bits: they look as their twin in sRGB, and the face is where that has it."""
    twin, path = np.asarray(small(0.5)) * 0.85, tmp_path / f"photo.{kind}"
    planes = wide_planes(twin, transfer)
    if kind == "avif":
        save_wide(path, planes, transfer, "libsvtav1", preset="8", crf="8")
    else:
        quiet = {"x265-params": "log-level=error"}
        save_wide(tmp_path / "a.hevc", planes, 2, "libx265", crf="8", **quiet)  # 2: unknown
        path.write_bytes(heic((tmp_path / "a.hevc").read_bytes(), (9, transfer, 9)))
    pixels = media.read_image(path, pytest.fail)
    assert np.abs(pixels - twin).mean() < 6
    code, [row], _, err = answers(bare, tmp_path, capsys, path)
    assert code == 0 and err == [] and near(row, PLACE / 2)


# ---- Raw photos


def raw_photo(pictures, mark=bytes(8), chained=False):
    """A TIFF file whose first picture has the others in it, or with ``chained`` after it: of each a
    dict of numbers by tag, and its data, whose place and length are those of the tags ``names``."""
    content, places = bytearray(b"II*\0" + bytes(4) + mark), []
    for number, (tags, data, names) in reversed(list(enumerate(pictures))):
        tags = tags | dict(zip(names, (len(content), len(data)), strict=True))
        content += data + bytes(len(data) % 2)
        if places and not number and not chained:
            tags[330] = len(content) if len(places) > 1 else places[0]
            content += struct.pack(f"<{len(places)}I", *places)
        following = places[0] if places and chained else 0
        count = {330: len(places)}
        places.insert(0, len(content))
        content += struct.pack("<H", len(tags))
        for tag, value in sorted(tags.items()):
            content += struct.pack("<HHII", tag, 4, count.get(tag, 1), value)
        content += struct.pack("<I", following)
    content[4:8] = struct.pack("<I", places[0])
    return bytes(content)


def encoded(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95)
    return file.getvalue()


def sizes(width, height, **tags):
    return {256: width, 257: height} | {int(tag[1:]): value for tag, value in tags.items()}


SENSOR = bytes.fromhex("ffd8ffc3000b0e0100010001110000ffd9")  # lossless, of 14 bits
THUMB = np.asarray(small(0.25)).tobytes()


def raw_photos(full, whole):
    """As those cameras write them, with a JPEG like ``full`` of a raw picture of ``whole`` pixels,
    whose top is on the right."""
    jpeg, (width, height) = encoded(full.transpose(Image.Transpose.ROTATE_90)), whole
    thumb = sizes(64, 64, _254=1, _258=8, _259=1, _262=2, _274=6, _277=3, _278=64)
    sensor = sizes(height, width, _254=0, _259=7, _262=32803), SENSOR, raw.STRIPS
    preview = sizes(*full.size[::-1], _254=1, _259=7, _262=6), jpeg, raw.STRIPS
    small_one = sizes(64, 64), encoded(small(0.25)), raw.JPEG
    return {
        "dng": raw_photo([(thumb | {50706: 260}, THUMB, raw.STRIPS), sensor, preview]),
        "nef": raw_photo([(thumb, THUMB, raw.STRIPS), ({254: 1}, jpeg, raw.JPEG), sensor]),
        "arw": raw_photo([({254: 1, 274: 6}, jpeg, raw.JPEG), sensor, small_one]),
        "cr2": raw_photo(
            [
                (sizes(height, width, _259=6, _274=6), jpeg, raw.STRIPS),
                small_one,
                ({259: 6}, SENSOR, raw.STRIPS),
            ],
            mark=b"CR\2\0" + bytes(4),
            chained=True,
        ),
    }


def test_raw_photos(bare, tmp_path, capsys):  # noqa: F811
    """The camera's own JPEG is read, upright, by a folder's or another name; the data sets' tools
    refuse the photos."""
    tall = Image.new("RGB", (256, 320), GREY)
    tall.paste(FACE)
    photos = raw_photos(tall, (264, 330))
    with Image.open(io.BytesIO(encoded(tall.transpose(Image.Transpose.ROTATE_90)))) as image:
        due = np.rot90(np.asarray(image), -1)
    make_csv = load(ROOT / "datasets" / "train-test-csv" / "make-csv.py")
    batch = load(ROOT / "datasets" / "image-preprocessing-code" / "batch.py")
    (tmp_path / "in").mkdir()
    for kind, content in photos.items():
        (tmp_path / "in" / f"a.{kind.upper()}").write_bytes(content)
        assert np.array_equal(media.read_image(content, pytest.fail), due)
        (tmp_path / "in" / f"{kind}.tif").write_bytes(content)
        reason = "unreadable pixels: a raw photo; convert it to JPEG, by the camera's program, "
        assert make_csv.inspect(tmp_path / "in" / f"{kind}.tif")[1].startswith(reason)
        with pytest.raises(ValueError, match=f"^{reason}"):
            batch.read_image(tmp_path / "in" / f"{kind}.tif")
    code, rows, _, err = answers(bare, tmp_path, capsys, tmp_path / "in")
    assert code == 0 and err == [] and len(rows) == 8
    assert all(near(row, PLACE) for row in rows)


def test_raw_photos_without_a_large_jpeg(bare, tmp_path, capsys):  # noqa: F811
    """Half of the raw picture's sides is enough, less is refused, and so are kinds not read."""
    half, less = (raw_photos(small(scale), (256, 256)) for scale in (0.5, 0.49))
    advice = "convert it to JPEG, by the camera's program, darktable or RawTherapee"
    line = "a raw photo without a JPEG of its full size in it (125x125 of 256x256 pixels); "
    for kind, content in half.items():
        assert media.read_image(content, pytest.fail).shape == (128, 128, 3)
        (tmp_path / f"a.{kind}").write_bytes(less[kind])
        assert failing(bare, tmp_path, capsys, tmp_path / f"a.{kind}") == line + advice
    begins = b"FUJIFILMCCD-RAW 0201", b"IIRO\x08\0", b"IIU\0\x18\0", b"\0\0\0\x18ftypcrx \0\0\0\1"
    for begin in begins:
        with pytest.raises(ValueError) as problem:
            media.read_image(begin + bytes(500), pytest.fail)
        assert str(problem.value) == f"a raw photo of a kind that is not read; {advice}"


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged files
def test_other_tiff_files_are_no_raw_photos():
    """One picture that says that it is a smaller copy, and a large one with smaller ones in it; and
    what is damaged."""
    thumb = sizes(64, 64, _254=1, _258=8, _259=1, _262=2, _277=3, _278=64), THUMB, raw.STRIPS
    large = sizes(128, 128, _258=8, _259=1, _262=2, _277=3, _278=128)
    data = np.asarray(small(0.5)).tobytes()
    for pictures, side in (([thumb], 64), ([(large, data, raw.STRIPS), thumb], 128)):
        raw.refuse(raw_photo(pictures))
        for end in range(0, 200, 3):
            raw.refuse(raw_photo(pictures)[:end])
        assert media.read_image(raw_photo(pictures), pytest.fail).shape == (side, side, 3)


# ---- Very large photos


def large_kinds(folder):
    """Files of FACE with a line more, 256x257 pixels, of several kinds, whose top is on the right;
    each a path and the pixels that are due of it at half its size: means of four pixels."""
    face = Image.new("RGB", (256, 257))
    face.paste(FACE)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = face.transpose(Image.Transpose.ROTATE_90)
    kinds = {"a.png": turned, "b.jpg": turned, "c.tif": turned, "d.png": turned.quantize(50)}
    kinds["e.png"] = Image.fromarray(np.asarray(turned.convert("L")).astype(np.uint16) << 8)
    for name, image in kinds.items():
        image.save(folder / name, exif=exif, **{"quality": 95} if name == "b.jpg" else {})
        eight = turned.convert("L") if name == "e.png" else image
        half = eight.convert("RGB").reduce(2).transpose(Image.Transpose.ROTATE_270)
        yield folder / name, np.asarray(half)


@pytest.mark.filterwarnings("ignore:Image size")  # Pillow's, of TIFF
def test_large_photos_are_read_at_half_their_size(bare, tmp_path, capsys, monkeypatch):  # noqa: F811
    """Here from few pixels on. Boxes are in the photo's own pixels, also the user's, to the pixel,
    and where they are outside; the copy has half; in what has four times as many, a line."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200 * 200)
    due, line = dict(large_kinds(tmp_path)), "256x257 pixels, read at half its width and height"
    for path, pixels in due.items():
        notes = []
        found, size = media.read_photo(path, notes.append)
        assert size == (256, 257) and notes == [line] and found.shape == (129, 128, 3)
        assert np.abs(found - pixels.astype(int)).mean() < (2 if path.suffix == ".jpg" else 1e-9)
    code, rows, _, err = answers(bare, tmp_path, capsys, *due)
    assert code == 0 and err == [f"predict.py: warning: {path}: {line}" for path in due]
    assert len(rows) == 5 and all(near(row, PLACE) for row in rows)
    with Image.open(tmp_path / "out" / "a.jpg") as copy:
        assert copy.size == (128, 129)
    model = predict.load(weights=bare[1], script=bare[3], image_size=32)
    [face] = coral_age.faces(model, tmp_path / "a.png")
    assert {side: str(face[side]) for side in ("left", "top", "right", "bottom")}.items() <= (
        rows[0].items()
    )

    boxes = tmp_path / "boxes.csv"
    lines = [f"{path},87,61,175,179" for path in due] + [f"{tmp_path / 'a.png'},258,9,290,99"]
    boxes.write_text("\n".join(["source,left,top,right,bottom", *lines]))
    code, given, _, err = answers(bare, tmp_path, capsys, *due, "--boxes", boxes)
    assert code == 1 and [list(box_of(row)) for row in given] == [[87, 61, 175, 179]] * 5
    assert [row["gender"] for row in given] == [row["gender"] for row in rows]
    [problem] = [one for one in err if "error" in one]
    assert "[258.0, 9.0, 290.0, 99.0] is outside the picture, (256, 257), as it is sh" in problem

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100 * 100)
    with pytest.raises(ValueError, match="^more than 0 megapixels, in PNG; make it smaller$"):
        media.read_image(tmp_path / "a.png", pytest.fail)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="measures memory by resource")
@pytest.mark.parametrize("size, name", [((16_320, 12_240), "a.jpg"), ((15_000, 15_000), "a.png")])
def test_memory_of_photos_of_200_megapixels(size, name, bare, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    photo = Image.new("RGB", size, GREY)
    photo.paste(FACE.resize((2048, 2048)), (3000, 2000))
    photo.save(tmp_path / name, compress_level=1)
    del photo
    peak = peak_of(*bare, tmp_path / name, "--out", tmp_path / "out")
    [row] = table(tmp_path / "out")
    assert near(row, PLACE * 8 + [3000, 2000] * 2)
    assert peak < 2e6
