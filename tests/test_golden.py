"""The scripts' numbers are those measured on the code published with the paper."""

import re

import golden
import pytest
import torch
from conftest import SCRIPTS, load, run


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """For each data set the options that point a script at the golden images."""
    folder = tmp_path_factory.mktemp("golden")
    return {dataset: golden.write_images(dataset, folder / dataset) for dataset in golden.FORMS}


def check_costs(script, imp_weight, epochs, options, outpath):
    """Train from the command line; the share of costs that agree to four decimals."""
    result = run(
        script,
        *("--seed=1", f"--imp_weight={imp_weight}", "--batch_size=16", f"--epochs={epochs}"),
        *("--log_every=1", f"--outpath={outpath}", *options[script.stem.split("-")[0]]),
        ONEDNN_MAX_CPU_ISA="AVX2",  # what newer processors have sums in another order
    )
    assert result.returncode == 0, result.stderr
    costs = [float(c) for c in re.findall(r"Batch 000\d/0004 \| Cost: (.+)", result.stdout)]
    expected = golden.FIGURES[f"{script.stem} imp_weight={imp_weight}"]["cost_per_step"]
    assert len(costs) == 4 * epochs
    for step, (cost, figure) in enumerate(zip(costs, expected, strict=False)):
        # the later ones grow apart where another processor sums in another order; the log
        # rounds to four decimals
        tolerance = 1e-5 if step == 0 else 0.02 if step < 4 else 0.1
        assert cost == pytest.approx(figure, rel=tolerance, abs=5.1e-5), f"step {step}"
    return [f"{figure:.4f}" == f"{cost:.4f}" for cost, figure in zip(costs, expected, strict=False)]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_first_epoch(script, options, tmp_path):
    check_costs(script, 0 if script.stem.endswith("-ce") else 1, 1, options, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("setting", golden.FIGURES)
def test_two_epochs(setting, options, tmp_path, capsys):
    stem, imp_weight = setting.split(" imp_weight=")
    [script] = [script for script in SCRIPTS if script.stem == stem]
    same = check_costs(script, imp_weight, 2, options, tmp_path / "run")
    with capsys.disabled():
        print(f"{setting}: {sum(same)} of {len(same)} costs agree to four decimals")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_initial_weights(script):
    module = load(script)
    torch.manual_seed(1)
    state = module.ResNet34().state_dict()
    for setting, figures in golden.FIGURES.items():
        if setting.startswith(script.stem + " "):
            for name, sums in figures["initial_weights"].items():
                weights = state[name].double()
                found = (weights.sum().item(), weights.abs().sum().item())
                assert found == pytest.approx(sums, abs=2e-4), name
