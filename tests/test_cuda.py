"""What runs on a GPU gives what runs on the CPU: for the first time that one is at hand.

    python -m pytest tests/test_cuda.py -n 0 -m ""                          on cuda:0
    CORAL_TEST_DEVICE=cpu python -m pytest tests/test_cuda.py -n 0 -m ""    the CPU in its place

Without a CUDA device all but one of the tests are skipped. With CORAL_TEST_DEVICE=cpu they run on
the CPU, which shows that they are right but for the device; skipped is then what no CPU has.
"""

import csv
import json
import math
import os
import re
import shlex
import warnings
from types import SimpleNamespace

import golden
import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import ROOT, load, run
from test_golden import FEW, Enough, draw_with_avx2, load_setting, stop
from test_golden import pytestmark as draws_the_published_weights
from test_resume import FAST
from test_scripts import tiny_options
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ON_CPU = os.environ.get("CORAL_TEST_DEVICE") == "cpu"
DEVICE = torch.device("cpu") if ON_CPU else torch.device("cuda", 0)
CUDA = "--cuda=-1" if ON_CPU else "--cuda=0"
SCRIPT = ROOT / "model-code" / "utk-coral.py"
# so that results depend on neither chance nor rounding to TF32, in the processes that tests start
EXACT = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "NVIDIA_TF32_OVERRIDE": "0"}

on_device = pytest.mark.skipif(
    not ON_CPU and not torch.cuda.is_available(),
    reason="no CUDA device; with CORAL_TEST_DEVICE=cpu the CPU takes its place",
)


def cuda_only(reason):
    """Marks a test of what the CPU does not have."""
    reason = reason if ON_CPU else "no CUDA device"
    return pytest.mark.skipif(ON_CPU or not torch.cuda.is_available(), reason=reason)


@pytest.fixture(params=[False])
def tf32(request):
    """Whether convolutions in float32 may round their input to TF32, 10 bits of mantissa."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = request.param
    yield request.param
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Options for a tiny run: three batches an epoch, two epochs."""
    tiny = tiny_options(SCRIPT, tmp_path_factory.mktemp("data"))
    return [*tiny, "--seed=1", "--image_size=64", "--log_every=1", CUDA]


def costs(out):
    """The costs in the log."""
    log = (out / "training.log").read_text()
    return [float(cost) for cost in re.findall(r"Cost: (.+)", log)]


# Numbers of the code published with the paper


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """For each data set the options that point a script at the golden images."""
    folder = tmp_path_factory.mktemp("golden")
    return {dataset: golden.write_images(dataset, folder / dataset) for dataset in golden.FORMS}


@on_device
@draws_the_published_weights
@pytest.mark.parametrize("setting", FEW)
def test_first_epoch(setting, images, tmp_path):
    """The costs in double precision; the evaluation is left out."""
    module, arguments = load_setting(setting, images)
    draw_with_avx2(module, tmp_path / "weights.pt")
    module.evaluate = stop
    with golden.in_double(module) as found, pytest.raises(Enough):
        module.main([*arguments, CUDA, "--epochs=1", f"--outpath={tmp_path / 'run'}"])
    expected = golden.FIGURES64[setting]["cost_per_step"]
    assert found == pytest.approx(expected[:4], rel=1e-6, abs=0)


@on_device
@draws_the_published_weights
@pytest.mark.slow
@pytest.mark.parametrize("setting", golden.FIGURES64)
def test_two_epochs(setting, images, tmp_path):
    """All costs, and the final MAE and RMSE, in double precision."""
    module, arguments = load_setting(setting, images)
    draw_with_avx2(module, tmp_path / "weights.pt")
    final = dict(golden.FIGURES64[setting])
    expected = final.pop("cost_per_step")
    with golden.in_double(module) as found:
        module.main([*arguments, CUDA, "--epochs=2", f"--outpath={tmp_path / 'run'}"])
    assert found == pytest.approx(expected, rel=1e-6, abs=0)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["metrics"] == pytest.approx(final, rel=1e-6)
    assert facts["device"] == str(DEVICE)


