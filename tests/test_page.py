"""page.py as a process of its own: what it answers, and the page in a real browser."""

import errno
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import MODEL_CODE, chromium, load
from coral_age import answers, marked, media, runs
from PIL import Image
from test_media import two_streams
from test_predict import (  # noqa: F401 (bare is a fixture)
    ASTRONAUT,
    FACE,
    PLACE,
    av,
    bare,
    call,
    make_run,
    moving,
    near,
    predict,
    save_video,
    small,
    split,
    table,
)

PAGE = MODEL_CODE / "page.py"
# the page's limits, as it and docs/predict.md tell them
LARGEST = 200 * 10**6
VISITORS = 16


@contextmanager
def serving(run, temporary, *words):
    """page.py with a temporary folder of its own, at any port; nothing is left there when it ends,
    nor is anything printed but what is known."""
    temporary.mkdir()
    command = [sys.executable, PAGE, "--run", run, "--port", 0, *words]
    process = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    try:
        head = [process.stdout.readline() for _ in range(3)]
        assert head[:2] == ["run/model.pt, by afad-coral.py\n", predict.NOTE + "\n"], head
        name = "<this machine's IP address>" if "0.0.0.0" in words else "127.0.0.1"
        port = int(re.fullmatch(rf"http://{name}:([0-9]+) is the page; .*\n", head[2])[1])
        own = set(os.listdir(temporary))  # torch 2.9 keeps a folder there while it runs
        yield SimpleNamespace(process=process, port=port, temporary=temporary, own=own)
    finally:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=600)
    assert (process.returncode, out, os.listdir(temporary)) == (0, "page.py: ended\n", [])
    warning = "page.py: warning: all who reach this machine at 0.0.0.0 can use the page\n"
    assert err == (warning if "0.0.0.0" in words else "")


def kept(server):
    """How many files and folders of visitors lie in the server's temporary folder."""
    return len(set(os.listdir(server.temporary)) - server.own)


@pytest.fixture(scope="module")
def run(bare, tmp_path_factory):  # noqa: F811
    return make_run(bare, tmp_path_factory.mktemp("page") / "run")


@pytest.fixture(scope="module")
def model(run):
    return predict.load(run)


@pytest.fixture(scope="module")
def server(run, tmp_path_factory):
    with serving(run, tmp_path_factory.mktemp("server") / "temporary") as server:
        yield server


@pytest.fixture(scope="module")
def long_film(tmp_path_factory):
    """The bytes of a video that takes minutes: all its pictures are large, and searched."""
    path = tmp_path_factory.mktemp("film") / "long.mp4"
    save_video(path, [Image.new("RGB", (1280, 720))] * 400, "mpeg4", rate=3)
    return path.read_bytes()


def request(server, method, path, body=None, **headers):
    """Status, head and content of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def post(server, body, **headers):
    """Status, the lines of the answer, without those of waiting and progress, and the copy."""
    status, _, rest = request(server, "POST", "/predict", body, **headers)
    lines = []
    while rest and "bytes" not in (lines or [{}])[-1]:
        line, rest = rest.split(b"\n", 1)
        lines.append(json.loads(line))
    assert len(rest) == (lines or [{}])[-1].get("bytes", 0)
    return status, [line for line in lines if not {"waiting", "done"} & set(line)], rest


def saved(image, kind="PNG"):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def start(server, content, length=None):
    """A connection over which ``content`` has been sent, of a file of ``length`` bytes."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=600)
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length or len(content)}"
    connection.sendall(head.encode() + b"\r\n\r\n" + content)
    return connection


def wait_for(connection, key):
    """Read an answer until the line that has a ``key``."""
    for line in connection.makefile("rb"):
        if line.startswith(f'{{"{key}": '.encode()):
            return
    raise AssertionError(f"the answer ended without {key!r}")


def wait_until(holds):
    end = time.monotonic() + 600
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def due(model, image):
    """What is to be told of an image, by predict.faces()."""
    faces = predict.faces(model, image)
    shares = [[list(pair) for pair in answers.shares_over(face, model)] for face in faces]
    words = [list(answers.words_of(face, model)) for face in faces]
    return [
        face | {"words": some, "shares": pairs}
        for face, some, pairs in zip(faces, words, shares, strict=True)
    ]


# ---- What is answered

JSON = {"Accept": "application/json"}
NO_PHOTO = "neither an image nor a video (it begins as text)"


