"""--recipe fast: its table is all that it changes, and what it adds is what the table says."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, SCRIPTS, load
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import affine

SCRIPT = ROOT / "model-code" / "afad-coral.py"
PAPER = {  # SPEC: Adam at 0.0005, 200 epochs, batches of 256, crops of 120, nothing else
    "epochs": 200,
    "batch_size": 256,
    "image_size": 120,
    "lr": 0.0005,
    "onecycle": 0,
    "weight_decay": 0.0,
    "prior_bias": 0,
    "flip": 0,
    "shifts": 0,
    "augment": 0,
    "fused": 0,
    "average": 0.0,
    "channels_last": 0,
}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_the_papers_column(script):
    module = load(script)
    assert {name: module.SETTINGS[name][0] for name in PAPER} == PAPER
    args = vars(module.parse_settings(["--outpath=run"]))
    assert {name: args[name] for name in PAPER} == PAPER


def tiny_run(out, *options, module=None):
    """run.json's settings, and the weights, of a run on a few drawn faces."""
    sample = ROOT / "datasets" / "sample" / "afad"
    for name, rows in (("train", 9), ("test", 5)):
        lines = (sample / f"{name}.csv").read_text().splitlines(keepends=True)
        (out.parent / f"{name}.csv").write_text("".join(lines[: rows + 1]))
    csvs = [f"--{name}_csv={out.parent / name}.csv" for name in ("train", "test")]
    tiny = ["--seed=1", "--epochs=2", "--batch_size=4", "--image_size=40"]
    (module or load(SCRIPT)).main([f"--outpath={out}", *csvs, *tiny, *options])
    return json.loads((out / "run.json").read_text())["settings"], (out / "model.pt").read_bytes()


def test_the_tables_rows_are_all_that_changes(tmp_path):
    """By run.json of both; what the command line gives wins in both."""
    paper, _ = tiny_run(tmp_path / "paper")
    fast, weights = tiny_run(tmp_path / "fast", "--recipe=fast")
    given = {"epochs": 2, "batch_size": 4, "image_size": 40}
    table = {name: load(SCRIPT).SETTINGS[name][1] for name in PAPER}
    assert {key: value for key, value in paper.items() if fast[key] != value} == {
        "recipe": "paper",
        "outpath": str(tmp_path / "paper"),
        **{name: PAPER[name] for name in PAPER if name not in given and table[name] != PAPER[name]},
    }
    assert {name: fast[name] for name in table} == table | given
    # flags, row by row, are the recipe
    flags = [f"--{name}={value}" for name, value in table.items() if name not in given]
    assert tiny_run(tmp_path / "flags", *flags)[1] == weights
    # and the same seed gives the same weights
    assert tiny_run(tmp_path / "again", "--recipe=fast")[1] == weights


@pytest.mark.parametrize("loss", ["ce", "coral", "ordinal"])
def test_answers_for_image_and_mirror_image(loss):
    """With --flip 1 the means of two answers; without it those for the image."""
    module = load(ROOT / "model-code" / f"afad-{loss}.py")
    torch.manual_seed(0)
    model = module.ResNet34(gender=1).eval()
    images = torch.randint(0, 256, (3, 3, 40, 40), dtype=torch.uint8)
    expected = []
    for batch in (images, torch.flip(images, [-1])):
        with torch.no_grad():
            logits, gender = model(batch / torch.tensor(255.0))
        expected.append((module.compute_probas(logits), torch.sigmoid(gender)))
    for flip in (0, 1):
        args = SimpleNamespace(flip=flip, shifts=0, amp=0, channels_last=0)
        found = module.predict_batch(model, images.numpy(), torch.device("cpu"), args)
        for part, (straight, mirrored) in zip(found, zip(*expected, strict=True), strict=True):
            assert torch.allclose(part, (straight + mirrored) / 2 if flip else straight, atol=1e-6)
            assert not torch.allclose(straight, mirrored, atol=1e-6)


@pytest.mark.parametrize("flip", [0, 1])
def test_answers_for_moved_images(flip):
    """With --shifts 1 the mean of four answers, of images moved by a pixel towards each corner with
    the edge repeated, as numpy pads; --flip 1 mirrors the second and third. Training images
    are answered for as without."""
    module = load(SCRIPT)
    torch.manual_seed(0)
    model = module.ResNet34(gender=1).eval()
    images = torch.randint(0, 256, (3, 3, 40, 40), dtype=torch.uint8).numpy()
    padded, expected = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), "edge"), []
    for number, (down, right) in enumerate(((0, 0), (0, 2), (2, 0), (2, 2))):
        moved = padded[:, :, down : down + 40, right : right + 40]
        moved = moved[..., ::-1] if flip and number in (1, 2) else moved
        with torch.no_grad():
            logits, gender = model(torch.from_numpy(moved / np.float32(255)))
        expected.append((torch.sigmoid(logits), torch.sigmoid(gender)))
    args = SimpleNamespace(flip=flip, shifts=1, amp=0, channels_last=1)
    found = module.predict_batch(model, images, torch.device("cpu"), args)
    for part, four in zip(found, zip(*expected, strict=True), strict=True):
        assert torch.allclose(part, torch.stack(four).mean(0), atol=1e-6)
        assert not torch.allclose(four[0], four[3], atol=1e-6)

    plain = SimpleNamespace(flip=flip, shifts=0, amp=0, channels_last=1)
    as_training = module.predict_batch(model, images, torch.device("cpu"), args, training=True)
    without = module.predict_batch(model, images, torch.device("cpu"), plain)
    assert all(torch.equal(*pair) for pair in zip(as_training, without, strict=True))


