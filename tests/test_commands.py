"""Every line of all pages that starts a script by `python`: run in a copy of the project, in the
order of the page, on drawn faces and photos of one astronaut. Only trainings are cut short."""

import importlib.util
import itertools
import os
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from conftest import ROOT
from PIL import Image, ImageEnhance
from test_docs import PAGES
from test_predict import save_video

ELSEWHERE = {  # part of a command that needs what is not at hand: the test that runs the like of it
    "s3://": "test_ray.py",
    "predict_ray.py": "test_ray.py",
    "model-code/page.py": "test_page.py",  # it serves until it is stopped
    "resnet18-f37072fd": "test_variants.py",  # torchvision's weights
    " ... ": "test_scripts.py",  # a form that a reader fills in
    "<data set>": "test_scripts.py",
}
TINY = " --epochs 1 --batch_size 8 --image_size 40"
VALUES = {"loss": ("ce", "coral"), "seed": ("1", "2"), "lr": ("0.001",)}


def commands(page):
    """Those of its blocks, with the values of a loop put in."""
    found = re.findall(
        r"^(?: {4,6})?(?:[^`\n]* && )?(python [^`\n]*)$", page.read_text("utf-8"), re.M
    )
    for line in found:
        if ".py" not in line and " -c " not in line:
            continue
        names = [name for name in VALUES if f"${name}" in line]
        for values in itertools.product(*(VALUES[name] for name in names)):
            text = line
            for name, value in zip(names, values, strict=True):
                text = text.replace(f"${name}", value)
            yield text


def faces(folder, names):
    """Drawn faces under the ``names``."""
    drawn = sorted((ROOT / "datasets/sample/faces/images").rglob("*.*"))
    for name, path in zip(names, drawn, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).convert("RGB").save(folder / name, "JPEG", quality=95)


def photos(folder, names, size=(320, 320)):
    """The astronaut, each time in another light."""
    data = pytest.importorskip("skimage.data")
    astronaut = Image.fromarray(data.astronaut()).crop((80, 0, 400, 320))
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        light = ImageEnhance.Brightness(astronaut).enhance(0.8 + 0.01 * i)
        light.resize(size).save(folder / name, "JPEG")


def prepare(place):
    """A copy of the project, and what its pages' commands are given."""
    for name in ("model-code", "datasets", "images"):
        ignored = shutil.ignore_patterns(
            "results", "pretrained", "*.csv" if name == "datasets" else ""
        )
        shutil.copytree(ROOT / name, place / name, ignore=ignored)
    shutil.rmtree(place / "datasets/sample")
    (place / "datasets/sample").symlink_to(ROOT / "datasets/sample")
    for name in ("results", "pretrained"):
        (place / "model-code" / name).symlink_to(ROOT / "model-code" / name)
    utk = [f"{21 + i % 40}_{i % 2}_{i % 4}_{i:017}.jpg.chip.jpg" for i in range(50)]
    faces(place / "UTKFace", utk)
    faces(place / "AFAD-Full", [f"{15 + i % 26}/{111 + i % 2}/{i}-0.jpg" for i in range(50)])
    photos(place / "CACD2000", [f"{20 + i}_A_Name_{i:04}.jpg" for i in range(10)])
    photos(place / "MORPH2", [f"{1000 + i}_1F{20 + i}.JPG" for i in range(10)], (200, 240))
    names = [f"{21 + i % 3}/{i}.jpg" for i in range(40)]
    photos(place / "PHOTOS", names)
    photos(place / "photos", ["a.jpg", "b.jpg"])
    photos(place, ["photo.jpg"])
    table = pd.DataFrame({"file": [*names, "a.jpg", "b.jpg"]})
    table["age"] = [*[21 + i % 3 for i in range(40)], 42, 42]
    table["gender"] = ["female", "male"] * 21
    table.to_csv(place / "ages.csv", index=False)
    (place / "csv").mkdir()
    for name in ("world1_train", "world2_train", "world_validation"):
        table[:40].to_csv(place / f"csv/{name}.csv", index=False)
    (place / "paths.txt").write_text("photo.jpg\n")
    (place / "FOLDER").symlink_to(".")
    pd.DataFrame({"file": utk}).to_csv(place / "utk_train.csv", index=False)
    save_video(place / "clip.mp4", [Image.open(place / "photo.jpg")] * 10, "mpeg4")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_in_its_order(page, tmp_path):
    lines = [line for line in commands(page) if not any(part in line for part in ELSEWHERE)]
    if not importlib.util.find_spec("pyarrow"):
        lines = [line for line in lines if "--format parquet" not in line]
    lines.sort(key=lambda line: "preprocess-faces.py" not in line)  # told of after its use
    if not lines:
        return
    prepare(tmp_path)
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])

    def run(line):
        line = line.partition("  #")[0]
        line += TINY * bool(re.search(r"-\w+\.py .*--recipe", line))
        return subprocess.run(
            ["bash", "-c", line],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"PATH": path},
        )

    text = page.read_text(encoding="utf-8")
    if "runs/utk-coral-seed1" in text or " RUN " in text:
        for loss in ("coral", "ce"):
            out = f"--outpath runs/utk-{loss}-seed1"
            if out not in text:
                assert run(f"python model-code/utk-{loss}.py --recipe fast {out}").returncode == 0
        (tmp_path / "RUN").symlink_to("runs/utk-coral-seed1")
    make = "python datasets/train-test-csv/make-csv.py"  # what other pages make
    if page.name == "predict.md":
        assert run(f"{make} utk --images UTKFace").returncode == 0
    if page.name == "options.md":
        assert run("python model-code/afad-coral.py --recipe fast --outpath run1").returncode == 0
    if page.name == "own-data-and-losses.md":
        for words in ("--outpath run1", "--init_from run1/model.pt --outpath run2"):
            assert run(f"python model-code/faces-coral.py --recipe fast {words}").returncode == 0
        for name, rows in (("train", slice(0, 32)), ("test", slice(32, 40))):
            table = pd.read_csv(tmp_path / "ages.csv")[rows]
            table.to_csv(tmp_path / f"csv/faces_{name}.csv", index=False)
    if "UTKFace/jpg" in text:
        for half in ("jpg", "other"):
            (tmp_path / "UTKFace" / half).mkdir()
        for i, photo in enumerate(sorted((tmp_path / "UTKFace").glob("*.jpg"))):
            photo.rename(photo.parent / ("jpg", "other")[i % 2] / photo.name)
    for line in lines:
        shutil.rmtree(tmp_path / "NEW", ignore_errors=True)
        if "make-csv.py" in line:  # the same in another way
            for made in (tmp_path / "datasets/train-test-csv").glob("*.csv"):
                made.unlink()
        if "ALL/" in line:
            (tmp_path / "UTKFace").rename(tmp_path / "ALL")
        done = run(line)
        assert done.returncode == 0, (line, done.stderr[-2000:])