def test_the_commands_of_the_page_for_programs(server, model, tmp_path):
    """The curl lines: one photo, a form with a photo and a letter, and a photo with limits."""
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    text = (MODEL_CODE.parent / "docs/predict.md").read_text()
    commands = re.findall(r"^    (curl .*)$", text, re.M)
    assert len(commands) == 3
    FACE.save(tmp_path / "photo.jpg", quality=95)
    (tmp_path / "letter.txt").write_text("Dear reader,")
    found = []
    for command in commands:
        command = command.replace("localhost:7860", f"127.0.0.1:{server.port}")
        done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
        found.append(json.loads(done.stdout))
    with Image.open(tmp_path / "photo.jpg") as image:
        photo = {"faces": due(model, image), "width": 256, "height": 256, "notes": []}
    assert len(photo["faces"]) == 1
    files = [{"name": "photo.jpg"} | photo, {"name": "letter.txt", "error": NO_PHOTO}]
    with Image.open(tmp_path / "photo.jpg") as image:
        limits = photo | {"faces": due(runs.asked(model, (18, 21)), image)}
    assert found == [photo, {"files": files}, limits]
    [face] = limits["faces"]
    above = sum(face["age_probas"][18 - 15 :])  # of AFAD's ages 15 to 40
    assert face["over_18"] == round(above, 4) and 0.1 < face["over_21"] < face["over_18"] < 1


def test_json_of_videos_and_errors(server, tmp_path):
    """A film's tracks; a form's second film that has no picture is no film, whatever the first was;
    the status of each error that docs/predict.md names for files."""
    save_video(tmp_path / "a.mp4", moving(6), "mpeg4")
    film = (tmp_path / "a.mp4").read_bytes()
    status, head, content = request(server, "POST", "/predict", film, **JSON)
    answer = json.loads(content)
    assert (status, head["Content-Type"]) == (200, "application/json")
    assert [track["frames"] for track in answer["tracks"]] == [6] and answer["notes"] == []
    cut = b'--x\r\nContent-Disposition: form-data; name=f; filename="%s"\r\n\r\n%s\r\n'
    form = cut % (b"a.mp4", film) + cut % (b"b.mp4", film[:200]) + b"--x--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    status, _, content = request(server, "POST", "/predict", form, **JSON, **kind)
    first, second = json.loads(content)["files"]
    assert status == 200 and first == {"name": "a.mp4"} | answer
    assert second.keys() == {"name", "error"} and second["name"] == "b.mp4"
    nothing = b"--x\r\nContent-Disposition: form-data; name=f\r\n\r\nhere\r\n--x--\r\n"
    for body, more, due in (
        (b"Dear reader,", {}, (422, NO_PHOTO)),
        (nothing, kind, (400, "no file in the form")),
        (b"", {}, (411, "the file is empty, or comes without its length")),
    ):
        status, _, content = request(server, "POST", "/predict", body, **JSON, **more)
        assert (status, json.loads(content)) == (due[0], {"error": due[1]})
    for over, why in (
        ("15", "the model knows the ages 15 to 40; give one from 16 to 40"),
        ("18,x", "give ages in years from 1 to 120, as 13,16,18"),
    ):
        status, _, content = request(server, "POST", f"/predict?over={over}", film, **JSON)
        assert status == 400 and why in json.loads(content)["error"]


def test_a_photo(server, model):
    """The figures of predict.faces() and the picture of marked.mark(), with numbers where there
    are several faces."""
    two = Image.new("RGB", (500, 256))
    two.paste(FACE, (0, 0))
    two.paste(small(0.7), (300, 20))
    for image, numbers in (ASTRONAUT, [""]), (two, ["#1  ", "#2  "]), (Image.new("L", (9, 9)), []):
        status, [found], copy = post(server, saved(image))
        faces = due(model, image)
        assert status == 200 and found["faces"] == faces and found["notes"] == []
        assert len(faces) == len(numbers)
        assert (found["width"], found["height"]) == image.size
        marks = [
            ([face[side] for side in ("left", "top", "right", "bottom")], number + text)
            for face, number in zip(faces, numbers, strict=True)
            for text in [answers.sentence(face, model)]
        ]
        file = io.BytesIO()
        marked.mark(np.asarray(image.convert("RGB")), marks).save(file, "JPEG", quality=90)
        assert copy == file.getvalue()


