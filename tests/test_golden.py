"""The scripts' numbers are those measured on the code published with the paper."""

import json
import platform
import re

import golden
import pytest
import torch
from conftest import ROOT, SCRIPTS, load, run

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"),
    reason="here torch draws weights that differ from the published code's in the last bit",
)


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """For each data set the options that point a script at the golden images."""
    folder = tmp_path_factory.mktemp("golden")
    return {dataset: golden.write_images(dataset, folder / dataset) for dataset in golden.FORMS}


def load_setting(setting, options):
    """The script of a setting such as "utk-ce imp_weight=0", loaded, and its arguments."""
    stem, imp_weight = setting.split(" ")
    [script] = [script for script in SCRIPTS if script.stem == stem]
    arguments = ["--seed=1", f"--{imp_weight}", "--batch_size=16", "--log_every=1"]
    return load(script), arguments + options[stem.split("-")[0]]


DRAW = """
import sys

import torch

_, tests, script, path = sys.argv
sys.path.insert(0, tests)
from conftest import load

torch.manual_seed(1)
torch.save(load(script).ResNet34().state_dict(), path)
"""


def draw_with_avx2(module, path):
    """Where torch uses no vector kernels, let the script start from the weights that those for
    AVX2 draw, which AVX512's equal: without them a third of the weights are rounded otherwise."""
    if torch.backends.cpu.get_cpu_capability() != "DEFAULT":
        return
    ResNet34 = module.ResNet34

    def network(*args):
        model = ResNet34(*args)  # this brings the generator to where it has to be
        words = ["-c", DRAW, ROOT / "tests", module.__file__, path]
        result = run(*words, ATEN_CPU_CAPABILITY="avx2")
        assert result.returncode == 0, result.stderr
        model.load_state_dict(torch.load(path, weights_only=True))
        return model

    module.ResNet34 = network


class Enough(Exception):
    pass


def stop(*args, **kwargs):
    raise Enough


def check_costs(costs, expected, outpath):
    assert costs == pytest.approx(expected, rel=1e-8, abs=0)
    log = (outpath / "training.log").read_text()
    # 64 // 16 batches, of which the last has number 3
    assert re.findall(r"Batch 000\d/0004 \| Cost: (.+)", log) == [f"{cost:.4f}" for cost in costs]


# Every data set and every loss, and how many of the four costs; the cells keep the twelve scripts
# to the same text.
FEW = {"afad-ordinal imp_weight=1": 4, "cacd-coral imp_weight=1": 2, "morph2-ce imp_weight=0": 2}
FEW |= {"utk-coral imp_weight=0": 2}


@pytest.mark.parametrize("setting, count", FEW.items())
def test_first_epoch(setting, count, options, tmp_path):
    """The costs in double precision; the evaluation, a third of the time, is left out."""
    module, arguments = load_setting(setting, options)
    draw_with_avx2(module, tmp_path / "weights.pt")
    module.evaluate = stop
    with golden.in_double(module) as costs, pytest.raises(Enough):
        cost_fn = module.cost_fn
        module.cost_fn = lambda *given: stop() if len(costs) == count else cost_fn(*given)
        module.main([*arguments, "--epochs=1", f"--outpath={tmp_path / 'run'}"])
    check_costs(costs, golden.FIGURES64[setting]["cost_per_step"][:count], tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("setting", golden.FIGURES64)
def test_two_epochs(setting, options, tmp_path):
    """All costs, and the final MAE and RMSE, in double precision."""
    module, arguments = load_setting(setting, options)
    draw_with_avx2(module, tmp_path / "weights.pt")
    final = dict(golden.FIGURES64[setting])
    expected = final.pop("cost_per_step")
    with golden.in_double(module) as costs:
        module.main([*arguments, "--epochs=2", f"--outpath={tmp_path / 'run'}"])
    check_costs(costs, expected, tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "run.json").read_text())["metrics"]
    assert metrics == pytest.approx(final, rel=1e-8)


@pytest.mark.parametrize("setting", golden.FIGURES)
def test_single_precision(setting, options, tmp_path):
    """The initial weights and the first cost; the later ones depend on the processor."""
    module, arguments = load_setting(setting, options)
    draw_with_avx2(module, tmp_path / "weights.pt")
    ResNet34, cost_fn, figures = module.ResNet34, module.cost_fn, golden.FIGURES[setting]

    def network(*args):
        model = ResNet34(*args)
        for name, sums in figures["initial_weights"].items():
            weights = model.state_dict()[name].double()
            found = (weights.sum().item(), weights.abs().sum().item())
            assert found == pytest.approx(sums, abs=2e-4), name
        return model

    def first_cost(*args):
        assert cost_fn(*args).mean().item() == pytest.approx(figures["first_cost"], rel=1e-5)
        stop()

    module.ResNet34, module.cost_fn = network, first_cost
    with pytest.raises(Enough):
        module.main([*arguments, f"--outpath={tmp_path / 'run'}"])