@on_device
@draws_the_published_weights
@pytest.mark.parametrize("tf32", [False, True], indirect=True, ids=["float32", "TF32"])
@pytest.mark.parametrize("setting", FEW)
def test_first_cost(setting, images, tf32, tmp_path):
    """In single precision; torch lets CUDA's convolutions use TF32 unless told otherwise."""
    module, arguments = load_setting(setting, images)
    draw_with_avx2(module, tmp_path / "weights.pt")
    cost_fn, expected = module.cost_fn, golden.FIGURES[setting]["first_cost"]

    def first_cost(*args):
        found = cost_fn(*args).mean()
        assert (found.device, found.dtype) == (DEVICE, torch.float32)
        assert found.item() == pytest.approx(expected, rel=5e-3 if tf32 else 1e-4)
        stop()

    module.cost_fn = first_cost
    with pytest.raises(Enough):
        module.main([*arguments, CUDA, f"--outpath={tmp_path / 'run'}"])


# Batches


@on_device
@pytest.mark.parametrize("channels_last", [0, 1])
def test_to_device(channels_last):
    """Bit for bit what the CPU makes of a batch, also where the batch is overwritten as soon as it
    is handed over, and where many are on their way while the device computes."""
    module = load(SCRIPT)
    rng, expected, found = np.random.default_rng(0), [], []
    busy = torch.rand(1000, 1000, device=DEVICE)
    for _ in range(40):
        images = rng.integers(0, 256, (16, 3, 40, 40), dtype=np.uint8)
        expected.append(module.to_device(images.copy(), torch.device("cpu"), channels_last))
        for _ in range(3):
            busy = busy @ busy / 500
        found.append(module.to_device(images, DEVICE, channels_last))
        images[:] = 0
    assert len(torch.cat(expected).unique()) == 256  # all values that a pixel may have
    for ours, cpus in zip(found, expected, strict=True):
        assert ours.device == DEVICE and ours.stride() == cpus.stride()
        assert torch.equal(ours.cpu(), cpus)


@on_device
def test_an_epochs_batches(words, tmp_path):
    """Order, crops and mirror images come from the seed alone."""
    module, passes = load(SCRIPT), []
    args = module.parse_settings([*words, f"--outpath={tmp_path}", "--set=flip=1"])
    split = module.read_split(args.train_csv, args)
    module.load_pixels({"train": split}, args)
    for device in (torch.device("cpu"), DEVICE):
        torch.manual_seed(3)
        passes.append(
            [
                (batch.rows.tolist(), batch.images.cpu(), batch.labels.cpu())
                for batch in module.batches(split, args, device, True)
            ]
        )
    assert len(passes[0]) == 3
    for (rows, *expected), (our_rows, *ours) in zip(*passes, strict=True):
        assert rows == our_rows and all(map(torch.equal, expected, ours))