def test_a_large_photo_turned_by_its_camera(server, model, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    FACE.resize((3200, 2400)).rotate(180).save(tmp_path / "photo.jpg", exif=exif)
    _, [found], copy = post(server, (tmp_path / "photo.jpg").read_bytes())
    assert found["faces"] == [face | {"source": ""} for face in due(model, tmp_path / "photo.jpg")]
    assert len(found["faces"]) == 1 and (found["width"], found["height"]) == (3200, 2400)
    assert Image.open(io.BytesIO(copy)).size == (1600, 1200)


def test_a_photo_read_at_half_its_size(model, tmp_path, monkeypatch):
    """Here from few pixels on; boxes are in its own."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200 * 200)
    path = tmp_path / "upload"
    path.write_bytes(saved(FACE))
    found, copy = load(PAGE).photo(model, path)
    found = json.loads(json.dumps(found))
    assert found["faces"] == [face | {"source": ""} for face in due(model, path)]
    [face] = found["faces"]
    assert near(face, PLACE) and (found["width"], found["height"]) == (256, 256)
    assert found["notes"] == ["256x256 pixels, read at half its width and height"]
    assert Image.open(copy).size == (128, 128)


def test_a_video(server, run, tmp_path):
    """The tracks and the copy of predict.py, what it lacks, which is told nobody else (see
    serving()), and progress."""
    film = tmp_path / "film.mp4"
    gap = [Image.new("RGB", (200, 128))] * 12
    save_video(film, [*moving(6), *gap, *moving(6)], rate=5, sound=True)
    assert call(film, "--run", run, "--out", tmp_path / "out") == 0
    _, tracks = split(table(tmp_path / "out"))
    status, [found], copy = post(server, film.read_bytes())
    assert status == 200 and found["notes"] == ["the marked copy is without its sound"]
    assert len(tracks) == 2
    for told, row in zip(found["tracks"], tracks, strict=True):
        age, years, gender = told.pop("words")
        assert told.pop("shares") == []
        assert age.split()[0] == row["age"] and years == f"{row['age_low']}-{row['age_high']}"
        assert gender == f"{row['gender']} {float(row['gender_probability']):.0%}"
        same = {key: str(value) for key, value in told.items() if key != "source"}
        assert same == {key: value for key, value in row.items() if value and key != "source"}
    assert copy == (tmp_path / "out" / "film.mp4").read_bytes()
    content = request(server, "POST", "/predict", film.read_bytes())[2]
    assert b'{"done": 1, "of": 24}\n' in content


def test_a_damaged_video(server, tmp_path):
    """What could be decoded is there, with a line about the rest."""
    save_video(tmp_path / "film.mp4", moving(40))
    content = bytearray((tmp_path / "film.mp4").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = np.random.default_rng(1).bytes(2000)
    _, [found], copy = post(server, bytes(content))
    [note] = found["notes"]
    assert re.fullmatch(r"\d+ damaged parts; \d+ frames could be decoded", note)
    assert len(found["tracks"]) == 1 and av.open(io.BytesIO(copy)).streams.video


def test_a_video_of_two_streams(server, tmp_path):
    """What is left out is told to its visitor, and not printed (see serving())."""
    two_streams(tmp_path / "film.mkv")
    _, [found], copy = post(server, (tmp_path / "film.mkv").read_bytes())
    assert found["notes"] == ["only one of its 2 video streams, the largest: number 2, 200x128"]
    assert av.open(io.BytesIO(copy)).streams.video[0].width == 200


def test_what_is_no_picture(server, tmp_path):
    """One line each, without this machine's paths."""
    save_video(tmp_path / "film.mp4", moving(9))
    film, photo = (tmp_path / "film.mp4").read_bytes(), saved(FACE)
    for content, why in (
        (b"Dear reader,\n" * 50, "neither an image nor a video"),
        (np.random.default_rng(1).bytes(5000), "neither an image nor a video"),
        (film[: len(film) // 2], "neither an image nor a video"),
        (photo[: len(photo) // 2], "truncated"),
        (saved(Image.new("F", (9, 9)), "TIFF"), "unknown range"),
    ):
        status, [line], copy = post(server, content)
        assert (status, list(line), copy) == (200, ["error"], b"")
        assert why in line["error"], line
        assert "\n" not in line["error"] and str(tmp_path.parent) not in line["error"]
        assert "page-py-" not in line["error"]
    assert post(server, b"")[:2] == (
        411,
        [{"error": "the file is empty, or comes without its length"}],
    )


def test_damaged_bytes(server, tmp_path):
    """Of a JPEG, a PNG and an MP4, at random places: an answer or one line of error, never nothing;
    the server goes on (and prints no traceback: see serving())."""
    draw = np.random.default_rng(2)
    save_video(tmp_path / "film.mp4", moving(4))
    small(0.5).save(tmp_path / "face.jpg")
    kinds = [(tmp_path / name).read_bytes() for name in ("film.mp4", "face.jpg")]
    kinds.append(saved(small(0.5)))
    errors = 0
    for number in range(45):
        content = bytearray(kinds[number % 3])
        for place in draw.integers(0, len(content), draw.integers(1, 20)):
            content[place] = draw.integers(256)
        if number % 5 == 0:
            content = content[: draw.integers(1, len(content))]
        status, [line], _ = post(server, bytes(content))
        assert status == 200 and ("error" in line or {"notes", "bytes"} <= set(line))
        errors += "error" in line
    assert 5 < errors < 40
    assert kept(server) == 0


# ---- Who may ask, and for how much


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://elsewhere.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Host": "elsewhere.example"},
        {"Host": "127.0.0.1.elsewhere.example:{port}", "Origin": "http://127.0.0.1:{port}"},
        {"Host": "elsewhere.example:{port}", "Origin": "http://elsewhere.example:{port}"},
        {"Host": ""},
    ],
)
def test_pages_of_other_sites(headers, server):
    headers = {name: value.format(port=server.port) for name, value in headers.items()}
    status, [line], _ = post(server, saved(FACE), **headers)
    assert status == 403 and list(line) == ["error"]
    assert "a forwarded port with --allow-origin and the page's address" in line["error"]
    if "Host" in headers:
        for path in ("/", "/about"):
            status, _, content = request(server, "GET", path, **headers)
            assert status == 403 and b"<html" not in content and b"model" not in content


def test_the_page_itself(server):
    """By its names; these are the files, load nothing of elsewhere, and are kept by no one."""
    for name in ("127.0.0.1", "localhost", "[::1]"):
        own = {"Host": f"{name}:{server.port}", "Origin": f"http://{name}:{server.port}"}
        for path, file in (("/", "index.html"), ("/page.js",) * 2, ("/page.css",) * 2):
            content = (PAGE.with_suffix("") / file.lstrip("/")).read_bytes()
            assert request(server, "GET", path, **own)[2] == content
            assert not re.search(rb"https?://(?!www\.w3\.org)", content)
        assert post(server, saved(Image.new("L", (9, 9))), **own)[0] == 200
    _, headers, _ = request(server, "GET", "/")
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; connect-src 'self';")
    assert headers["Cache-Control"] == "no-store"
    facts = json.loads(request(server, "GET", "/about.json")[2])
    assert facts["note"] == predict.NOTE and facts["megabytes"] * 10**6 == LARGEST
    for path in ("/page.py", "/../page.py", "//etc/passwd"):
        assert request(server, "GET", path)[0] == 404


def test_head_and_queries(server):
    """HEAD gets what GET gets, but the content; what follows a ? is left to the browser."""
    for path in ("/", "/?x=1", "/about.json", "/about.json?", "/nothing"):
        status, headers, content = request(server, "GET", path)
        assert status == (404 if path == "/nothing" else 200) and content
        assert request(server, "GET", path.partition("?")[0])[2] == content
        head = request(server, "HEAD", path)
        assert head[0] == status and head[2] == b""
        for name in ("Content-Length", "Content-Type", "Content-Security-Policy"):
            assert head[1][name] == headers[name]
    assert request(server, "HEAD", "/", Host="elsewhere.example")[0] == 403


def test_behind_a_proxy(run, tmp_path):
    """Which passes on its own name, or replaces it, and the browser's word for where the page is
    from; no other site's."""
    own = "https://faces.example:8443"
    words = (
        "--allow-origin",
        "HTTPS://faces.example:8443/",
        "--allow-origin",
        "http://other.example",
    )
    with serving(run, tmp_path / "temporary", *words) as server:
        here = f"127.0.0.1:{server.port}"
        for host in ("faces.example:8443", "faces.example", here):
            assert request(server, "GET", "/", Host=host)[0] == 200
            assert post(server, saved(small(0.5)), Host=host, Origin=own)[0] == 200
        for host, origin in (
            (here, "https://faces.example"),
            (here, "http://faces.example:8443"),
            (here, "https://faces.example:8443.elsewhere.example"),
            ("elsewhere.example", own),
            ("elsewhere.example", None),
        ):
            headers = {"Host": host} | ({"Origin": origin} if origin else {})
            assert request(server, "GET", "/", **headers)[0] == 403


def test_too_large(server):
    """Refused before a byte of it is sent; the largest is not."""
    with start(server, b"", LARGEST + 1) as connection:
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.0 413 ")
    line = json.loads(answer.split(b"\r\n\r\n")[1])
    assert line == {"error": "larger than 200 MB, the most that this page takes"}
    with start(server, b"", LARGEST) as connection:
        connection.shutdown(socket.SHUT_WR)
        assert connection.makefile("rb").read() == b""


@contextmanager
def files_up_to(server, size):
    """Meanwhile the server can write files of ``size`` bytes at most."""
    resource = pytest.importorskip("resource")
    if not hasattr(resource, "prlimit"):
        pytest.skip("limits of another process are Linux's")
    pid, kind = server.process.pid, resource.RLIMIT_FSIZE
    limits = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (size, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, kind, limits)


def test_full_disk(server):
    """The limit on a file's size stands for it: a line, in the answer alone (see serving())."""
    with files_up_to(server, 10**6):
        assert post(server, bytes(10**7))[:2] == (507, [{"error": "File too large"}])
        assert post(server, saved(FACE))[0] == 200


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG])
@pytest.mark.parametrize("kind", ["photo", "video"])
def test_no_room_for_the_marked_copy(kind, code, model, tmp_path, monkeypatch):
    """The answers are given all the same, and why there is no copy; not so of what is no video."""
    page, path = load(PAGE), tmp_path / "upload"
    if kind == "photo":
        path.write_bytes(saved(FACE))
        due, _ = page.photo(model, path)
    else:
        save_video(tmp_path / "film.mp4", moving(6), rate=5)
        (tmp_path / "film.mp4").rename(path)
        due, copy = page.video(model, path, lambda **_: None)
        copy.unlink()

    def full(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(marked, "open_copy", full)
    monkeypatch.setattr(media, "write_jpeg", full)
    told = page.photo(model, path) if kind == "photo" else page.video(model, path, lambda **_: None)
    note = f"its marked copy: {os.strerror(code)}"
    assert told == (due | {"notes": [*due["notes"], note]}, None)
    path.write_bytes(b"\0\0\0\x18ftypisom" + bytes(99))
    with pytest.raises(ValueError):
        page.video(model, path, lambda **_: None)


def test_answers_without_a_copy(server):
    """Over HTTP: files of up to 60 kB can be written, as the photo, but not its marked copy."""
    large = ASTRONAUT.resize((1024, 1024))
    file = io.BytesIO()
    large.save(file, "JPEG", quality=20)
    assert len(file.getvalue()) < 60_000
    with files_up_to(server, 60_000):
        status, [line], copy = post(server, file.getvalue())
        assert (status, copy, line["notes"]) == (200, b"", ["its marked copy: File too large"])
        assert len(line["faces"]) >= 1 and "bytes" not in line
        status, _, content = request(
            server, "POST", "/predict", file.getvalue(), Accept="application/json"
        )
        assert status == 200 and json.loads(content) == line


def test_no_temporary_folder(server):
    wait_until(lambda: kept(server) == 0)  # a file of a request before would be left in it
    aside = server.temporary.rename(server.temporary.with_name("aside"))
    try:
        status, lines = post(server, saved(FACE))[:2]
    finally:
        aside.rename(server.temporary)
    assert status == 507 and "No such file or directory" in lines[0]["error"]
    assert post(server, saved(FACE))[0] == 200


# ---- Several at once


def test_eight_at_once(server, model):
    images = [small(0.4 + 0.1 * number, number % 2) for number in range(8)]
    expected = [due(model, image) for image in images]
    assert len({json.dumps(faces) for faces in expected}) == 8
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda image: post(server, saved(image)), images))
    for (_, [found], copy), faces, image in zip(answers, expected, images, strict=True):
        assert found["faces"] == faces and len(faces) == 1
        assert Image.open(io.BytesIO(copy)).size == image.size


