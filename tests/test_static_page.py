"""The page that export.py --page makes, in a real Chromium: photos, video, camera, offline."""

import functools
import hashlib
import http.server
import io
import json
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MODEL_CODE, load, refused
from PIL import Image, ImageOps
from skimage import data
from test_page import articles, browser  # noqa: F401 (browser is a fixture)
from test_predict import (
    ASTRONAUT,
    FACE,
    call,
    moving,
    predict,
    save_video,
    small,
    split,
    table,
)

onnx = pytest.importorskip("onnx")
from coral_age import errors, webpage  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402

export = load(MODEL_CODE / "export.py")
PAGE = "http://127.0.0.1:{}/"


@pytest.fixture(scope="module")
def faces_run(tmp_path_factory):
    """A run of drawn weights, for all ages."""
    folder, module = tmp_path_factory.mktemp("run"), load(MODEL_CODE / "faces-coral.py")
    torch.manual_seed(1)
    network = module.ResNet34(gender=1)
    with torch.no_grad():
        network.layer4[-1].bn2.weight.mul_(20)
        network.linear_1_bias.copy_(torch.linspace(3, -3, module.NUM_CLASSES - 1))
    torch.save(network.state_dict(), folder / "model.pt")
    digest = hashlib.sha256((MODEL_CODE / "faces-coral.py").read_bytes()).hexdigest()
    facts = {"script": "faces-coral.py", "script_sha256": digest, "settings": {"image_size": 48}}
    (folder / "run.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The npm package of ONNX Runtime Web."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    try:
        return webpage.fetch(tmp_path_factory.mktemp("npm"))
    except errors.InputError as error:  # without a network
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def site(faces_run, package, tmp_path_factory):
    """The folder of the page, served."""
    folder = tmp_path_factory.mktemp("site") / "page"
    export.main([str(word) for word in (faces_run, folder, "--page", "--ort", package)])
    assert max(path.stat().st_size for path in folder.iterdir()) < 25e6
    assert sum(path.stat().st_size for path in folder.iterdir()) < 45e6

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield PAGE.format(server.server_address[1])
        server.shutdown()


@pytest.fixture
def page(browser, site):  # noqa: F811
    """The page, open; it raises no error, and asks for nothing when its files are there."""
    page = browser.new_page(viewport={"width": 1000, "height": 800})
    page.set_default_timeout(300_000)
    errors, asked = [], []
    page.on("pageerror", lambda error: errors.append(error))
    page.context.on("request", lambda request: asked.append(request.url))
    page.goto(site)
    page.set_input_files("#files", {"name": "a.png", "mimeType": "image/png", "buffer": png(FACE)})
    articles(page, 1)
    assert all(url.startswith((site, "blob:", "data:")) for url in asked)
    asked.clear()
    page.get_by_role("button", name="Remove all").click()
    yield page
    page.close()
    assert [url for url in asked if not url.startswith(("blob:", "data:"))] == [] and errors == []


def png(image):
    """The bytes of a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def answers_of(page):
    """The rows that the page keeps, as it saves them."""
    with page.expect_download() as download:
        page.get_by_role("button", name="JSON").click()
    told = json.loads(download.value.path().read_text())
    assert told["note"] == predict.NOTE
    return told["faces"]


def test_photos(page, faces_run, tmp_path):
    """The faces, boxes, ages and probabilities of predict.faces(): of one face, of two, of one on
    its side, of one turned by its camera, in grey, and where there is none."""
    two = Image.new("RGB", (500, 256))
    two.paste(FACE, (0, 0))
    two.paste(small(0.7), (300, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    photos = {
        "astronaut.png": ASTRONAUT,
        "two.png": two,
        "side.png": FACE.rotate(90),
        "grey.png": ImageOps.grayscale(FACE),
        "rocket.png": Image.fromarray(data.rocket()),
    }
    for name, photo in photos.items():
        photo.save(tmp_path / name)
    FACE.rotate(90).save(tmp_path / "camera.jpg", exif=exif, quality=95)
    files = [*(tmp_path / name for name in photos), tmp_path / "camera.jpg"]
    page.set_input_files("#files", files)
    articles(page, len(files))
    rows, model = answers_of(page), predict.load(faces_run)
    for file in files:
        found = [row for row in rows if row["source"] == file.name]
        due = predict.faces(model, file)
        assert len(found) == len(due) == {"two.png": 2, "rocket.png": 0}.get(file.name, 1)
        for row, face in zip(found, due, strict=True):
            for name in ("left", "top", "right", "bottom", "turn", "gender"):
                assert row[name] == face[name]
            for name in ("not_sure", "gender_not_sure"):
                assert row.get(name) == face.get(name)
            assert abs(row["age"] - face["age"]) <= 1
            assert np.allclose(row["age_probas"], face["age_probas"], atol=0.01)
            assert sum(row["age_probas"]) == pytest.approx(1)
    [none] = [a for a in page.locator("article").all() if "rocket" in a.inner_text()]
    assert "No face was found." in none.inner_text()
    # not in a canvas, which would hold all pixels of each photo that was shown
    assert page.locator(".picture > img[alt='two.png, 2 faces']").count() == 1
    assert page.locator(".picture > canvas").count() == 0


def test_what_is_no_picture(page, tmp_path):
    """A line each, and the next one is answered."""
    (tmp_path / "letter.jpg").write_text("Dear reader,")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    (tmp_path / "bill.pdf").write_bytes(b"%PDF-1.4")
    (tmp_path / "logo.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    shutil.copy(Path(__file__).with_name("grid.heic"), tmp_path)
    whole = png(FACE)
    (tmp_path / "header.png").write_bytes(whole[:16] + b"\0\1\0\0\0\1\0\0" + whole[24:])
    Image.new("1", (8000, 6400)).save(tmp_path / "large.png")
    FACE.save(tmp_path / "face.png")
    FACE.save(tmp_path / "face.gif")
    unread = "damaged, or no picture that this browser can read; JPEG, PNG and WebP are"
    reasons = {
        "letter.jpg": unread,
        "empty.png": "the file is empty",
        "cut.mp4": "damaged, or no video that this browser can play",
        "bill.pdf": unread,
        "logo.svg": unread,
        "grid.heic": "this browser reads no HEIC photos; save it as JPEG",
        "header.png": unread,
        "large.png": "51 megapixels; up to 50 can be read here",
    }
    names = *reasons, "face.gif", "face.png"
    page.set_input_files("#files", [tmp_path / name for name in names])
    found = articles(page, len(names))
    assert [face.locator("strong").count() for face in found[:2]] == [1, 1]
    told = [article.locator(".error").inner_text() for article in found[:1:-1]]
    assert told == list(reasons.values())


def test_limits_and_tables(page, tmp_path):
    """Probabilities of limits, on the cards and in the CSV."""
    FACE.save(tmp_path / 'a "face", mine.png')
    page.fill("#over", "18, 40")
    page.set_input_files("#files", tmp_path / 'a "face", mine.png')
    [article] = articles(page, 1)
    [row] = answers_of(page)
    for limit in (18, 40):
        share = sum(row["age_probas"][limit:])
        assert row[f"over_{limit}"] == pytest.approx(share)
        assert f"at least {limit}: {share:.0%}" in article.inner_text()
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    text = download.value.path().read_text()
    head, line = text.splitlines()
    assert head.endswith("gender,gender_probability,not_sure,gender_not_sure,over_18,over_40")
    assert line.startswith('"a ""face"", mine.png",image,1,')


def test_what_is_said(page, tmp_path):
    """A screen reader is told each answer, a limit typed afterwards changes the cards, and a
    picture's memory is given back when it is removed."""
    FACE.save(tmp_path / "face.png")
    page.set_input_files("#files", tmp_path / "face.png")
    [article] = articles(page, 1)
    [row] = answers_of(page)
    assert page.get_by_role("status").inner_text() == f"face.png: {row['age']} years"
    assert "at least" not in article.inner_text()
    page.fill("#over", "18")
    assert f"at least 18: {sum(row['age_probas'][18:]):.0%}" in article.inner_text()
    image = article.locator("img").get_attribute("src")
    page.get_by_role("button", name="Remove face.png").click()
    gone = f"fetch({json.dumps(image)}).then(() => 'there', () => 'gone')"
    assert page.evaluate(gone) == "gone" and page.locator("article").count() == 0


def test_a_video(page, faces_run, tmp_path):
    """The tracks of predict.py, which looks at every picture, and the page at eight a second."""
    film = tmp_path / "film.webm"
    gap = [Image.new("RGB", (200, 128))] * 24
    save_video(film, [*moving(16), *gap, *moving(16)], "libvpx-vp9", rate=8)
    assert call(film, "--run", faces_run, "--out", tmp_path / "out") == 0
    _, tracks = split(table(tmp_path / "out"))
    page.set_input_files("#files", film)
    articles(page, 1)
    rows = answers_of(page)
    assert len(rows) == len(tracks) == 2
    for row, track in zip(rows, tracks, strict=True):
        assert abs(row["age"] - int(track["age"])) <= 1 and row["gender"] == track["gender"]
        assert row["seconds"] == pytest.approx(float(track["seconds"]), abs=0.126)
        assert row["until_seconds"] == pytest.approx(float(track["until_seconds"]), abs=0.126)


def test_the_camera(page):
    """Is answered for while it runs; its light goes out."""
    page.get_by_role("button", name="Use the camera").click()
    page.locator("#camera .box").wait_for()
    film = page.locator("#camera video")
    camera = film.evaluate_handle("one => one.srcObject")
    page.get_by_role("button", name="Take a photo").click()
    [photo] = articles(page, 1)
    assert photo.locator("strong").count() == 1 and not page.locator("#camera").is_visible()
    assert not camera.evaluate("one => one.active")


def test_without_a_network(browser, site):  # noqa: F811
    """After the first visit; and nothing may be sent anywhere else."""
    face = {"name": "a.png", "mimeType": "image/png", "buffer": png(FACE)}
    page = browser.new_page()
    page.set_default_timeout(300_000)
    page.goto(site)
    page.evaluate("navigator.serviceWorker.ready.then(() => 1)")
    page.context.set_offline(True)
    page.reload()
    page.set_input_files("#files", face)
    articles(page, 1)
    page.context.set_offline(False)
    sent = "fetch('http://localhost:1/').then(() => 'sent', (error) => 'refused')"
    blocked = """new Promise((done) => addEventListener("securitypolicyviolation",
        (event) => done(event.violatedDirective)))"""
    both = page.evaluate(f"Promise.all([{blocked}, {sent}])")
    assert both == ["connect-src", "refused"]
    page.close()


def test_one_file(browser, faces_run, package, tmp_path):  # noqa: F811
    """All in one page, which opens from a disk and answers as the folder does."""
    file = tmp_path / "page.html"
    words = faces_run, file, "--page", "--single", "--ort", package
    export.main([str(word) for word in words])
    assert file.stat().st_size < 60e6
    page = browser.new_page()
    page.set_default_timeout(300_000)
    page.goto(file.as_uri())
    page.set_input_files("#files", {"name": "a.png", "mimeType": "image/png", "buffer": png(FACE)})
    articles(page, 1)
    [row], [face] = answers_of(page), predict.faces(predict.load(faces_run), FACE)
    assert np.allclose(row["age_probas"], face["age_probas"], atol=0.01)
    page.close()


def test_weights_of_12_bits():
    """Each weight is the nearest of 2,039 steps up and down of its channel's largest one."""
    weights = np.random.default_rng(0).normal(size=(4, 2, 3, 3)).astype(np.float32)
    weights[1] = 0
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
        "one",
        [helper.make_tensor_value_info("x", 1, ["n", 2, 3, 3])],
        [helper.make_tensor_value_info("y", 1, ["n", 4, 3, 3])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    files, layers = webpage.split_weights(model)
    assert layers == [(4, 18)] and len(files["network.low"]) == 36
    upper = np.frombuffer(files["network.high"], np.int8).astype(int)
    nibbles = np.frombuffer(files["network.low"], np.uint8).astype(int)
    whole = 16 * upper + np.stack([nibbles % 16, nibbles // 16], 1).ravel() - 8
    step = np.abs(weights).max((1, 2, 3)) / np.float32(2039)
    assert np.array_equal(np.frombuffer(files["network.scales"], np.float32), step)
    found = whole.reshape(4, 18) * step[:, None]
    assert np.abs(found - weights.reshape(4, 18)).max() <= step.max() / 2 * 1.001
    assert np.abs(whole).max() == 2039 and (found[1] == 0).all()
    told = np.frombuffer(files["network.weights"], np.float32)
    assert np.array_equal(told, np.float32(found).ravel())


def test_the_page_unpacks_them(browser):  # noqa: F811
    """engine.js makes network.weights of the three files, to the bit: an odd number of weights in a
    channel, so that the halves of a byte may belong to two."""
    draw, shapes = np.random.default_rng(1), {"a": (3, 1, 3, 3), "b": (4, 3, 3, 3)}
    some = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    ends = zip("xy", "yz", "ab", strict=True)
    graph = helper.make_graph(
        [helper.make_node("Conv", [x, name], [y], pads=[1, 1, 1, 1]) for x, y, name in ends],
        "two",
        [helper.make_tensor_value_info("x", 1, ["n", 1, 3, 3])],
        [helper.make_tensor_value_info("z", 1, ["n", 4, 3, 3])],
        [numpy_helper.from_array(weights, name) for name, weights in some.items()],
    )
    files, layers = webpage.split_weights(helper.make_model(graph))
    code = (MODEL_CODE / "page" / "engine.js").read_text()
    page = browser.new_page()
    page.add_script_tag(content=re.search(r"^function weightsOf.*?^}", code, re.M | re.S)[0])
    page.evaluate("layers => { window.about = {layers} }", layers)
    told = page.evaluate(
        "parts => Array.from(weightsOf(...parts.map((part) => new Uint8Array(part))))",
        [list(files[f"network.{name}"]) for name in ("high", "low", "scales")],
    )
    page.close()
    assert bytes(told) == files["network.weights"]


@pytest.mark.parametrize(
    "words, why",
    [
        (["x", "--single"], "--ort and --single go with --page"),
        (["x", "--page", "--fp16", "1"], "--page takes RUN, a new FILE, --single and --ort alone"),
        ([".", "--page"], ".: is there already; give a new name"),
    ],
)
def test_refusals(words, why, faces_run, capsys):
    assert why in refused(export, capsys, faces_run, *words)