@on_device
def test_augment_batch():
    """--augment 2 and mixup: what the CPU makes of the same images, but for rounding, which
    may move the border of a rectangle by a pixel."""
    module, made = load(SCRIPT), []
    args = SimpleNamespace(augment=2, mixup=0.3, seed=1)
    images = torch.rand(64, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    for device in (torch.device("cpu"), DEVICE):
        made.append(SimpleNamespace(images=images.to(device), computed=slice(0, 64), count=64))
        module.augment_batch(made[-1], args, 5)
    expected, found = made
    assert found.images.device == found.lam.device == DEVICE
    assert torch.equal(found.lam.cpu(), expected.lam)
    assert ((found.images.cpu() - expected.images).abs() > 1e-4).double().mean() < 1e-3


# Training


def train_tiny(words, out, *options, module=None):
    (module or load(SCRIPT)).main([*words, *options, f"--outpath={out}"])
    state = torch.load(out / "model.pt", weights_only=True)
    assert all(tensor.isfinite().all() for tensor in state.values())
    return costs(out)


@on_device
@pytest.mark.parametrize(
    "row, tolerance", [("channels_last", 1e-4), ("amp", 0.02), ("fused", 1e-4)]
)
def test_rows_for_speed(row, tolerance, words, tf32, tmp_path):
    """They change the first cost by no more than rounding does: to bfloat16 by 1 in 256."""
    plain = train_tiny(words, tmp_path / "plain")
    found = train_tiny(words, tmp_path / "run", f"--set={row}=1")
    assert len(found) == len(plain) == 6 and all(map(math.isfinite, found))
    assert found[0] == pytest.approx(plain[0], rel=tolerance)


@on_device
def test_the_fast_recipe(words, tf32, tmp_path):
    """With all that can be switched on; its first cost, without bfloat16, is the CPU's."""
    switched_on = [*FAST, "--batch_size=4", "--epochs=2", "--image_size=64"]
    found = train_tiny(words, tmp_path / "amp", *switched_on)
    assert len(found) == 6 and all(map(math.isfinite, found))
    found = train_tiny(words, tmp_path / "device", *switched_on, "--amp=0")
    cpus = train_tiny(words, tmp_path / "cpu", *switched_on, "--amp=0", "--cuda=-1")
    assert found[0] == pytest.approx(cpus[0], rel=1e-3)


@cuda_only("the CPU has nothing to wait for")
@pytest.mark.parametrize("switched_on", [[], FAST], ids=["paper", "fast"])
def test_no_step_waits(switched_on, words, tmp_path):
    """Nothing between two lines of the log makes the CPU wait for the device. torch raises where
    something does, from the second step on, when all is set up, to the end of the third."""
    module, waits = load(SCRIPT), []
    augment_batch, after_step = module.augment_batch, module.after_step

    def second_step(batch, args, step):
        if step == 1:
            torch.cuda.set_sync_debug_mode("error")
        augment_batch(batch, args, step)

    def third_step(state, split, batch, *rest):
        if batch.number == 2:
            torch.cuda.set_sync_debug_mode("default")
            waits.append(state.progress["epoch"])
        after_step(state, split, batch, *rest)

    module.augment_batch, module.after_step = second_step, third_step
    try:
        sizes = ["--batch_size=4", "--epochs=1", "--image_size=64", "--log_every=1000"]
        train_tiny(words, tmp_path / "run", *switched_on, *sizes, module=module)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert waits == [0]


class Operations(TorchDispatchMode):
    """Counts those that have a tensor on the device."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        leaves = tree_leaves((args, kwargs))
        self.count += any(isinstance(x, torch.Tensor) and x.device == DEVICE for x in leaves)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "fused",
    [pytest.param(0, marks=cuda_only("on the CPU torch goes from weight to weight")), 1],
)
@on_device
def test_the_optimiser_takes_all_weights_at_once(fused):
    """Its step is fewer operations than there are weights, each of which CUDA would start anew."""
    module = load(SCRIPT)
    args = SimpleNamespace(fused=fused, lr=0.001, bias_lr=10.0, weight_decay=0.05)
    model = module.ResNet34().to(DEVICE)
    optimizer = module.build_optimizer(model, args)
    weights = list(model.parameters())
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    with Operations() as operations:
        optimizer.step()
    assert 0 < operations.count < len(weights) / 2


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14) and not torch.cuda.is_available(),
    reason="torch 2.9 asks the driver even of tensors without values; 2.14 does not",
)
def test_a_step_on_a_device_that_is_not_there():
    """torch follows a step's forward half and the average with tensors that have a CUDA device and
    no values: all lie on it, and no value is read back. This one needs no device."""
    module, device = load(SCRIPT), torch.device("cuda", 0)
    args = SimpleNamespace(augment=2, mixup=0.3, seed=1, amp=0, gender=0)
    with FakeTensorMode(allow_non_fake_inputs=True):
        with device:
            model, averaged = module.ResNet34(), module.ResNet34()
        batch = SimpleNamespace(images=torch.rand(6, 3, 64, 64, device=device))
        batch.computed, batch.count, batch.labels = slice(0, 6), 6, torch.arange(6, device=device)
        module.augment_batch(batch, args, 0)
        cost = module.batch_cost(model, batch, torch.ones(1, device=device), args)
        module.update_average(averaged, model, 0.9, 0)
    assert [tensor.device for tensor in (batch.images, batch.lam, cost)] == [device] * 3


# Stopping and going on. DRIVER runs a script that meets with something at a step: a signal, or a
# failure of the device; argv is script, step, what, and the script's own.

DRIVER = """
import os, signal, sys

import torch

sys.path.insert(0, {tests!r})
from conftest import load
from golden import in_double

script, when, what, *words = sys.argv[1:]
torch.use_deterministic_algorithms(True, warn_only=True)
module, sys.argv = load(script), [script, *words]
augment_batch = module.augment_batch

def terminate(device):
    os.kill(os.getpid(), signal.SIGTERM)

def exhaust(device):
    torch.empty(2**50, dtype=torch.uint8, device=device)

def lose(device):
    # an index beyond the end stops a CUDA device for the process, as what breaks it does
    if device.type == "cpu":
        raise RuntimeError("CUDA error: device-side assert triggered")  # so torch words it
    torch.zeros(1, device=device)[torch.full((1,), 5, device=device)].cpu()

def meets(batch, args, step):
    if step == int(when):
        {{"terminate": terminate, "exhaust": exhaust, "lose": lose}}[what](batch.images.device)
    augment_batch(batch, args, step)

module.augment_batch = meets
if what == "double":
    with in_double(module):
        module.main()
else:
    module.main()
"""


@pytest.fixture(scope="module")
def drive(tmp_path_factory, words):
    """Runs the script through DRIVER, in a process of its own."""
    driver = tmp_path_factory.mktemp("driver") / "driver.py"
    driver.write_text(DRIVER.format(tests=str(ROOT / "tests")))

    def begin(*options, when=-1, what="nothing", launcher=(driver,), given=words):
        launcher = [driver if word == "driver" else word for word in launcher]
        arguments = [*launcher, SCRIPT, when, what, *given, *options]
        return run(*arguments, **EXACT, OMP_NUM_THREADS="1")

    return begin


@pytest.fixture(scope="module")
def whole(drive, tmp_path_factory):
    """The uninterrupted run with the given options, as a function."""
    runs = {}

    def run_with(*options):
        if options not in runs:
            runs[options] = tmp_path_factory.mktemp("whole") / "run"
            result = drive(*options, f"--outpath={runs[options]}")
            assert result.returncode == 0, result.stderr
        return runs[options]

    return run_with


def check_same(out, other, stderr):
    """Two runs ended alike: byte for byte, unless torch warned of an operation that it computes in
    no fixed order; then costs agree to 1e-3, and the test's output says why."""
    assert len(costs(out)) == len(costs(other))
    chance = re.findall(r"(\S+) does not have a deterministic implementation", stderr)
    if chance:
        warnings.warn(f"costs compared to 1e-3 only, because of {', '.join(chance)}", stacklevel=2)
        assert costs(out) == pytest.approx(costs(other), rel=1e-3)
        return
    assert costs(out) == costs(other)
    for name in ("model.pt", "test_probas.npy", "test_predictions.csv"):
        assert (out / name).read_bytes() == (other / name).read_bytes(), name


EVERYTHING = [*FAST, "--batch_size=4", "--epochs=2", "--image_size=64"]


@on_device
@pytest.mark.parametrize("switched_on", [[], EVERYTHING], ids=["paper", "fast"])
def test_stop_and_resume(switched_on, words, drive, whole, tmp_path):
    """SIGTERM within the second epoch; the command that the script names goes on at the very batch
    and ends as the uninterrupted run does."""
    out = tmp_path / "run"
    result = drive(*switched_on, f"--outpath={out}", when=4, what="terminate")
    assert result.returncode == 143, result.stderr
    [command] = re.findall(r"stopped by SIGTERM; go on with: python (.*)", result.stderr)
    assert len(costs(out)) == 5
    script, *options = shlex.split(command)
    assert script == str(SCRIPT)
    result = drive(*options, given=[])
    assert result.returncode == 0, result.stderr
    check_same(out, whole(*switched_on), result.stderr)


@on_device
@pytest.mark.parametrize("what, reason", [("exhaust", "memory"), ("lose", "CUDA error")])
def test_a_failing_device(what, reason, drive, whole, tmp_path):
    """One line, exit code 1, and the checkpoint that was there, which goes on to the same end."""
    out = tmp_path / "run"
    result = drive(f"--outpath={out}", "--checkpoint_minutes=0", when=4, what=what)
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    [line] = re.findall(r"^utk-coral.py: error: .*", result.stderr, re.M)
    assert line.startswith("utk-coral.py: error: process 0 failed: ") and reason in line
    if what == "exhaust":  # where an index is wrong, the device prints a line as well
        assert result.stderr.splitlines() == [line]
    checkpoint = torch.load(out / "checkpoint.pt", map_location="cpu", weights_only=True)
    assert (checkpoint["progress"]["epoch"], checkpoint["progress"]["batch"]) == (1, 1)
    result = drive("--resume", f"--outpath={out}")
    assert result.returncode == 0, result.stderr
    check_same(out, whole(), result.stderr)


@cuda_only("a batch that is too large for the CPU would take its memory from other programs")
def test_a_batch_too_large(words, tmp_path):
    """At 1024x1024 pixels an image takes more than 400 MB in training."""
    count = torch.cuda.get_device_properties(0).total_memory // (400 * 10**6) + 1
    [train] = [word for word in words if word.startswith("--train_csv=")]
    header, *rows = open(train.split("=", 1)[1]).read().splitlines()
    many = tmp_path / "many.csv"
    many.write_text("\n".join([header, *(rows * count)[:count]]) + "\n")
    sizes = [f"--batch_size={count}", "--image_size=1024", f"--train_csv={many}"]
    result = run(SCRIPT, *words, *sizes, f"--outpath={tmp_path / 'run'}")
    assert result.returncode == 1, result.stderr
    [line] = result.stderr.splitlines()
    assert line.startswith("utk-coral.py: error: process 0 failed: ") and "memory" in line
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "running"


# Several processes

TORCHRUN = ["-m", "torch.distributed.run", "--standalone"]


@on_device
def test_torchrun_with_one_process(drive, whole, tmp_path):
    out, launcher = tmp_path / "run", [*TORCHRUN, "--nproc_per_node=1", "driver"]
    result = drive(f"--outpath={out}", launcher=launcher)
    assert result.returncode == 0, result.stderr
    check_same(out, whole(), result.stderr)


@cuda_only("on the CPU batch norm sees each process's part; tests/test_processes.py")
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_torchrun_with_two_processes(drive, tmp_path):
    """Each on a GPU of its own, their batch norms on the whole batch: the numbers of one process,
    in double precision."""
    found = {}
    for count, launcher in ((1, ["driver"]), (2, [*TORCHRUN, "--nproc_per_node=2", "driver"])):
        out = tmp_path / str(count)
        result = drive(f"--outpath={out}", "--gender=1", what="double", launcher=launcher)
        assert result.returncode == 0, result.stderr
        facts = json.loads((out / "run.json").read_text())
        assert facts["processes"] == count
        found[count] = costs(out), facts["metrics"]
    assert found[2][0] == found[1][0]
    assert found[2][1] == pytest.approx(found[1][1], rel=1e-6)


@on_device
def test_exchange_of_one_process(tmp_path, tf32):
    """NCCL (on the CPU gloo) in a group of one, which one GPU is enough for: sums, largest values
    and weights stay what they are, and the gradients are those of the network alone."""
    module = load(SCRIPT)
    module.PROCESSES = 2  # else it would not exchange anything
    backends = "gloo" if ON_CPU else "cpu:gloo,cuda:nccl"
    where = {"init_method": f"file://{tmp_path}/store", "rank": 0, "world_size": 1}
    dist.init_process_group(backends, **where)
    try:
        values = torch.arange(4.0, dtype=torch.float64, device=DEVICE)
        assert module.add_up(values.clone()).tolist() == [0, 1, 2, 3]
        assert module.all_max(2, 0.5) == [2, 0.5]
        module.wait_for_all()
        torch.manual_seed(1)
        model, gradients = module.ResNet34(1).to(DEVICE), []
        images = torch.rand(2, 3, 64, 64, device=DEVICE)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        module.share_weights(model)
        assert all(torch.equal(before[n], tensor) for n, tensor in model.state_dict().items())
        for network in (model, module.across_processes(model, DEVICE)):
            model.zero_grad()
            sum(part.sum() for part in network(images)).backward()
            gradients.append([p.grad.clone() for p in model.parameters()])
        for alone, exchanged in zip(*gradients, strict=True):
            assert torch.allclose(exchanged, alone, rtol=1e-3, atol=1e-4 * alone.abs().max())
    finally:
        dist.destroy_process_group()


# Prediction


def predict(trained, images, out, cuda):
    """The rows of predictions.csv: what predict.py says of face crops."""
    words = [f"--run={trained}", "--crops", "--no_draw", f"--out={out}", cuda]
    result = run(ROOT / "model-code" / "predict.py", images, *words, **EXACT)
    assert result.returncode == 0, result.stderr
    with open(out / "predictions.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@on_device
def test_predict(words, whole, tmp_path):
    """Ages as on the CPU, probabilities to the last of four decimals."""
    trained, rows = whole(*EVERYTHING), []
    [images] = [word.split("=", 1)[1] for word in words if word.startswith("--image_path=")]
    (tmp_path / "faces").mkdir()
    for path in sorted(os.listdir(images))[:40]:
        os.symlink(os.path.join(images, path), tmp_path / "faces" / path)
    for name, cuda in (("cpu", "--cuda=-1"), ("device", CUDA)):
        rows.append(predict(trained, tmp_path / "faces", tmp_path / name, cuda))
    assert len(rows[0]) == len(rows[1]) == 40
    for cpus, ours in zip(*rows, strict=True):
        for name in ("source", "age", "age_low", "age_high", "gender"):
            assert ours[name] == cpus[name]
        for name in ("interval_probability", "gender_probability"):
            assert float(ours[name]) == pytest.approx(float(cpus[name]), abs=2e-4)
