"""export.py: files that ONNX Runtime opens, beside torch and slow computations."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import LOSSES, MODEL_CODE, ROOT, load
from coral_age import answers, detect, runs
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_predict import contents, slow_classes, slow_interval
from test_scripts import slow_label

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
export = load(MODEL_CODE / "export.py")
SAMPLE = ROOT / "datasets" / "sample"

# Age of a crop framed as the training photos, without torch.
PAGE = (ROOT / "docs/predict.md").read_text()
SNIPPET = re.search(r"```python\n(import numpy.*?)```", PAGE, re.S)[1]


def make_run(folder, name, size, gender=0, **views):
    """A run folder with drawn weights, all batch norms among them, that say something else of every
    face."""
    script = load(MODEL_CODE / name)
    torch.manual_seed(1)
    network = script.ResNet34(gender)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
        network.train()(faces(32, size) / 255)  # the statistics are those of these faces
        for layer in (network.fc, network.fc_gender) if gender else (network.fc,):
            layer.weight.normal_(0, 0.05)
        if script.LOSS == "coral":
            network.linear_1_bias.copy_(torch.linspace(2, -2, script.NUM_CLASSES - 1))
        if script.LOSS == "l1":  # ages of the middle
            network.fc.bias.fill_(20)
    folder.mkdir()
    torch.save(network.state_dict(), folder / "model.pt")
    digest = hashlib.sha256((MODEL_CODE / name).read_bytes()).hexdigest()
    facts = {"script": name, "script_sha256": digest, "settings": {"image_size": size, **views}}
    (folder / "run.json").write_text(json.dumps(facts))
    return network.eval()


def faces(count, size):
    """float32 (count, 3, size, size) from 0 to 255, drawn faces."""
    paths = sorted((SAMPLE / "utk" / "images").glob("*.jpg"))[:count]
    images = [np.asarray(Image.open(path).resize((size, size))) for path in paths]
    return torch.tensor(np.stack(images)).permute(0, 3, 1, 2).float()


@pytest.fixture(scope="module")
def run():
    """A run of utk-coral.py, 64 pixels, with genders."""
    with tempfile.TemporaryDirectory() as name:
        make_run(Path(name) / "run", "utk-coral.py", 64, gender=1, flip=1)
        yield Path(name) / "run"


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Fewer images to check on than a user's."""
    monkeypatch.setattr(export, "CHECKED", 12)


def call(*words):
    """The exit code of export.py with these arguments."""
    try:
        return export.main([str(word) for word in words]) or 0
    except SystemExit as stop:
        return stop.code


def ask(path, images):
    """{output: array} of a file."""
    session = onnxruntime.InferenceSession(path)
    [given] = session.get_inputs()
    assert (given.name, given.type, given.shape[1]) == ("images", "tensor(uint8)", 3)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images}), strict=True))


def slow_decoding(probas, loss, shares=None):
    """Label and interval of one face, which holds 80 % or by predicted label one of ``shares``."""
    classes = slow_classes(probas, loss)
    label = slow_label(loss, np.float64(probas))
    return label, *slow_interval(classes, label, 0.8 if shares is None else shares[label])[:2]


# ---- The answers


def slow_answers(script, network, images, flip, shifts):
    """Probabilities and P(male) of the mean over the views, which are made one by one in numpy."""
    size, views = images.shape[-1], [images]
    if flip:
        views = [images, images[..., ::-1]]
    if shifts:
        larger = np.pad(images, [(0, 0), (0, 0), (1, 1), (1, 1)], "edge")
        views = [larger[..., y : y + size, x : x + size] for y in (0, 2) for x in (0, 2)]
        if flip:
            views = [views[0], views[1][..., ::-1], views[2][..., ::-1], views[3]]
    with torch.no_grad():
        outputs = [network(torch.tensor(view.copy()).float() / 255) for view in views]
    probas = torch.stack([script.compute_probas(logits) for logits, _ in outputs]).mean(0)
    male = [logits.sigmoid().numpy() for _, logits in outputs if logits is not None]
    return probas.numpy(), np.mean(male, axis=0) if male else None


COMBINATIONS = [
    (loss, gender, size, flip, shifts)
    for loss in LOSSES
    for gender in (0, 1)
    for size in (64, 120)
    for flip in (0, 1)
    for shifts in (0, 1)
]
QUICK = {("ce", 1, 64, 1, 0), ("coral", 0, 120, 0, 0), ("coral", 1, 64, 1, 1)}
QUICK |= {("ordinal", 1, 64, 0, 1), ("corn", 1, 64, 1, 0)}
QUICK |= {("dldl", 0, 64, 1, 0), ("l1", 0, 64, 1, 0), ("sord", 0, 64, 0, 1)}