def test_a_crowd(server):
    """One file more than there are places is refused in a line, though its bytes have come; the
    page itself is there; when others leave, their places are free."""
    others = [start(server, b"x", 10**6) for _ in range(VISITORS)]
    wait_until(lambda: kept(server) == VISITORS)
    assert request(server, "GET", "/")[0] == 200
    status, [line], _ = post(server, bytes(10**6))
    assert status == 503 and line["error"] == "16 others wait already; try again in a minute"
    for connection in others:
        connection.close()
    wait_until(lambda: kept(server) == 0)
    assert post(server, saved(FACE))[0] == 200


def test_who_leaves_during_a_video(server, long_film, model, tmp_path):
    """Photos do not wait for it, a video does; when its visitor leaves, the work ends."""
    save_video(tmp_path / "short.mp4", moving(3))
    with start(server, long_film) as long:
        wait_for(long, "done")
        assert post(server, saved(FACE))[1][0]["faces"] == due(model, FACE)
        short = start(server, (tmp_path / "short.mp4").read_bytes())
        wait_for(short, "waiting")
        assert kept(server) == 2
    wait_for(short, "tracks")
    short.close()
    wait_until(lambda: kept(server) == 0)


@pytest.mark.parametrize(
    "number, host",
    [
        pytest.param("SIGINT", "127.0.0.1", marks=pytest.mark.slow),  # by serving() when idle
        ("SIGTERM", "0.0.0.0"),
    ],
)
def test_stopped(number, host, run, long_film, tmp_path):
    """While one video is looked at, one waits and one is sent: it ends, and leaves nothing (see
    serving(), which also sees the warning where others can reach the page)."""
    words = ["--host", host] if host != "127.0.0.1" else []
    with serving(run, tmp_path / "temporary", *words) as server:
        first = start(server, long_film)
        wait_for(first, "done")
        second = start(server, long_film)
        wait_for(second, "waiting")
        third = start(server, b"x", 10**6)
        wait_until(lambda: kept(server) == 3)
        server.process.send_signal(getattr(signal, number))
        assert server.process.wait(timeout=600) == 0
    for connection in (first, second, third):
        connection.close()


