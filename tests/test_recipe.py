"""--recipe: its table is all that it changes, and what it adds is what the table says."""

import json
import math
import re
from types import SimpleNamespace

import benchmark
import numpy as np
import pytest
import torch
from conftest import ROOT, SCRIPTS, first_rows, load
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import affine

CPU = torch.device("cpu")
SCRIPT = ROOT / "model-code" / "afad-coral.py"
PAPER = {  # SPEC: Adam at 0.0005, 200 epochs, batches of 256, crops of 120, nothing else
    "epochs": 200,
    "batch_size": 256,
    "image_size": 120,
    "lr": 0.0005,
    "onecycle": 0,
    "weight_decay": 0.0,
    "balance": 0,
    "prior_bias": 0,
    "flip": 0,
    "shifts": 0,
    "augment": 0,
    "mixup": 0.0,
    "bias_lr": 1.0,
    "gender_weight": 1.0,
    "fused": 0,
    "average": 0.0,
    "channels_last": 0,
}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_the_papers_column(script):
    module = load(script)
    assert {name: module.RECIPES[name][0] for name in PAPER} == PAPER
    args = vars(module.parse_settings(["--outpath=run"]))
    assert {name: args[name] for name in PAPER} == PAPER


def test_the_long_column():
    """It is the setting of the stored runs of 45 minutes."""
    [run, *_] = sorted((ROOT / "model-code" / "results" / "45-minutes-zen5").iterdir())
    stored = json.loads((run / "run.json").read_text())["settings"]
    stored = {"mixup": 0.0, "balance": 0} | stored  # rows since then
    column = {name: row[2] for name, row in load(SCRIPT).RECIPES.items()}
    assert column == {name: stored[name] for name in column}


def tiny_run(out, *options, module=None):
    """run.json's settings, and the weights, of a run on a few drawn faces."""
    tiny = ["--seed=1", "--epochs=2", "--batch_size=4", "--image_size=40"]
    tiny += first_rows("afad", out.parent, train=9, test=5)
    (module or load(SCRIPT)).main([f"--outpath={out}", *tiny, *options])
    return json.loads((out / "run.json").read_text())["settings"], (out / "model.pt").read_bytes()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """tiny_run() without any option."""
    return tiny_run(tmp_path_factory.mktemp("plain") / "paper")


def test_the_tables_rows_are_all_that_changes(plain, tmp_path):
    """By run.json of both; what the command line gives wins in both."""
    paper, _ = plain
    fast, weights = tiny_run(tmp_path / "fast", "--recipe=fast")
    given = {"epochs": 2, "batch_size": 4, "image_size": 40}
    table = {name: load(SCRIPT).RECIPES[name][1] for name in PAPER}
    assert {key: value for key, value in paper.items() if fast[key] != value} == {
        "recipe": "paper",
        **{name: paper[name] for name in ("outpath", "train_csv", "test_csv")},
        **{name: PAPER[name] for name in PAPER if name not in given and table[name] != PAPER[name]},
    }
    assert {name: fast[name] for name in table} == table | given
    # flags, row by row, are the recipe, and the same seed gives the same weights
    flags = [f"--set={name}={value}" for name, value in table.items() if name not in given]
    assert tiny_run(tmp_path / "flags", *flags)[1] == weights


def test_the_benchmarks_steps(tmp_path, monkeypatch):
    """Two batches each, of the images that there are again and again, in float32 and bfloat16."""
    module, words, seen = load(SCRIPT), first_rows("afad", tmp_path, train=5, test=1), []
    monkeypatch.setattr(benchmark, "ROUNDS", 1)

    def train_rate(module, *given):
        seen.append((module.Conv3x3.forward is torch.nn.Conv2d.forward, *given))
        return 7.0

    monkeypatch.setattr(benchmark, "train_rate", train_rate)
    rates = benchmark.fast_step_rates(module, [*words, "--seed=1"], tmp_path)
    assert list(rates.values()) == [[7.0]] * 6
    kinds = [(args.batch_size, args.amp) for _, _, _, args, _ in seen]
    assert kinds == [(64, 0), (64, 1), (64, 1), (128, 0), (128, 1), (128, 1)]
    assert [convolutions for convolutions, *_ in seen] == [False, True, False] * 2
    for _, _, split, args, _ in seen:
        count = 2 * args.batch_size
        assert len(split.files) == len(split.labels) == len(split.genders) == count
        assert split.pixels.shape == (count, 3, 68, 68)
        assert (split.pixels[5:] == split.pixels[:-5]).all()


