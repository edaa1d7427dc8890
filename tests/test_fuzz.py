"""Damaged files of every kind end in a right result or in one line and a non-zero exit.

The cases come from a generator of fixed seed; a slow test runs the same check on 1,200 of them.
"""

import contextlib
import faulthandler
import io
import json
import os
import pickle
import random
import re
import shutil
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import ROOT, load, read_split, sample
from test_summarize import write_run

NAMES = "afad", "faces", "morph2", "utk"
SCRIPTS = {name: load(ROOT / f"model-code/{name}-coral.py") for name in NAMES}
UTK = SCRIPTS["utk"]
MAKE_CSV = load(ROOT / "datasets/train-test-csv/make-csv.py")
BATCH = load(ROOT / "datasets/image-preprocessing-code/batch.py")
SUMMARIZE = load(ROOT / "model-code/summarize.py")
PIECES = [b"\0", b"\xff", b"\n", b"\r", b'"', b",", b",,", b"\t", b"\xef\xbb\xbf", b"\xed\xa0\x80"]
PIECES += [
    b"nan",
    b"NA",
    b"1e400",
    b"9" * 30,
    b"-1",
    b"3.0",
    b"../",
    b"/",
    b"\xe2\x80\xa8",
    b"\x0c",
]


def cases(few):
    slow = pytest.param(1200, marks=pytest.mark.slow)
    return pytest.mark.parametrize("count", [few, slow])


def kilobytes(name):
    """A line of this process's status: VmRSS, what it holds, or VmHWM, the peak of that."""
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


@pytest.fixture(autouse=True)
def memory():
    """No test needs 4 GB beside what the tests before it left."""
    if not Path("/proc/self/clear_refs").exists():
        yield
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = kilobytes("VmRSS")
    yield
    assert kilobytes("VmHWM") - before < 4e6


@contextlib.contextmanager
def in_a_minute():
    """End the process, with a traceback, if what is done here takes longer."""
    faulthandler.dump_traceback_later(60, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def mutated(draw, data):
    """``data`` with some bytes changed, removed, repeated, moved or put in."""
    data = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 3, 8, 30])):
        start = draw.randrange(len(data) + 1)
        stop = min(len(data), start + draw.choice([1, 1, 2, 4, 16, 200]))
        kind = draw.randrange(6)
        if kind == 0 and start < len(data):
            data[start] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del data[start:stop]
        elif kind == 2:
            data[start:start] = draw.choice(PIECES)
        elif kind == 3:
            data[start:start] = data[start:stop]
        elif kind == 4:
            other = draw.randrange(len(data) + 1)
            data[start:stop] = data[other : other + stop - start]
        elif draw.random() < 0.3:
            del data[start:]
    return bytes(data)


def outcome(function, *args):
    """What the function returns, or None where it ends the program as it should."""
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with in_a_minute():
                    return function(*args)
            except SystemExit as stop:
                assert stop.code
    *warned, refused = err.getvalue().splitlines()
    assert ": error: " in refused and all(": warning: " in line for line in warned), err.getvalue()
    return None


@pytest.mark.parametrize("name", NAMES)
@cases(100)
def test_csvs(count, name, tmp_path):
    """Accepted rows have a file that exists, a label of the data set and a gender or none;
    predictions can be written with them, and name the same files."""
    draw, csv, accepted, module = random.Random(1), tmp_path / "rows.csv", 0, SCRIPTS[name]
    for _ in range(count):
        header, *lines = (sample(module) / "train.csv").read_text().splitlines()
        lines = [header, *draw.sample(lines, draw.choice([1, 4, 8]))]
        if draw.random() < 0.3:  # rows longer or shorter than the header
            at = draw.randrange(len(lines))
            lines[at] = draw.choice([lines[at] + ",x", lines[at].rpartition(",")[0]])
        coding = draw.choice(["utf-8"] * 5 + ["utf-8-sig", "utf-16"])
        content = draw.choice(["\n", "\r\n"]).join([*lines, ""]).encode(coding)
        csv.write_bytes(mutated(draw, content) if draw.random() < 0.7 else content)
        args = SimpleNamespace(outpath=tmp_path, gender=draw.choice([0, 1]))
        split = outcome(read_split, module, csv, sample(module) / "images", args.gender)
        if split:
            accepted += 1
            assert all(os.path.isfile(file) for file in split.files)
            assert split.labels.min() >= 0 and split.labels.max() < module.NUM_CLASSES
            assert set(split.genders[~split.genders.isnan()].tolist()) <= {0, 1}
            assert split.genders.isnan().all() or args.gender
            probas = torch.zeros(len(split.files), module.NUM_CLASSES - 1)
            module.save_predictions(args, "", split, probas, probas[:, 0])
            written = module.pd.read_csv(tmp_path / "test_predictions.csv", dtype=str)
            assert [*written["path"]] == [*split.table[module.FILE_COLUMN]]
    assert count / 10 < accepted < 0.9 * count