def test_mistakes(server, run, tmp_path, capsys):
    """One line and an exit code."""
    page = load(PAGE)
    (tmp_path / "empty").mkdir()
    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    handlers = [signal.getsignal(number) for number in numbers]
    for words, code, line in (
        (["--port", server.port], 1, f"--host 127.0.0.1 --port {server.port}: Address already in"),
        (["--host", "no.such.example"], 1, "--host no.such.example --port 7860: "),
        (["--port", 65536], 2, "--port 65536: must be from 0 to 65535"),
        (["--port", "x"], 2, "argument --port: "),
        (["--allow-origin", "null"], 2, "--allow-origin null: give the page's address, as https:"),
        (["--allow-origin", "https://a.example/faces"], 2, "--allow-origin https://a.example/fac"),
        (["--run", tmp_path / "empty", "--port", 0], 2, f"{tmp_path / 'empty'}: no run.json"),
        (["--run", run, "--port", 0, "--cuda", 999], 2, "--cuda 999: this machine has "),
    ):
        with pytest.raises(SystemExit) as stop:
            page.main(list(map(str, words)))
        out, err = capsys.readouterr()
        assert (stop.value.code, out) == (code, "")
        assert err.startswith(f"page.py: error: {line}") and err.count("\n") == 1
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


# ---- In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium, whose camera shows FACE."""
    api = pytest.importorskip("playwright.sync_api")
    if chromium() is None:
        pytest.skip("no Chromium installed")
    camera = tmp_path_factory.mktemp("camera") / "camera.mjpeg"
    picture = Image.new("RGB", (640, 480), (96, 96, 96))
    picture.paste(FACE, (100, 100))
    picture.save(camera, "JPEG", quality=95)
    flags = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    flags += [f"--use-file-for-fake-video-capture={camera}", "--no-sandbox"]
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=flags)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    """The page, open; it raises no error, and asks for nothing but its own."""
    page = browser.new_page(viewport={"width": 1000, "height": 800})
    page.set_default_timeout(600_000)
    errors, asked = [], set()
    page.on("pageerror", lambda error: errors.append(error))
    page.on("request", lambda request: asked.add(request.url))
    address = f"http://127.0.0.1:{server.port}/"
    page.goto(address)
    page.locator("#note:not(:empty)").wait_for(state="attached")  # asked for by the page
    assert page.locator("#note").inner_text() == predict.NOTE
    assert page.locator("#model").inner_text() == "Model: run/model.pt, by afad-coral.py"
    yield page
    page.close()
    elsewhere = {url for url in asked if not url.startswith(("blob:", "data:"))}
    own = {address + name for name in ("", "page.css", "page.js", "about.json", "predict")}
    assert elsewhere <= own and errors == []


