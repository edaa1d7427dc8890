"""predict.py and page.py, given damaged files of every kind, say what is right, or in one line what
is wrong, within a minute and 4 GB.

The cases come from generators of fixed seeds; a slow test runs the same check on 1,200 of them.
"""

import csv
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import tempfile
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, load
from coral_age import runs
from PIL import Image
from test_fuzz import (  # noqa: F401 (memory is a fixture)
    cases,
    damaged,
    in_a_minute,
    memory,
    mutated,
    other_facts,
    pictures,
)
from test_page import post, request
from test_predict import FACE, read_video, save_video, table
from torch import nn

av = pytest.importorskip("av")
pytest.importorskip("pi_heif")
PAGE = load(ROOT / "model-code/page.py")
PREDICT = load(ROOT / "model-code/predict.py")
SCRIPT = load(ROOT / "model-code/afad-coral.py")


class Small(nn.Module):
    """A few weights that take and give what ResNet-34 does."""

    def __init__(self, gender=0, seed=0):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 8, stride=8), nn.BatchNorm2d(4)
        SCRIPT.add_output_layer(self)
        self.fc_gender = nn.Linear(2048, 1) if gender else None

    def forward(self, x):
        x = self.bn1(self.conv1(x)).mean((2, 3)).repeat(1, 512)
        return SCRIPT.age_logits(self, x), self.fc_gender(x).squeeze(1) if self.fc_gender else None


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder of such a network, which takes the place of ResNet-34."""
    folder = tmp_path_factory.mktemp("small") / "run"
    folder.mkdir()
    torch.manual_seed(1)
    torch.save(Small(gender=1).state_dict(), folder / "model.pt")
    digest = hashlib.sha256((ROOT / "model-code/afad-coral.py").read_bytes()).hexdigest()
    facts = {"script": "afad-coral.py", "script_sha256": digest, "num_classes": 26}
    facts |= {"youngest_age": 15, "settings": {"image_size": 32, "flip": 1, "channels_last": 1}}
    (folder / "run.json").write_text(json.dumps(facts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SCRIPT, "ResNet34", Small)
        patch.setattr(runs, "load_script", lambda name: SCRIPT)
        patch.setattr("os.fsync", lambda file: None)
        yield folder


# what libtiff prints by itself, which Pillow offers no way to stop
CODECS = "TIFF|JPEG|ZIP|LZW|LZMA|ZSTD|WebP|Fax|PackBits|Strip|Decode|Tag|Entry|Directory"
LIBTIFF = re.compile(rf"(?!\w*(Error|Warning): )(tempfile\.tif|\w*({CODECS})\w*): ")


def errors_printed(capfd):
    """The lines on standard error since the last call, but for libtiff's."""
    return [line for line in capfd.readouterr().err.splitlines() if not LIBTIFF.match(line)]