def pictures():
    """Small images of many formats and modes, encoded."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    image, turned = PIL.Image.fromarray(noise), PIL.Image.Exif()
    turned[0x112] = 6
    grey16 = PIL.Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    pages = {"save_all": True, "append_images": [image.rotate(90)]}
    kinds = [(image, "JPEG", {}), (image, "JPEG", {"progressive": True}), (image, "PNG", {})]
    kinds += [(image, "JPEG", {"exif": turned}), (grey16, "PNG", {}), (grey16, "TIFF", {})]
    kinds += [(image.convert(mode), "PNG", {}) for mode in ("1", "L", "LA", "P", "RGBA")]
    kinds += [(image.convert("CMYK"), "JPEG", {}), (image, "GIF", pages), (image, "PNG", pages)]
    kinds += [(image, "WEBP", {}), (image, "BMP", {}), (image, "EPS", {}), (image, "ICO", {})]
    for picture, name, options in kinds:
        encoded = io.BytesIO()
        picture.save(encoded, name, **options)
        yield encoded.getvalue()


@cases(400)
def test_images(count, tmp_path, monkeypatch):
    """Training takes an image if and only if make-csv.py lists it; nothing stays in --cache_dir."""
    draw, kinds, file, accepted = random.Random(2), [*pictures()], tmp_path / "face.jpg", 0
    cache = tmp_path / "cache"
    cache.mkdir()
    args = SimpleNamespace(image_size=32, cache_dir=cache)
    monkeypatch.setattr(UTK.os, "cpu_count", lambda: 1)
    for number in range(count):
        whole = number < len(kinds)
        content = kinds[number] if whole else draw.choice(kinds)
        file.write_bytes(content if whole else mutated(draw, content))
        split = SimpleNamespace(files=[str(file)], rows=[1], facts={"csv": "rows.csv"})
        outcome(UTK.load_pixels, {"train": split}, args)
        accepted += "images_sha256" in split.facts
        assert ("images_sha256" in split.facts) == (MAKE_CSV.inspect(file)[1] is None)
        assert not any(cache.iterdir())
    assert count / 10 < accepted < 0.9 * count


class Code:
    """Unpickled, it would make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def encoded(state, zipped=True):
    file = io.BytesIO()
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def damaged(draw, state, made):
    """The file of ``state``, damaged, or one that would make the folder ``made``."""
    kind = draw.randrange(5)
    if kind == 0:
        return encoded(state)[: draw.randrange(len(encoded(state)))]
    if kind == 1:
        hidden = draw.choice([Code(made), state | {draw.choice([*state]): Code(made)}])
        return draw.choice([encoded(hidden), encoded(hidden, False), pickle.dumps(hidden)])
    return mutated(draw, encoded(state, draw.random() < 0.8))


def equal(a, b):
    if isinstance(a, dict):
        return [*a] == [*b] and all(equal(a[key], b[key]) for key in a)
    return torch.equal(a, b) if torch.is_tensor(a) else a == b


@cases(400)
def test_checkpoints(count, tmp_path):
    """A checkpoint is taken as it was written or refused, no code in it runs, no file changes."""
    draw, out, made = random.Random(3), tmp_path / "run", tmp_path / "made"
    argv = [f"--outpath={out}", "--resume", "--seed=1"]
    args = UTK.parse_settings(argv)
    settings = {k: v if v is None else str(v) for k, v in vars(args).items() if k in UTK.PATHS}
    facts = {"script": "utk-coral.py", "script_sha256": "", "processes": 1, "status": "running"}
    facts |= {"seed": 1, "settings": vars(args) | settings | {"outpath": str(out)}, "data": {}}
    layer = torch.nn.BatchNorm2d(4)
    state = {
        "model": dict(layer.state_dict()),
        "progress": {"best": {}},
        "epoch_cost": torch.zeros(()),
    }
    state |= {"rng": torch.get_rng_state(), "run": ["utk-coral.py", 1]}
    out.mkdir()
    (out / "run.json").write_text(json.dumps(facts))
    (out / "training.log").write_text("Epoch\n")
    for _ in range(count):
        content = damaged(draw, state, made)
        (out / "checkpoint.pt").write_bytes(content)
        found = outcome(UTK.earlier_run, argv, args)
        assert not found or equal(found[1], state)
        assert (out / "checkpoint.pt").read_bytes() == content and not made.exists()
    (out / "checkpoint.pt").write_bytes(encoded(state))
    assert equal(outcome(UTK.earlier_run, argv, args)[1], state)


@cases(400)
def test_weights(count, tmp_path):
    """--init_from takes damaged weights whole or not at all, and runs no code in them."""
    draw, file, made = random.Random(4), tmp_path / "weights.pt", tmp_path / "made"
    model = torch.nn.Sequential()
    model.add_module("conv1", torch.nn.Conv2d(3, 4, 3))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for _ in range(count):
        file.write_bytes(damaged(draw, state, made))
        outcome(UTK.init_weights, model, file)
        assert not made.exists()
        assert all(tensor.shape == state[name].shape for name, tensor in model.state_dict().items())