def articles(page, count):
    """The answers on the page, the newest first, when all ``count`` are there."""
    page.locator(f"article:nth-of-type({count})").wait_for()
    page.locator("#work").wait_for(state="hidden")
    assert page.locator("article").count() == count
    return page.locator("article").all()


def test_a_photo_in_the_browser(page, model, tmp_path):
    """Figures, bars and picture are predict.py's; removed, they take no memory."""
    ASTRONAUT.save(tmp_path / "astronaut.png")
    page.set_input_files("#files", tmp_path / "astronaut.png")
    [article] = articles(page, 1)
    [face] = predict.faces(model, ASTRONAUT)
    assert article.locator("h2").inner_text() == "astronaut.png"
    assert said(article) == [words_of(face, model)]
    line = article.locator("polyline").get_attribute("points").split()
    across, down = np.array([point.split(",") for point in line], float).T
    shares = np.array(face["age_probas"])
    assert np.allclose((104 - down) / 82, shares / shares.max(), atol=1e-6)
    assert np.allclose(np.diff(across), 420 / 26)
    shade = article.locator("polygon").get_attribute("points").split()
    ends = [float(point.split(",")[0]) for point in (shade[0], shade[-1])]
    assert ends == [across[face["age_low"] - 15], across[face["age_high"] - 15]]
    image = article.locator("img")
    assert image.evaluate("one => one.decode().then(() => one.naturalWidth)") == 512
    box = article.locator(".box").evaluate("({style}) => [style.left, style.top, style.width]")
    due = face["left"] / 512, face["top"] / 512, (face["right"] - face["left"]) / 512
    assert [float(side.strip("%")) for side in box] == pytest.approx(
        [100 * x for x in due], abs=0.01
    )
    page.evaluate("URL.revokeObjectURL = (url) => { window.freed = url }")
    copy = image.get_attribute("src")
    article.locator("header button").click()
    assert page.locator("article").count() == 0 and page.evaluate("freed") == copy