@pytest.mark.parametrize(
    "loss, gender, size, flip, shifts",
    [c if c in QUICK else pytest.param(*c, marks=pytest.mark.slow) for c in COMBINATIONS],
)
def test_the_file_answers_as_torch(loss, gender, size, flip, shifts, tmp_path, capsys):
    """Probabilities to 1e-4, ages, intervals; of one image what it is among others."""
    name = f"utk-{loss}.py"
    views = {"flip": flip, "shifts": shifts, "channels_last": flip}
    network, script = (
        make_run(tmp_path / "run", name, size, gender, **views),
        load(MODEL_CODE / name),
    )
    assert call(tmp_path / "run", tmp_path / "model.onnx") == 0
    out = capsys.readouterr().out
    assert "the answers of torch for 12 drawn faces, probabilities within " in out

    noise = np.random.default_rng(1).integers(0, 256, (3, 3, size, size))
    images = np.concatenate([faces(6, size).numpy(), noise]).astype(np.uint8)
    found = ask(tmp_path / "model.onnx", images)
    probas, male = slow_answers(script, network, images, flip, shifts)
    assert found["probas"].dtype == np.float32 and found["probas"].shape == probas.shape
    print(f"{loss}, gender {gender}, {size} pixels: {np.abs(found['probas'] - probas).max():.1e}")
    assert np.abs(found["probas"] - probas).max() < 1e-4
    assert ("male" in found) == bool(gender)
    if gender:
        assert found["male"].shape == (9,) and np.ptp(male) > 0.01
        assert np.abs(found["male"] - male).max() < 1e-4

    due = [slow_decoding(row, loss) for row in found["probas"]]
    ages = np.array(due).T + 21
    assert np.ptp(probas, axis=0).max() > 0.01 and (ages[1] < ages[2]).any()
    assert ages[0].tolist() == (script.predict_labels(torch.tensor(probas)) + 21).tolist()
    for name, values in zip(("age", "age_low", "age_high"), ages, strict=True):
        assert found[name].dtype == np.int64 and found[name].tolist() == values.tolist()
    alone = ask(tmp_path / "model.onnx", images[4:5])
    for name, values in alone.items():
        assert np.abs(values[0] - found[name][4]).max() < 1e-5, name
    shutil.rmtree(tmp_path)