@cases(60)
def test_make_csv(count, tmp_path):
    """Whatever the images are called, training reads the CSVs and finds every image."""
    draw, images, out = random.Random(5), tmp_path / "images", tmp_path / "out"
    face = next(pictures())
    odd = ["\n", "\r", " ", '"', ",", "é", "e\u0301", "\udcff", "_", "9" * 30]
    odd += ["NA", "\x01", "\u2028"]
    for _ in range(count):
        images.mkdir()
        for subject in range(6):
            name = f"{draw.choice([30, 40, 99])}_1_0_2017{subject}.jpg"
            for _ in range(draw.choice([0, 0, 1, 2])):
                at = draw.randrange(len(name) + 1)
                name = name[:at] + draw.choice(odd) + name[at:]
            (images / name).write_bytes(draw.choice([face, face, mutated(draw, face), b""]))
        words = ["utk", f"--images={images}", f"--out={out}", "--valid_fraction=0.2"]
        outcome(MAKE_CSV.main, [*words, "--group_duplicates"])
        listed = 0
        for csv in out.glob("*_t*.csv") if out.exists() else []:
            listed += len(read_split(UTK, csv, images).files)
        for csv in out.glob("utk_[vr]*.csv") if out.exists() else []:
            table = MAKE_CSV.pd.read_csv(csv, dtype=str, keep_default_na=False)
            listed += len(table)
            if csv.name == "utk_valid.csv":
                assert all((images / name).is_file() for name in table["file"])
        assert listed in (0, len(MAKE_CSV.image_paths(images)[0]))
        shutil.rmtree(images)
        shutil.rmtree(out, ignore_errors=True)


@cases(400)
def test_progress_of_preprocessing(count, tmp_path):
    """A damaged progress.jsonl is refused, or what is left of it can be used."""
    draw, journal = random.Random(7), tmp_path / "progress.jsonl"
    points = [draw.randrange(200) for _ in range(136)]
    records = [{"script": "x"}, {"file": "a.jpg", "landmarks": points, "resized": None}]
    records += [{"file": "b.jpg", "rejected": "no face"}, {"file": "c.jpg", "landmarks": points}]
    good, used = "".join(json.dumps(record) + "\n" for record in records).encode(), 0
    for _ in range(count):
        journal.write_bytes(mutated(draw, good))
        try:
            _, found = BATCH.read_records(journal)
        except (ValueError, TypeError, LookupError, AttributeError):
            continue  # start() ends with one line
        for record in found.values():
            assert np.shape(record.get("landmarks") or [0] * 136) == (136,)
        assert all(isinstance(record.get("rejected", ""), str) for record in found.values())
        used += 1
    assert count / 10 < used < 0.95 * count


def other_facts(draw, content):
    """A run.json with some values replaced or gone."""
    facts = json.loads(content)
    for _ in range(draw.choice([1, 1, 2])):
        inner = [value for value in facts.values() if isinstance(value, dict)]
        inner += [value for part in inner for value in part.values() if isinstance(value, dict)]
        place = draw.choice([part for part in [facts, *inner] if part])
        key = draw.choice([*place])
        values = [
            None,
            0,
            -1,
            10**30,
            1e308,
            "x",
            "a\nb",
            "\ud800",
            [],
            {},
            [1],
            1.5,
            True,
            "running",
        ]
        place[key] = draw.choice([*values, float("nan"), float("inf")])
        if draw.random() < 0.25:
            del place[key]
    return json.dumps(facts).encode()


@cases(60)
def test_summarize(count, tmp_path, monkeypatch):
    """Tables from damaged runs: a report or one line, and the runs stay as they are."""
    monkeypatch.setattr("coral_age.plots.pictures", lambda number, groups: {})
    monkeypatch.setattr("os.fsync", lambda file: None)
    draw, out, reports = random.Random(6), tmp_path / "report", 0
    runs = [write_run(tmp_path / f"seed{i}", seed=i, gender=1, count=20) for i in range(2)]
    good = {path.name: path.read_bytes() for path in runs[0].iterdir()}
    for _ in range(count):
        name = draw.choice([*good])
        change = other_facts if name == "run.json" and draw.random() < 0.6 else mutated
        (runs[0] / name).write_bytes(change(draw, good[name]))
        before = [path.read_bytes() for run in runs for path in sorted(run.iterdir())]
        outcome(SUMMARIZE.main, [*map(str, runs), f"--out={out}"])
        assert before == [path.read_bytes() for run in runs for path in sorted(run.iterdir())]
        reports += (out / "index.html").exists()
        shutil.rmtree(out, ignore_errors=True)
        (runs[0] / name).write_bytes(good[name])
    assert count / 10 < reports < 0.9 * count