def test_the_benchmark_of_predictions(tmp_path, monkeypatch, capsys):
    """The shares of what it clocks, of a crop and of two frames."""
    for name in ("av", "onnxruntime", "skimage.data"):
        pytest.importorskip(name)
    media = load(ROOT / "model-code" / "predict.py").media
    for name in ("read_image", "read_video"):  # what it clocks becomes itself again
        monkeypatch.setattr(media, name, getattr(media, name))
    monkeypatch.setattr(benchmark, "ROUNDS", 1)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (200, 200)).save(tmp_path / "images" / "a.jpg")
    benchmark.prediction(tmp_path, frames=2)
    told = re.split("^predict.py, ", capsys.readouterr().out, flags=re.M)[1:]
    parts = [set(re.findall(r"^    (\S.*\S) +[0-9.]+% of the time$", part, re.M)) for part in told]
    of_both = {"decode", "detect", "cut and resize", "network"}
    assert parts == [of_both, of_both | {"mark", "encode"}]


@pytest.mark.parametrize("loss", ["ce", "coral", "ordinal"])
def test_answers_for_image_and_mirror_image(loss):
    """With flip the means of two answers; without it those for the image."""
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
        found = module.predict_batch(model, module.to_device(images.numpy(), CPU), flip)
        for part, (straight, mirrored) in zip(found, zip(*expected, strict=True), strict=True):
            assert torch.allclose(part, (straight + mirrored) / 2 if flip else straight, atol=1e-6)
            assert not torch.allclose(straight, mirrored, atol=1e-6)


@pytest.mark.parametrize("flip", [0, 1])
def test_answers_for_moved_images(flip):
    """With shifts the mean of four answers, of images moved by a pixel towards each corner with
    the edge repeated, as numpy pads; flip mirrors the second and third."""
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
    found = module.predict_batch(model, module.to_device(images, CPU, 1), flip, 1)
    for part, four in zip(found, zip(*expected, strict=True), strict=True):
        assert torch.allclose(part, torch.stack(four).mean(0), atol=1e-6)
        assert not torch.allclose(four[0], four[3], atol=1e-6)


def test_training_images_are_answered_for_as_they_are(tmp_path):
    """Not moved by shifts, as the reference evaluates them."""
    module, seen = load(SCRIPT), []
    predict_batch = module.predict_batch
    module.predict_batch = lambda *given: seen.append(given[3]) or predict_batch(*given)
    tiny_run(tmp_path / "run", "--set=shifts=1", module=module)
    assert seen == [0, 0, 0, 1, 1]  # three batches of 9 training images, two of 5 test images


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize(
    "changed", [(), ("turn",), ("scale",), ("turn", "scale"), ("right",), ("right", "down")]
)
def test_augment_rotates_scales_and_moves(changed, level):
    """As torchvision's affine does, away from the border, beyond which edge pixels are repeated;
    at level 2 twice as much."""
    image = torch.rand(1, 3, 50, 50, generator=torch.Generator().manual_seed(0))
    turn, scale, right, down = (word in changed for word in ("turn", "scale", "right", "down"))
    draws = torch.zeros(1, 21)
    draws[0, :4] = torch.tensor([turn, -0.5 * scale, right, -0.5 * down])
    found = load(SCRIPT).augment(image, draws, level)
    move = [-1.5 * level * right, 0.75 * level * down]  # pixels; 3 % of 50 are 1.5
    how = {"shear": [0, 0], "interpolation": InterpolationMode.BILINEAR}
    expected = affine(image, -10.0 * level * turn, move, math.exp(0.06 * level * scale), **how)
    inner = (..., slice(12, 38), slice(12, 38))
    assert torch.allclose(found[inner], expected[inner], atol=1e-5)
    assert found.min() >= image.min()  # no zeros from beyond the border