def words_of(face, model):
    """What a card says of a face, which predict.py says in other words."""
    age, years, gender = answers.words_of(face, model)
    return f"{age} years", f"80% interval {years.replace('-', '–')} · {gender}"


def said(article):
    """What the cards of an answer say: ages, and the line about each."""
    cards = article.locator(".face > button").all()
    return [
        (card.locator("strong").inner_text() + card.locator("strong + span").inner_text(),
         card.locator("div").first.inner_text())
        for card in cards
    ]  # fmt: skip


DROP = """(target, files) => {
  const data = new DataTransfer()
  for (const [name, bytes] of files) data.items.add(new File([new Uint8Array(bytes)], name))
  const kind = {dataTransfer: data, bubbles: true, cancelable: true}
  target.dispatchEvent(new DragEvent("drop", kind))
}"""


def test_files_dropped(page, model):
    """A photo of two people, a text in the clothes of a photo, an empty file, one too large: an
    answer or a line for each, under names that are text."""
    two = Image.new("RGB", (500, 256))
    two.paste(FACE, (0, 0))
    two.paste(small(0.7), (300, 20))
    files = [["two.png", list(saved(two))], ["<b>letter.jpg", list(b"Dear reader,\n" * 9)]]
    page.locator("#drop").evaluate(DROP, [*files, ["empty.jpg", []], ["large.mp4", LARGEST + 1]])
    large, empty, letter, photo = articles(page, 4)
    faces = predict.faces(model, two)
    assert said(photo) == [words_of(face, model) for face in faces] and len(faces) == 2
    for article, line in (
        (letter, NO_PHOTO),
        (empty, "the file is empty, or comes without its length"),
        (large, "larger than 200 MB"),
    ):
        assert article.locator(".error").all_inner_texts() == [line]
    assert letter.locator("h2").inner_text() == "<b>letter.jpg"
    assert page.locator("#spoken").inner_text() == "large.mp4: larger than 200 MB"