def printed(capfd, name, function, words):
    """The exit code and the lines of errors of a ``main``, which prints no other ones but warnings
    of its own."""
    capfd.readouterr()
    with in_a_minute(), warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        try:
            code = function([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
    lines = errors_printed(capfd)
    errors = [line for line in lines if not line.startswith("predict.py: warning: ")]
    assert all(line.startswith(f"{name}: error: ") for line in errors), lines
    noted = [str(n.message) for n in noted if issubclass(n.category, (UserWarning, RuntimeWarning))]
    assert noted == []
    return code, errors


@pytest.fixture
def ask(run, tmp_path, capfd):
    """A function: what predict.py writes of the ``files``, checked, or None where it ends without;
    it leaves them as they are."""
    out = tmp_path / "out"

    def ask(files, *words):
        before = [file.read_bytes() for file in files]
        shutil.rmtree(out, ignore_errors=True)
        words = [*files, "--run", run, "--out", out, *words]
        code, errors = printed(capfd, "predict.py", PREDICT.main, words)
        assert [file.read_bytes() for file in files] == before
        if code == 2:
            assert len(errors) == 1 and (not out.exists() or not os.listdir(out))
            return None
        told = json.loads((out / "predictions.json").read_text(), parse_constant=pytest.fail)
        rows, failures = told["faces"], told["failures"]
        assert code == bool(failures) and len(errors) == len(failures)
        for line, failure in zip(errors, failures, strict=True):
            assert line.startswith(f"predict.py: error: {failure['source']}: ")
            assert failure["reason"]
        assert len(table(out)) == len(rows)
        for row in rows:
            assert 15 <= row["age_low"] <= row["age"] <= row["age_high"] <= 40
        sources = {row["source"] for row in rows + failures}
        assert sources <= set(map(str, files))
        if "--crops" in words:
            assert len(sources) == len(files)
        if "--no_draw" not in words:
            check_copies(out, rows, failures)
        return told

    return ask


def check_copies(out, rows, failures):
    """Whatever has rows has a marked copy with all of its pictures, or a line that says why not."""
    copies = {"predictions.csv", "predictions.json"}
    for source in {row["source"] for row in rows}:
        some = [row for row in rows if row["source"] == source and row["kind"] != "track"]
        reasons = [failure["reason"] for failure in failures if failure["source"] == source]
        name = Path(source).stem + (".jpg" if some[0]["kind"] == "image" else ".mp4")
        if any(reason.startswith("its marked copy: ") for reason in reasons):
            continue
        copies.add(name)
        if name.endswith(".jpg"):
            with Image.open(out / name) as copy:
                assert copy.size == (some[0]["right"], some[0]["bottom"])
        else:
            assert len(read_video(out / name)[0]) >= len(some)
    assert set(os.listdir(out)) == copies


# ---- Images and videos


def encoded(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def photos():
    """Small images of all formats that are read, some with several pictures, encoded."""
    image = Image.radial_gradient("L").resize((44, 36))
    image = Image.merge("RGB", [image, image.rotate(90), image.rotate(180)])
    pages = {"save_all": True, "append_images": [image.rotate(90), image.rotate(45)]}
    yield from pictures()
    for packing in ("tiff_lzw", "jpeg", "tiff_deflate", "packbits"):
        yield encoded(image, "TIFF", compression=packing)
    yield encoded(image.convert("CMYK"), "TIFF")
    yield encoded(image.convert("1"), "TIFF", compression="group4")
    for kind in ("TIFF", "GIF", "WEBP", "AVIF", "MPO"):
        yield encoded(image, kind, **pages)
    palette = image.quantize(5)
    yield encoded(palette, "PNG", transparency=bytes([9, 99, 200]))
    for picture, kind in (image, "AVIF"), (image, "PPM"), (image, "JPEG2000"), (palette, "GIF"):
        yield encoded(picture, kind)
    yield (ROOT / "tests/grid.heic").read_bytes()


CONTAINERS = [
    ("film.mp4", "libx264"),
    ("film.mp4", "mpeg4"),
    ("film.mov", "libx264"),
    ("film.mkv", "libx264"),
    ("film.mkv", "ffv1"),
    ("film.webm", "libvpx"),
    ("film.avi", "mpeg4"),
    ("film.ts", "mpeg2video"),
    ("film.ts", "libx264"),
    ("film.mpg", "mpeg1video"),
    ("film.flv", "flv"),
    ("film.wmv", "wmv2"),
]


def films(folder):
    """Videos of five small pictures in many containers, encoded."""
    folder.mkdir()
    circle = Image.radial_gradient("L").resize((64, 64)).convert("RGB")
    moves = [circle.crop((0, n, 64, 48 + n)) for n in range(5)]
    for name, codec in CONTAINERS:
        save_video(folder / name, moves, codec)
        yield (folder / name).read_bytes()


def damage(draw, content):
    """``content`` mutated: anywhere, or in the tables that most containers begin or end with."""
    part = draw.choice([len(content), 600])
    if draw.random() < 0.5:
        return mutated(draw, content[:part]) + content[part:]
    return content[:-part] + mutated(draw, content[-part:])


SUFFIXES = [".jpg", ".png", ".tif", ".heic", ".mp4", ".avi", ".txt", ""]


def looked_at(ask, draw, kinds, count, folder, size):
    """How many of ``count`` damaged files have a row, and how many a failure."""
    folder.mkdir()
    seen = failed = 0
    for start in range(0, count, size):
        files = []
        for number in range(start, min(start + size, count)):
            files.append(folder / f"{number}{draw.choice(SUFFIXES)}")
            whole = number < len(kinds)
            files[-1].write_bytes(kinds[number] if whole else damage(draw, draw.choice(kinds)))
        words = draw.choice([["--no_draw"], ["--no_draw", "--every=2"], []])
        told = ask(files, "--crops", *words)
        seen += len({row["source"] for row in told["faces"]})
        failed += len({row["source"] for row in told["failures"]})
    return seen, failed


@cases(160)
def test_photos(count, ask, tmp_path):
    seen, failed = looked_at(ask, random.Random(11), [*photos()], count, tmp_path / "in", 8)
    assert seen > count / 4 and failed > count / 10


@cases(60)
def test_videos(count, ask, tmp_path):
    """Those damaged in the middle have rows, and a line."""
    kinds = [*films(tmp_path / "films")]
    seen, failed = looked_at(ask, random.Random(12), kinds, count, tmp_path / "in", 4)
    assert seen > count / 4 and failed > count / 10 and seen + failed > count


# ---- Tables


def as_csv(draw, lines):
    """A table as somebody may have saved it, mostly damaged."""
    coding = draw.choice(["utf-8"] * 5 + ["utf-8-sig", "utf-16"])
    content = draw.choice(["\n", "\r\n"]).join([*lines, ""]).encode(coding)
    return mutated(draw, content) if draw.random() < 0.8 else content


@pytest.fixture
def faces(tmp_path, monkeypatch):
    """Three photos, by paths relative to the working folder."""
    monkeypatch.chdir(tmp_path)
    files = [Path(name) for name in ("a.png", "b.png", "c.png")]
    for number, file in enumerate(files):
        FACE.resize((64 - number, 64)).save(file)
    return files


@cases(200)
def test_labels(count, ask, faces, tmp_path):
    """True values that are taken stand in the table, and the scores are of those."""
    draw, accepted = random.Random(13), 0
    for _ in range(count):
        lines = ["file,age,gender"]
        for file in faces:
            age = draw.choice(["31", "0", "20-29", "3.5", "100"])
            lines.append(f"{file},{age},{draw.choice(['male', 'female', ''])}")
        if draw.random() < 0.3:
            lines = [line.rpartition(",")[0] for line in lines]  # without genders
        content = as_csv(draw, lines)
        (tmp_path / "labels.csv").write_bytes(content)
        told = ask(faces, "--crops", "--no_draw", "--labels", tmp_path / "labels.csv")
        if not told:
            continue
        accepted += 1
        labelled = [row for row in told["faces"] if "true_age" in row]
        errors = []
        for row in labelled:
            assert row["true_age"].encode() in content
            assert row.get("true_gender", "") in ("", "male", "female")
            ends = re.fullmatch(r"(\d+)-(\d+)", row["true_age"])
            low, high = map(float, ends.groups() if ends else [row["true_age"]] * 2)
            errors.append(max(low - row["age"], 0, row["age"] - high))
        groups = {row["group"]: row for row in told["scores"]}
        known = [row for row in told["faces"] if "true_age" in row or "true_gender" in row]
        assert bool(groups) == bool(known)
        if groups:
            assert groups["all"]["photos"] == len(known)
        if labelled:
            assert groups["all"]["mae"] == pytest.approx(sum(errors) / len(errors))
    assert count / 10 < accepted < 0.9 * count


@cases(60)
def test_boxes(count, ask, faces, tmp_path):
    """Boxes that are taken are in the pictures, as many as the table has for them."""
    draw, accepted = random.Random(14), 0
    film = Path("film.mp4")
    save_video(film, [FACE.resize((64, 64))] * 2, "mpeg4")
    places = {(os.path.realpath(file), 0) for file in [*faces, film]}
    places.add((os.path.realpath(film), 1))
    for _ in range(count):
        lines = ["source,frame,left,top,right,bottom"]
        for file, frame in [*zip(faces, ["", "0", ""], strict=True), (film, 0), (film, 1)]:
            for _ in range(draw.choice([0, 1, 1, 2])):
                left, top, size = (draw.choice([0, 3, 12.5, 40, -20]) for _ in range(3))
                box = left, top, left + abs(size) + 1, top + abs(size) + 8
                lines.append(f"{file},{frame},{','.join(map(str, box))}")
        if draw.random() < 0.3:  # a number of another size
            at = draw.randrange(len(lines))
            fields = lines[at].split(",")
            fields[draw.randrange(1, 6)] = draw.choice(["1e300", "-1e18", "1e9", "1e-9", "9" * 30])
            lines[at] = ",".join(fields)
        (tmp_path / "boxes.csv").write_bytes(as_csv(draw, lines))
        told = ask([*faces, film], "--no_draw", "--boxes", tmp_path / "boxes.csv")
        if not told:
            continue
        accepted += 1
        for row in told["faces"]:
            if row["kind"] != "track":
                assert 0 <= row["left"] <= row["right"] <= 64
                assert 0 <= row["top"] <= row["bottom"] <= 64
        with open(tmp_path / "boxes.csv", encoding="utf-8-sig", newline="") as file:
            given = [row for row in csv.DictReader(file) if row.get("kind") != "track"]
        due = {  # a box that is given twice has one row
            (place, *(float(row[side]) for side in ("left", "top", "right", "bottom")))
            for row in given
            if (place := (os.path.realpath(row["source"]), int(float(row.get("frame") or 0))))
            in places
        }
        assert told["failures"] or len(due) == sum(row["kind"] != "track" for row in told["faces"])
    assert count / 10 < accepted < 0.9 * count


# ---- Runs


@pytest.fixture
def handlers():
    """Those of signals are as before when the test has ended."""
    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def copied(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / "run"))


@cases(60)
def test_run_json(count, copied, ask, faces, capfd, monkeypatch, handlers):
    """page.py starts with a run if predict.py takes it."""
    monkeypatch.setattr(PAGE.Server, "serve_forever", lambda server: None)
    draw, file, accepted = random.Random(15), copied / "run.json", 0
    good = file.read_bytes()
    for _ in range(count):
        content = draw.choice([other_facts, mutated])(draw, good)
        file.write_bytes(content)
        told = ask(faces, "--crops", "--no_draw", "--run", copied)
        words = ["--run", copied, "--port", 0]
        code, errors = printed(capfd, "page.py", PAGE.main, words)
        assert (code, len(errors)) == ((0, 0) if told else (2, 1))
        assert file.read_bytes() == content
        accepted += bool(told)
    assert count / 10 < accepted < 0.9 * count


@cases(200)
def test_weights_of_a_run(count, copied, ask, faces, tmp_path):
    """Damaged weights are taken whole or not at all, and no code in them is run."""
    draw, file, made, accepted = random.Random(16), copied / "model.pt", tmp_path / "made", 0
    state = torch.load(file, weights_only=True)
    for _ in range(count):
        content = damaged(draw, state, made)
        file.write_bytes(content)
        told = ask(faces[:1], "--crops", "--no_draw", "--run", copied)
        assert file.read_bytes() == content and not made.exists()
        accepted += bool(told)
    assert count / 10 < accepted < 0.9 * count


@cases(20)
def test_onnx_files(count, copied, ask, faces, tmp_path):
    """They are no input, no weights and no run; each is refused in a line."""
    onnx = pytest.importorskip("onnx")
    shapes = [onnx.helper.make_tensor_value_info(name, 1, [4]) for name in "xy"]
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "graph", shapes[:1], shapes[1:])
    whole = onnx.helper.make_model(graph).SerializeToString()
    draw, file = random.Random(17), tmp_path / "model.onnx"
    for number in range(count):
        file.write_bytes(mutated(draw, whole) if number else whole)
        told = ask([*faces, file], "--crops", "--no_draw")
        assert [failure["source"] for failure in told["failures"]] == [str(file)]
        assert ask(faces, "--crops", "--weights", file) is None
        assert ask(faces, "--crops", "--run", file) is None


# ---- The page


@pytest.fixture
def server(run, tmp_path, monkeypatch):
    """The page's server with a temporary folder of its own, where nothing stays."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with PAGE.Server("127.0.0.1", 0) as server:
        server.model = PREDICT.load(run)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield SimpleNamespace(port=server.server_address[1], temporary=temporary)
        server.shutdown()
        thread.join()
    assert os.listdir(temporary) == []


@cases(120)
def test_uploads(count, server, tmp_path, capfd):
    """What is found, with a copy that can be opened, or one line of error."""
    draw, found = random.Random(18), 0
    kinds = [*photos(), *films(tmp_path / "films")]
    for number in range(count):
        whole = number < len(kinds)
        content = kinds[number] if whole else damage(draw, draw.choice(kinds))
        with in_a_minute():
            status, [line], copy = post(server, content or b"\0")
        assert status == 200 and os.listdir(server.temporary) == []
        json.dumps(line, allow_nan=False)
        for text in [line["error"]] if "error" in line else line["notes"]:
            assert "\n" not in text and str(tmp_path) not in text, text
        if "error" not in line:
            found += 1
            if "faces" in line:
                Image.open(io.BytesIO(copy)).load()
            else:
                assert read_video(io.BytesIO(copy))[0]
    assert errors_printed(capfd) == []
    assert count / 4 < found < 0.9 * count


HEADS = [
    "POST /predict HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\n"
    "Content-Type: image/png\r\nContent-Length: {length}\r\n\r\n",
    "POST /predict HTTP/1.0\r\nContent-Length: {length}\r\nHost: localhost\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n\r\n",
    "GET /about HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
]
WORDS = ["HEAD", "PUT", "OPTIONS", "CONNECT", "HTTP/2.0", "/nothing", "a" * 70000, ": "]
WORDS += ["Content-Length: 9", "Host: x", "Transfer-Encoding: chunked", "Expect: 100-continue"]


def other_head(draw, head):
    """A request's head with another word or line in it, or in place of one."""
    parts = re.split(r"( |\r\n)", head)
    at = draw.randrange(len(parts))
    parts[at : at + draw.randrange(2)] = [draw.choice(WORDS)]
    return "".join(parts).encode("latin-1")


@cases(200)
def test_requests(count, server, capfd):
    """Odd requests get an answer of HTTP, JSON if it is the page's own, or none where they end
    before the file does; the server goes on, and prints nothing."""
    draw, face, statuses = random.Random(19), encoded(FACE.resize((48, 48)), "PNG"), set()
    host = f"127.0.0.1:{server.port}"
    for _ in range(count):
        head = draw.choice(HEADS).format(host=host, length=len(face))
        head = mutated(draw, head.encode()) if draw.random() < 0.7 else other_head(draw, head)
        with in_a_minute():
            content = talk(server, head + face)
        if not content.startswith(b"HTTP/"):
            # to a request without a version comes the content alone
            known = (
                content in (b"", (PAGE.FOLDER / "index.html").read_bytes())
                or b"Error code: " in content
            )
            assert known or json.loads(content), content
            continue
        top, content = content.split(b"\r\n\r\n", 1)
        status = int(re.match(rb"HTTP/1\.[01] (\d{3}) ", top)[1])
        statuses.add(status)
        if b"text/html" in top:
            assert status != 200 or content == (PAGE.FOLDER / "index.html").read_bytes()
        elif content:
            line = json.loads(content.split(b"\n")[0])
            assert ("error" in line) or status == 200
    assert request(server, "GET", "/")[0] == 200
    status, [line], _ = post(server, face)
    assert status == 200 and "faces" in line
    assert capfd.readouterr().err == ""
    assert {200, 400, 403, 404, 411, 501} <= statuses


def talk(server, content):
    """All that is answered to ``content``, of which the server need not read all."""
    answer = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=50) as connection:
        try:
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(2**20):
                answer += part
        except OSError as error:
            assert not isinstance(error, TimeoutError)
    return answer