def test_augment_recolours():
    """Contrast, brightness and each colour by the slow formula; clipped to [0, 1]."""
    module = load(SCRIPT)
    images = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    draws = torch.zeros(2, 9)
    draws[1, 4:] = torch.tensor([1.0, 0.4, -1.0, 0.0, 0.5])
    found = module.augment(images, draws, 1)
    assert torch.allclose(found[0], images[0], atol=1e-6)
    mean = images[1].numpy().mean()
    for colour, factor in enumerate((0.93, 1.0, 1.035)):
        pixels = images[1, colour].numpy()
        expected = np.clip(((pixels - mean) * 1.3 + mean * 1.1) * factor, 0, 1)
        assert np.allclose(found[1, colour], expected, atol=1e-6)
    assert (found[1] == 1).any() and (found[1] < 1).any()


def test_degrade():
    """Each change by itself, by slow formulas."""
    module, size = load(SCRIPT), 12
    images = torch.rand(7, 3, size, size, generator=torch.Generator().manual_seed(0))
    draws = torch.zeros(7, 12)
    draws[1, 0], draws[1, 1] = 0.5, -1.0  # light
    draws[2, 2] = 0.71  # grey
    draws[3, 3], draws[4, 3] = -0.5, 0.75  # blurred, sharpened
    draws[5, 4] = 0.49  # not hidden
    # hidden, in red and grey: the centre on a third from the left and the upper border
    draws[6, 4:] = torch.tensor([0.51, -1 / 3, -1 / 3, 1.0, 0.0, 1.0, -1.0, 0.0])
    found = module.degrade(images, draws).double().numpy()
    pixels = images.double().numpy()

    assert np.allclose(found[[0, 5]], pixels[[0, 5]])
    x = np.linspace(-1, 1, size)
    light = 1 + 0.4 * (0.5 * x[None, :] - x[:, None])
    assert np.allclose(found[1], np.clip(pixels[1] * light, 0, 1), atol=1e-6)
    assert np.allclose(found[2], pixels[2].mean(0, keepdims=True), atol=1e-6)
    for row, share in ((3, 0.5), (4, 1.75)):
        expected = np.empty((3, size, size))
        for y, x_ in np.ndindex(size, size):
            around = pixels[row][:, max(y - 2, 0) : y + 3, max(x_ - 2, 0) : x_ + 3].mean((1, 2))
            expected[:, y, x_] = around + share * (pixels[row][:, y, x_] - around)
        assert np.allclose(found[row], np.clip(expected, 0, 1), atol=1e-6)
    covered = pixels[6].copy()
    wide, high = np.abs(x + 1 / 3) < 1 / 2, np.abs(x + 1 / 3) < 1 / 3
    covered[:, np.ix_(high, wide)[0], np.ix_(high, wide)[1]] = np.array([1, 0, 0.5])[:, None, None]
    assert np.allclose(found[6], covered, atol=1e-6)
    assert 0 < high.sum() < wide.sum() < size


def test_shares_of_degrade():
    """Of 20,000 images: 15 % grey, a quarter hidden."""
    module = load(SCRIPT)
    draws = np.random.default_rng(0).uniform(-1, 1, (20_000, 12))
    stripes = torch.zeros(1, 3, 6, 6)
    stripes[:, 0, :, ::2] = 0.5
    draws[:, [0, 1, 3]] = 0
    found = module.degrade(stripes.repeat(len(draws), 1, 1, 1), torch.tensor(draws).float())
    corner = found[:, :, 0, 0]  # may be covered
    plain = torch.isclose(corner, torch.tensor([0.5, 0.0, 0.0])).all(1).double().mean().item()
    hidden = (draws[:, 4] > 0.5) & (np.abs(-1 - draws[:, 5]) < (2 + draws[:, 7]) / 6)
    hidden &= np.abs(-1 - draws[:, 6]) < (2 + draws[:, 8]) / 6
    expected = (1 - hidden.mean()) * 0.85
    assert plain == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(("level", "columns"), [(1, 9), (2, 21)])
def test_augment_in_training(level, columns, plain, tmp_path):
    """Draws from the seed and the number of the step, so that a resumed run has the same."""
    module, seen = load(SCRIPT), []
    augment = module.augment
    module.augment = lambda *given: seen.append(given) or augment(*given)
    _, weights = tiny_run(tmp_path / "run", f"--augment={level}", module=module)
    for step, ((_, draws, used), rows) in enumerate(zip(seen, (4, 4, 1) * 2, strict=True)):
        expected = np.random.default_rng((1, step)).random((rows, columns)) * 2 - 1
        assert used == level and np.allclose(draws, expected, atol=1e-6)
    assert weights != plain[1]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [2, 3, 4, 5, 6, 7])