def test_a_folder_dropped(page, model, tmp_path):
    """By the browser's own means, beside a photo: each photo in it and in the folders in it is
    answered for, more than the 100 that the browser lists at once; what is hidden or no photo is
    not; a folder without any gets a line."""
    folder, single, empty = tmp_path / "holiday", tmp_path / "single.png", tmp_path / "empty"
    for place in (folder / "deep", folder / ".thumbnails", folder / "@eaDir", empty):
        place.mkdir(parents=True)
    small(0.5).save(single)
    for name in ("b.png", "deep/a.PNG", ".hidden.png", ".thumbnails/t.png", "@eaDir/t.png"):
        small(0.4).save(folder / name, "PNG")
    for number in range(120):
        (folder / f"{number}.txt").write_text("nothing")
    (folder / "letter.jpg").write_text("Dear reader,")
    (empty / "notes.txt").write_text("nothing")
    session = page.context.new_cdp_session(page)
    files = [str(path) for path in (single, folder, empty)]
    data = {"items": [], "files": files, "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 200, "y": 100, "data": data})
    page.locator(".error", has_text="no photo or video in this folder").wait_for()
    found = {article.locator("h2").inner_text(): article for article in articles(page, 5)}
    names = "single.png", "holiday/b.png", "holiday/deep/a.PNG", "holiday/letter.jpg", "empty"
    alone, first, deep, letter, nothing = (found[name] for name in names)
    for article, scale in ((alone, 0.5), (first, 0.4), (deep, 0.4)):
        [face] = predict.faces(model, small(scale))
        assert said(article) == [words_of(face, model)]
    assert letter.locator(".error").all_inner_texts() == [NO_PHOTO]
    assert nothing.locator(".error").count() == 1


def test_a_video_in_the_browser(page, run, tmp_path):
    """The tracks are in the table, the copy can be played, from where a track begins."""
    film = tmp_path / "film.mp4"
    gap = [Image.new("RGB", (200, 128))] * 12
    save_video(film, [*moving(6), *gap, *moving(6)], rate=5)
    assert call(film, "--run", run, "--out", tmp_path / "out") == 0
    page.set_input_files("#files", film)
    [article] = articles(page, 1)
    _, tracks = split(table(tmp_path / "out"))
    lines = [tuple(card) for card in said(article)]
    times = article.locator(".face .quiet").all_inner_texts()
    for line, time_, track in zip(lines, times, tracks, strict=True):
        begin, end = float(track["seconds"]), float(track["until_seconds"])
        assert time_ == f"{begin:.1f} to {end:.1f} s"
        assert line[0].split()[0] == track["age"]
        years = f"{track['age_low']}–{track['age_high']}"
        assert line[1].startswith(f"80% interval {years} · {track['gender']}")
    article.locator(".face > button").last.click()
    copy = article.locator("video")
    wait_until(lambda: copy.evaluate("one => one.readyState >= 2 && !one.seeking"))
    shown = copy.evaluate("one => [one.videoWidth, one.videoHeight, one.error, one.currentTime]")
    assert shown == [200, 128, None, pytest.approx(float(tracks[-1]["seconds"]))]
    assert article.locator("a").get_attribute("download") == "marked.mp4"


def test_stop_and_camera(page, server, long_film, tmp_path):
    """A video is stopped by its button; then a photo is taken, whose face is where the camera
    shows it, and which no second click leaves on."""
    (tmp_path / "long.mp4").write_bytes(long_film)
    page.set_input_files("#files", tmp_path / "long.mp4")
    page.get_by_text(re.compile(r"^\d+ of 400 pictures$")).wait_for()
    page.get_by_role("button", name="Stop").click()
    [article] = articles(page, 1)
    assert article.locator(".error").all_inner_texts() == ["stopped"]
    wait_until(lambda: kept(server) == 0)

    page.get_by_role("button", name="Use the camera").click()
    film = page.locator("#camera video")
    film.wait_for()
    camera = film.evaluate_handle("one => one.srcObject")
    page.get_by_role("button", name="Use the camera").click()
    wait_until(lambda: not camera.evaluate("one => one.active"))
    film.evaluate("one => new Promise(done => one.requestVideoFrameCallback(done))")
    page.get_by_role("button", name="Take a photo").click()
    photo, _ = articles(page, 2)
    assert photo.locator("strong").count() == 1 and not page.locator("#camera").is_visible()
    assert photo.locator("img").evaluate("one => one.naturalWidth") == 640


def test_page_py_cannot_be_reached(page):
    """A file dropped then gets a line."""
    page.context.set_offline(True)
    page.locator("#drop").evaluate(DROP, [["face.png", list(saved(FACE))]])
    [article] = articles(page, 1)
    line = "it could not be read, or page.py has ended"
    assert article.locator(".error").all_inner_texts() == [line]