@pytest.mark.parametrize(
    "changed", [(), ("turn",), ("scale",), ("turn", "scale"), ("right",), ("right", "down")]
)
def test_augment_turns_scales_and_moves(changed):
    """As torchvision's affine does, away from the border, beyond which edge pixels are repeated."""
    image = torch.rand(1, 3, 50, 50, generator=torch.Generator().manual_seed(0))
    turn, scale, right, down = (word in changed for word in ("turn", "scale", "right", "down"))
    draws = torch.zeros(1, 9)
    draws[0, :4] = torch.tensor([turn, -0.5 * scale, right, -0.5 * down])
    found = load(SCRIPT).augment(image, draws)
    move = [-1.5 * right, 0.75 * down]  # pixels; 3 % of 50 are 1.5
    how = {"shear": [0, 0], "interpolation": InterpolationMode.BILINEAR}
    expected = affine(image, -10.0 * turn, move, math.exp(0.06 * scale), **how)
    inner = (..., slice(8, 42), slice(8, 42))
    assert torch.allclose(found[inner], expected[inner], atol=1e-5)
    assert found.min() >= image.min()  # no zeros from beyond the border


def test_augment_recolours():
    """Contrast, brightness and each colour by the slow formula; clipped to [0, 1]."""
    module = load(SCRIPT)
    images = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    draws = torch.zeros(2, 9)
    draws[1, 4:] = torch.tensor([1.0, 0.4, -1.0, 0.0, 0.5])
    found = module.augment(images, draws)
    assert torch.allclose(found[0], images[0], atol=1e-6)
    mean = images[1].numpy().mean()
    for colour, factor in enumerate((0.93, 1.0, 1.035)):
        pixels = images[1, colour].numpy()
        expected = np.clip(((pixels - mean) * 1.3 + mean * 1.1) * factor, 0, 1)
        assert np.allclose(found[1, colour], expected, atol=1e-6)
    assert (found[1] == 1).any() and (found[1] < 1).any()


def test_augment_in_training(tmp_path):
    """Draws from the seed and the number of the step, so that a resumed run has the same."""
    module, seen = load(SCRIPT), []
    augment = module.augment
    module.augment = lambda images, draws: seen.append(draws) or augment(images, draws)
    _, weights = tiny_run(tmp_path / "run", "--augment=1", module=module)
    for step, (draws, rows) in enumerate(zip(seen, (4, 4, 1) * 2, strict=True)):
        expected = np.random.default_rng((1, step)).random((rows, 9)) * 2 - 1
        assert np.allclose(draws, expected, atol=1e-6)
    assert tiny_run(tmp_path / "without")[1] != weights


def test_bfloat16(tmp_path):
    """--amp 1 computes the network in bfloat16 (8 bits of mantissa), output layers, cost and
    weights in float32, and evaluates in float32, so that the figures of a run don't depend on it;
    the same seed gives the same weights."""
    module, seen = load(SCRIPT), []
    cost_fn = module.cost_fn

    def watched(logits, *args):
        costs = cost_fn(logits, *args)
        seen.append((logits.dtype, costs.dtype, costs.mean().item()))
        return costs

    module.cost_fn = watched
    _, weights = tiny_run(tmp_path / "amp", "--amp=1", "--gender=1", module=module)
    _, same = tiny_run(tmp_path / "again", "--amp=1", "--gender=1", module=module)
    assert weights == same
    count = len(seen) // 2
    _, plain = tiny_run(tmp_path / "plain", "--gender=1", module=module)
    assert weights != plain
    assert all(row[:2] == (torch.float32, torch.float32) for row in seen)
    first, first_plain = seen[0][2], seen[2 * count][2]
    assert first != first_plain and first == pytest.approx(first_plain, rel=0.02)

    state = torch.load(tmp_path / "amp" / "model.pt", weights_only=True)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32, torch.int64}
    model = module.ResNet34(gender=1)
    model.load_state_dict(state)
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 40, 40), dtype=np.uint8)
    answers = []
    for amp in (0, 1):
        args = SimpleNamespace(flip=1, shifts=0, amp=amp, channels_last=0)
        answers.append(module.predict_batch(model.eval(), images, torch.device("cpu"), args))
    assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))