def decoder(loss, shares=None):
    """The part of the graph that makes ages of probabilities, as a session, and the script;
    ``shares``: what the intervals must hold, by label, of a calibrated run."""
    script = load(MODEL_CODE / f"utk-{loss}.py")
    script.NUM_CLASSES, script.YOUNGEST_AGE = 26, 15
    script.NUM_PROBAS -= 14
    model = SimpleNamespace(script=script, interval=80, shares=None)
    if shares is not None:
        model.shares = np.tile(shares, (len(answers.LEVELS), 1))
    graph = SimpleNamespace(nodes=[], constants=[])
    export.add_ages(lambda *words, **more: export.add(graph, *words, **more), "probas", model)
    helper, shape = onnx.helper, ["n", script.NUM_PROBAS]
    graph = helper.make_graph(
        graph.nodes,
        "ages",
        [helper.make_tensor_value_info("probas", onnx.TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["n"])
            for name in ("age", "age_low", "age_high")
        ],
        graph.constants,
    )
    opsets = [helper.make_opsetid("", export.OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=export.IR_VERSION)
    return onnxruntime.InferenceSession(model.SerializeToString())


DECODERS = {loss: decoder(loss) for loss in ("ce", "dldl", "l1", "ordinal")}
SHARES = (np.random.default_rng(1).integers(0, 1024, 26) + 0.5) / 1024  # which no sum below is
CALIBRATED = {loss: decoder(loss, SHARES) for loss in DECODERS}


def check_decoder(loss, probas):
    probas = np.array(probas, np.float32)
    for session, shares in ((DECODERS[loss], None), (CALIBRATED[loss], SHARES)):
        found = np.transpose(session.run(None, {"probas": probas}))
        due = [slow_decoding(row, loss, shares) for row in probas]
        assert found.tolist() == (np.array(due) + 15).tolist()


PARTS = st.integers(0, 1024)  # of 1,024: their sums are exact, and none is 0.8


@given(st.lists(st.lists(PARTS, min_size=25, max_size=25), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_ages_of_any_probabilities(parts):
    """P(y > k) out of order, equal ones, 0, 1 and 0.5; and classes of which several are the most
    probable."""
    for loss in ("ordinal", "l1"):
        check_decoder(loss, np.array(parts) / 1024)
    cuts = np.sort(parts, axis=1)
    for loss in ("ce", "dldl"):
        check_decoder(loss, np.diff(cuts, axis=1, prepend=0, append=1024) / 1024)


def test_ages_by_hand():
    """Of 26 classes from age 15: all certain; three that share the probability, of which two hold
    enough, then all three, then either two, of which the first are taken."""
    above = np.zeros((5, 25), np.float32)
    above[1] = 1
    above[2:, :10] = 1
    above[2, 10:12] = 0.75, 0.125  # so the classes 10, 11, 12 have 0.25, 0.625, 0.125
    above[3, 10:12] = 0.75, 0.25
    above[4, 10:12] = 0.8125, 0.1875
    found = np.transpose(DECODERS["ordinal"].run(None, {"probas": above}))
    due = [[15, 15, 15], [40, 40, 40], [26, 25, 26], [26, 25, 27], [26, 25, 26]]
    assert found.tolist() == due


def test_an_interval_holds_its_age():
    """The most probable class, 0, is far from six others that hold 84 %: the shortest interval with
    it and 80 % reaches to the fifth of those."""
    probas = np.zeros((1, 26), np.float32)
    probas[0, 0], probas[0, 20:] = 160 / 1024, 144 / 1024
    found = np.transpose(DECODERS["ce"].run(None, {"probas": probas}))
    assert found.tolist() == [[15, 15, 39]]
    check_decoder("ce", probas)


def test_any_number_of_images(run, tmp_path):
    assert call("--fp16=1", run, tmp_path / "model.onnx") == 0
    for count in (1, 2, 33):
        images = np.zeros((count, 3, 64, 64), np.uint8)
        found = ask(tmp_path / "model.onnx", images)
        assert {name: len(values) for name, values in found.items()} == dict.fromkeys(
            ("probas", "age", "age_low", "age_high", "male"), count
        )


# ---- Smaller files


@pytest.fixture
def photos(tmp_path):
    """Ten drawn faces with ages for --photos, and the options that name them."""
    lines = (SAMPLE / "utk" / "test.csv").read_text().splitlines(keepends=True)
    (tmp_path / "photos.csv").write_text("".join(lines[:11]))
    return ["--photos", tmp_path / "photos.csv", "--image_path", SAMPLE / "utk" / "images"]


@pytest.mark.parametrize("option, share, allowed", [("fp16", 0.51, 0.01), ("int8", 0.26, 0.3)])
def test_smaller_files(option, share, allowed, run, photos, tmp_path, capsys):
    """Their size, and that what they are said to cost is what they cost."""
    full, small = tmp_path / "full.onnx", tmp_path / "small.onnx"
    assert call(run, full) == 0
    assert call(run, small, f"--{option}=1", *photos) == 0
    assert full.stat().st_size / 4 * 0.99 < small.stat().st_size < share * full.stat().st_size

    table = pd.read_csv(photos[1])
    model, paths = runs.load(run), [photos[3] / name for name in table["file"]]
    images = np.stack([answers.prepare(Image.open(path), model) for path in paths])
    before, after = ask(full, images), ask(small, images)
    assert {k: v.dtype for k, v in before.items()} == {k: v.dtype for k, v in after.items()}
    assert 0 < np.abs(before["probas"] - after["probas"]).max() < allowed
    assert after["age"].tolist() == [slow_decoding(p, "coral")[0] + 21 for p in after["probas"]]
    off = np.abs(before["age"] - after["age"])
    maes = [np.abs(found["age"] - table["age"].to_numpy() - 21).mean() for found in (before, after)]
    cost = f"of 10 photos, {(off > 0).mean():.1%} of the ages change, all by {off.mean():.3f} years"
    cost += f" on average; MAE {maes[0]:.3f} -> {maes[1]:.3f} years"
    cost += "; 10 of them set the ranges\n" if option == "int8" else "\n"
    out, err = capsys.readouterr()
    assert cost in out and err == ""
    assert "torch for 10 photos and 2 images of noise, probabilities within " in out

    kinds = [node.op_type for node in onnx.load(small).graph.node]
    assert kinds.count("Conv") == 36 and ("QuantizeLinear" in kinds) == (option == "int8")


def test_at_most_some_photos_are_looked_at(run, photos, monkeypatch):
    """They are drawn from all of them, and their ages with them."""
    monkeypatch.setattr(export, "MOST", 4)
    model = runs.load(run)
    images, ages = export.read_photos(model, photos[1], photos[3])
    table = pd.read_csv(photos[1])
    known = {}
    for number, (name, age) in enumerate(zip(table["file"], table["age"] + 21, strict=True)):
        image = answers.prepare(Image.open(photos[3] / name), model)
        known[image.tobytes()] = number, age
    rows, due = zip(*[known[image.tobytes()] for image in images], strict=True)
    assert len(set(rows)) == 4 and set(rows) != {0, 1, 2, 3}
    assert ages.tolist() == list(due)


# ---- Other programs

GRAPHS = "ce", "coral", "corn", "l1", "ordinal"  # those of dldl and sord are ce's but for the age


@pytest.fixture(scope="module", params=GRAPHS)
def exported(request, tmp_path_factory):
    """A loss, and the file of a run with genders and mirrored images, of 64 pixels."""
    folder = tmp_path_factory.mktemp("exported")
    make_run(folder / "run", f"utk-{request.param}.py", 64, gender=1, flip=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "CHECKED", 12)
        assert call(folder / "run", folder / "model.onnx") == 0
    yield request.param, folder / "model.onnx"
    shutil.rmtree(folder)


def test_dynamic_quantization(exported, tmp_path):
    """By ONNX Runtime's own function, as its guide has it; CORAL and CORN consistent as before."""
    from onnxruntime.quantization import quantize_dynamic

    loss, path = exported
    quantize_dynamic(path, tmp_path / "small.onnx")
    images = faces(6, 64).numpy().astype(np.uint8)
    before, after = (ask(each, images) for each in (path, tmp_path / "small.onnx"))
    for name in ("probas", "male"):
        assert before[name].shape == after[name].shape
        assert np.abs(before[name] - after[name]).max() < (1 if loss == "l1" else 0.3)
    if loss == "l1":  # of which a year is a step from 0 to 1: 0.5 years
        assert np.abs(before["probas"].sum(1) - after["probas"].sum(1)).max() < 0.5
    if loss in ("coral", "corn"):
        assert all((np.diff(found["probas"]) <= 0).all() for found in (before, after))
    shutil.rmtree(tmp_path)


def test_opencv(exported):
    """Its module dnn, of version 5 on, gives the answers of ONNX Runtime, of one face or some."""
    cv2 = pytest.importorskip("cv2", minversion="5.0")
    path = exported[1]
    network = cv2.dnn.readNetFromONNX(str(path))
    names = network.getUnconnectedOutLayersNames()
    for count in (1, 5):
        images = faces(count, 64).numpy().astype(np.uint8)
        network.setInput(images)
        found, due = network.forward(list(names)), ask(path, images)
        assert set(names) == set(due)
        for name, values in zip(names, found, strict=True):
            assert values.shape == due[name].shape
            assert np.abs(values - due[name]).max() < (1e-4 if values.dtype == np.float32 else 1)


# ---- Metadata


def metadata(path):
    return {prop.key: prop.value for prop in onnx.load(path).metadata_props}


def test_metadata(run, tmp_path):
    assert call(run, tmp_path / "model.onnx") == 0
    facts = metadata(tmp_path / "model.onnx")
    framing = json.loads(facts.pop("framing"))
    assert facts == {
        "dataset": "utk",
        "loss": "coral",
        "ages": "[21, 60]",
        "size": "64",
        "resize": "68",
        "interval_coverage": "0.8",
        "precision": "float32",
        "note": answers.NOTE,
        "licence": "as the photos, and any weights it was begun from, allow",
        "weights_sha256": hashlib.sha256((run / "model.pt").read_bytes()).hexdigest(),
    }
    assert len(framing["points"]) == 5
    assert framing["photo"] == [
        [0.301, 0.301],
        [0.695, 0.299],
        [0.487, 0.517],
        *framing["photo"][3:],
    ]
    # of 68 pixels two are cut off
    assert framing["input"][0] == [pytest.approx((0.301 * 68 - 2) / 64, abs=1e-4)] * 2


@pytest.mark.parametrize("licence", ["CC0", ""])
def test_licence(licence, run, tmp_path):
    """What run.json says of it."""
    (tmp_path / "model.pt").symlink_to(run / "model.pt")
    facts = json.loads((run / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(facts | {"licence": licence}))
    told = export.describe(runs.load(tmp_path), "float32")["licence"]
    assert told == (licence or "as the photos, and any weights it was begun from, allow")


@pytest.mark.parametrize("dataset", ["afad", "cacd", "morph2", "utk", "faces"])
@pytest.mark.parametrize("size", [64, 120])
def test_framing(dataset, size):
    """A white dot at each of the points of a training photo is where the input has it, and a face
    with these points is framed as the whole photo."""
    script = load(MODEL_CODE / f"{dataset}-coral.py")
    model = SimpleNamespace(script=script, size=size)
    framing = export.framing(model)
    side = script.CENTER_CROP or 200
    corner, across = detect.square(np.array(framing["photo"]) * side, dataset)
    assert abs(corner) < 0.01 * side and abs(across - side) < 0.01 * side
    for photo, place in zip(framing["photo"], framing["input"], strict=True):
        pixels = np.zeros((side, side), np.uint8)
        x, y = np.round(np.array(photo) * side).astype(int)
        pixels[y - 4 : y + 4, x - 4 : x + 4] = 255
        found = answers.prepare(Image.fromarray(pixels), model)[0].astype(float)
        centre = [(np.arange(size) + 0.5) @ found.sum(axis) / found.sum() for axis in (0, 1)]
        assert np.abs(np.array(centre) / size - place).max() < 0.006


# ---- Refusals


def refused(code, message, capsys, folder, *words):
    """One line that holds ``message``, and nothing changed in ``folder``."""
    before = contents(folder)
    assert call(*words) == code
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "error: " in err and message in err, err
    assert contents(folder) == before


def test_an_existing_file(run, tmp_path, capsys):
    """Replaced only on demand, and only by a file that answers as torch does."""
    path = tmp_path / "model.onnx"
    path.write_text("mine")
    refused(2, f"{path}: is there already", capsys, tmp_path, run, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "TOLERANCE", 0)
        words = run, path, "--overwrite"
        refused(1, "off those of torch: nothing written", capsys, tmp_path, *words)
    assert call(run, path, "--overwrite") == 0
    assert len(ask(path, np.zeros((1, 3, 64, 64), np.uint8))["age"]) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_answers_that_differ_are_refused(run, capsys):
    """A single age, end of an interval, or probability."""
    model, images = runs.load(run), faces(12, 64).numpy().astype(np.uint8)
    content = export.build(model).SerializeToString()
    found = export.answers(content, images)
    export.check_answers(found, images, model)
    export.check_decoding(found, model)
    for name in ("age", "age_low", "age_high"):
        wrong = found | {name: found[name] + (np.arange(12) == 11)}
        with pytest.raises(SystemExit):
            export.check_decoding(wrong, model)
        assert f"{name} is not what predict.py makes of" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        export.check_answers(found | {"age": found["age"] + (np.arange(12) == 11)}, images, model)
    assert "ages are not those of torch" in capsys.readouterr().err
    for name in ("probas", "male"):
        values = found[name].copy()
        values[-1] = np.nan
        with pytest.raises(SystemExit):
            export.check_answers(found | {name: values}, images, model)
        assert "nan off those of torch" in capsys.readouterr().err


@pytest.mark.parametrize("loss", ["dldl", "l1"])
def test_means_that_differ_are_refused(loss, tmp_path, capsys):
    """An age that is not the rounded mean of torch's probabilities."""
    make_run(tmp_path / "run", f"utk-{loss}.py", 64)
    model, images = runs.load(tmp_path / "run"), faces(6, 64).numpy().astype(np.uint8)
    found = export.answers(export.build(model).SerializeToString(), images)
    export.check_answers(found, images, model)
    with pytest.raises(SystemExit):
        export.check_answers(found | {"age": found["age"] + (np.arange(6) == 5)}, images, model)
    assert "ages are not those of torch" in capsys.readouterr().err


def test_bad_runs(run, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    weights = (broken / "model.pt").read_bytes()
    (broken / "model.pt").write_bytes(weights[: len(weights) // 2])
    message = f"{broken / 'model.pt'}: not the state dict of a network"
    refused(2, message, capsys, tmp_path, broken, tmp_path / "model.onnx")
    (broken / "model.pt").unlink()
    refused(2, f"{broken}: holds no model.pt", capsys, tmp_path, broken, tmp_path / "model.onnx")
    for folder in (tmp_path, tmp_path / "nowhere"):
        message = f"{folder}: no run.json, or not one of a run"
        refused(2, message, capsys, tmp_path, folder, tmp_path / "model.onnx")


def test_bad_places(run, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    for path, message in {
        tmp_path / "none" / "model.onnx": f"there is no folder {tmp_path / 'none'}",
        tmp_path / "file" / "model.onnx": f"there is no folder {tmp_path / 'file'}",
        tmp_path / "folder": "is a folder; give a file",
    }.items():
        refused(2, f"{path}: {message}", capsys, tmp_path, run, path)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no POSIX users here")
def test_no_permission_to_write(capsys):
    """Said before the network is read, which here could not be."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o555)
        path, superuser = Path(name) / "model.onnx", os.geteuid() == 0
        try:
            if superuser:  # who may write anywhere
                os.seteuid(65534)
            refused(1, f"{path}: Permission denied", capsys, Path(name), "nowhere", path)
        finally:
            if superuser:
                os.seteuid(0)


def test_disk_full(run, tmp_path, capsys):
    """The limit on a file's size stands for a disk: one line, and the old file stays."""
    resource = pytest.importorskip("resource")
    (tmp_path / "model.onnx").write_text("mine")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**7, limits[1]))
    try:
        assert call(run, tmp_path / "model.onnx", "--overwrite") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    due = f"export.py: error: {tmp_path / 'model.onnx'}: File too large\n"
    assert capsys.readouterr().err == due
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    "words, message",
    [
        (["--int8=1"], "--int8 1 needs --photos and --image_path"),
        (["--int8=1", "--fp16=1"], "not allowed with argument"),
        (["--fp16=2"], "invalid choice"),
        (["--photos=photos.csv"], "--photos and --image_path go together"),
        (["--image_path=."], "--photos and --image_path go together"),
        (["--photos=none.csv", "--image_path=."], "none.csv: No such file or directory"),
    ],
)
def test_bad_options(words, message, run, tmp_path, capsys):
    refused(2, message, capsys, tmp_path, run, tmp_path / "model.onnx", *words)


def test_bad_photos(run, photos, tmp_path, capsys):
    """The script's own lines, and nothing is written."""
    lines = photos[1].read_text().splitlines(keepends=True)
    shutil.copytree(photos[3], tmp_path / "images")
    (tmp_path / "images" / lines[3].split(",")[1]).write_text("no image")
    words = [run, tmp_path / "model.onnx", *photos[:3], tmp_path / "images"]
    refused(2, "row 3: ", capsys, tmp_path, *words)
    (tmp_path / "images" / lines[3].split(",")[1]).unlink()
    refused(2, "1 of 10 image files are missing", capsys, tmp_path, *words)


# ---- Without torch

NO_TORCH = """\
import sys

class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "pandas", "onnx"):
            raise ImportError(f"no {name} here")

sys.meta_path.insert(0, Refusal())
"""


def test_snippet_needs_no_torch(run, tmp_path):
    """In a process in which torch, torchvision, pandas and onnx cannot be imported, from a folder
    without this project's files: what predict.py says of the crop."""
    assert call(run, tmp_path / "model.onnx") == 0
    assert len([line for line in SNIPPET.splitlines() if line]) <= 10
    model = runs.load(run)
    program = [sys.executable, "-I", "-c"]
    result = subprocess.run([*program, NO_TORCH + "import torch"], capture_output=True, text=True)
    assert result.returncode == 1 and "ImportError: no torch here" in result.stderr
    ages = set()
    for path in sorted((SAMPLE / "utk" / "images").glob("*.jpg"))[:4]:
        shutil.copy(path, tmp_path / "face.jpg")
        result = subprocess.run(
            [*program, NO_TORCH + SNIPPET], cwd=tmp_path, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        probas, male = answers.infer([answers.prepare(Image.open(path), model)], model, 1)
        row = answers.estimate(probas[0], male[0], model)
        assert result.stdout == f"{row['age']} years ({row['age_low']}-{row['age_high']})\n"
        ages.add(row["age"])
    assert len(ages) > 1


def test_cost_where_an_age_is_not_known():
    """Over the photos whose age is known; none of no such photo."""
    found, small = {"age": np.array([33, 50])}, {"age": np.array([31, 50])}
    text = "50.0% of the ages change, all by 1.000 years on average"
    told = export.cost(found, small, np.array([30, np.nan]))
    assert told == text + "; MAE 3.000 -> 1.000 years"
    assert export.cost(found, small, np.array([np.nan, np.nan])) == text