def test_small_maps(side, stride, monkeypatch):
    """As torch's convolution, with its gradients, where a matrix product stands for it; that is in
    training in bfloat16 (here in double precision instead, to tell errors from rounding),
    channels-last, on maps of at most 2x2."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device == "cpu")
    conv = load(SCRIPT).Conv3x3(4, 6, stride).double()
    images = torch.rand(3, 4, side, side, dtype=torch.float64)
    factors = torch.rand(3, 6, -(-side // stride), -(-side // stride), dtype=torch.float64)
    plain = torch.nn.Conv2d(4, 6, 3, stride, padding=1, bias=False).double()
    plain.load_state_dict(conv.state_dict())

    found = []
    for layer in (plain, conv):
        layer.zero_grad()
        inputs = images.clone(memory_format=torch.channels_last).requires_grad_()
        outputs = layer(inputs)
        (outputs * factors).sum().backward()
        found.append((outputs, inputs.grad, layer.weight.grad))
        name = type(outputs.grad_fn).__name__
        assert name.startswith("Convolution") == (layer is plain or len(outputs[0, 0]) > 2)
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)
    assert found[1][0].is_contiguous(memory_format=torch.channels_last)

    assert type(conv(images).grad_fn).__name__.startswith("Convolution")
    monkeypatch.undo()
    assert type(conv(inputs).grad_fn).__name__.startswith("Convolution")
    conv.eval()
    assert type(conv(inputs).grad_fn).__name__.startswith("Convolution")


@pytest.mark.parametrize("onecycle", [0, 1])
def test_the_biases_rate(onecycle):
    """Adam's first step moves each weight by its rate, whatever the gradient; CORAL's biases by
    seven times that. Without a rate of their own, as in the other losses, all is one group."""
    coral = load(SCRIPT)
    args = SimpleNamespace(lr=0.002, bias_lr=7.0, weight_decay=0.0, fused=0, onecycle=onecycle)
    model = coral.ResNet34(gender=1)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = coral.build_optimizer(model, args)
    schedule = coral.build_schedule(optimizer, args, 50)
    for weight in model.parameters():
        weight.grad = torch.full_like(weight, -0.1)
    optimizer.step()
    for name, weight in model.named_parameters():
        rate = 0.002 / (25 if onecycle else 1) * (7 if name == "linear_1_bias" else 1)
        assert torch.allclose(weight - before[name], torch.tensor(rate), rtol=1e-2), name
    for _ in range(49):
        schedule.step()
        rate, biases_rate = (group["lr"] for group in optimizer.param_groups)
        assert biases_rate == pytest.approx(7 * rate)

    args.bias_lr = 1.0
    for module in (coral, load(SCRIPT.with_name("afad-ordinal.py"))):
        model = module.ResNet34()
        [group] = module.build_optimizer(model, args).param_groups
        assert [id(each) for each in group["params"]] == [id(each) for each in model.parameters()]
        args.bias_lr = 7.0


@pytest.mark.parametrize("mine", [slice(0, 5), slice(1, 4), slice(4, 5), slice(5, 5)])
def test_mixup(mine):
    """Image i of a part of a batch is lam of itself and the rest of the one as far from the part's
    other end. lam is drawn for the whole batch, after the draws of --augment."""
    module, changed = load(SCRIPT), []
    part = mine if mine.start < mine.stop else slice(0, 1)  # who has no image computes one
    images = torch.rand(5, 3, 36, 36, generator=torch.Generator().manual_seed(0))[part]
    for mixup in (0, 0.4):
        args = SimpleNamespace(seed=5, augment=2, mixup=mixup)
        changed.append(SimpleNamespace(images=images, computed=part, count=5, lam=None))
        module.augment_batch(changed[-1], args, 7)
    plain, none, batch = changed[0].images, changed[0].lam, changed[1]
    found, lam = batch.images, batch.lam
    rng = np.random.default_rng((5, 7))
    draws = torch.tensor(rng.uniform(-1, 1, (5, 21))[part]).float()
    assert none is None and torch.equal(plain, module.augment(images, draws, 2))
    expected = rng.beta(0.4, 0.4, 5)[part]
    assert lam.tolist() == pytest.approx(expected)
    for i, share in enumerate(expected):
        mixture = share * plain[i] + (1 - share) * plain[len(plain) - 1 - i]
        assert torch.allclose(found[i], mixture.float(), atol=1e-6)

    # and so is the cost, of age and, where it is known, of gender
    torch.manual_seed(0)
    model, imp = module.ResNet34(gender=1).eval(), torch.ones(1)
    labels, genders = [3, 0, 25, 11, 7], [1.0, math.nan, 0.0, 0.0, 1.0]
    batch.labels, batch.genders = torch.tensor(labels)[mine], torch.tensor(genders)[mine]
    batch.known_genders, args = 4, SimpleNamespace(amp=0, gender=1, gender_weight=3.0)
    cost = module.batch_cost(model, batch, imp, args)
    logits, male = (answers.detach() for answers in model(found))
    ages, males, last = 0, 0, part.stop - 1
    for i, share in enumerate(expected):
        for row, weight in ((part.start + i, share), (last - i, 1 - share)):
            label = torch.tensor([labels[row]])
            ages += weight * module.cost_fn(logits[i : i + 1], label, imp).item()
            if not math.isnan(genders[row]):
                p_male = 1 / (1 + math.exp(-male[i].item()))
                males -= weight * math.log(p_male if genders[row] else 1 - p_male)
    due = ages / 5 + 3 * males / 4 if mine == part else 0
    assert cost.requires_grad and cost.item() == pytest.approx(due, rel=1e-5)


def test_mixup_in_training(plain, tmp_path):
    """lam from the seed and the number of the step."""
    module, seen = load(SCRIPT), []
    batch_cost = module.batch_cost
    module.batch_cost = lambda *given: seen.append(given[1].lam) or batch_cost(*given)
    _, weights = tiny_run(tmp_path / "run", "--set=mixup=0.4", module=module)
    for step, (shares, rows) in enumerate(zip(seen, (4, 4, 1) * 2, strict=True)):
        expected = np.random.default_rng((1, step)).beta(0.4, 0.4, rows)
        assert shares.tolist() == pytest.approx(expected)
    assert weights != plain[1]


@pytest.mark.parametrize("weight", [0.0, 1.0, 7.5])
def test_cost_of_age_and_gender(weight):
    """The mean age cost over all images, and --gender_weight times the mean of -log P(the gender)
    over those whose gender is known."""
    module = load(SCRIPT)
    torch.manual_seed(0)
    model = module.ResNet34(gender=1).eval()
    images, labels = torch.rand(4, 3, 40, 40), torch.tensor([3, 0, 25, 11])
    genders = torch.tensor([1.0, math.nan, 0.0, 0.0])
    args, imp = SimpleNamespace(amp=0, gender=1, gender_weight=weight), torch.ones(1)

    def cost_of(mine, part):
        batch = SimpleNamespace(images=images[part], labels=labels[mine], genders=genders[mine])
        batch.count, batch.known_genders, batch.lam = 4, 3, None
        return module.batch_cost(model, batch, imp, args)

    cost = cost_of(slice(0, 4), slice(0, 4))
    logits, male = (part.detach().double() for part in model(images))
    age = module.cost_fn(logits, labels, imp).mean().item()
    p_male = [1 / (1 + math.exp(-x)) for x in male.tolist()]
    parts = [math.log(p_male[0]), math.log(1 - p_male[2]), math.log(1 - p_male[3])]
    assert cost.item() == pytest.approx(age - weight * sum(parts) / 3, rel=1e-5)

    # a loss that gives their mean, not a cost for each image, is refused
    cost_fn, module.cost_fn = module.cost_fn, lambda *given: cost_fn(*given).mean()
    with pytest.raises(SystemExit):
        cost_of(slice(0, 4), slice(0, 4))
    module.cost_fn = cost_fn

    # it is the sum of what processes have of it, one of which has no image of the batch
    parts = (slice(0, 3), slice(0, 3)), (slice(3, 4), slice(3, 4)), (slice(4, 4), slice(0, 1))
    costs = [cost_of(mine, part) for mine, part in parts]
    assert costs[2] == 0 and costs[2].requires_grad
    assert sum(costs).item() == pytest.approx(cost.item(), rel=1e-5)


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
