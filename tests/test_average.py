"""average.py: means of weights beside a slow computation, and what has none."""

import functools
import hashlib
import json

import conftest
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import MODEL_CODE, first_rows, load

average = load(MODEL_CODE / "average.py")
script = load(MODEL_CODE / "utk-coral.py")
refused = functools.partial(conftest.refused, average, begins="average.py: error: ")


def train(out, *options, script=script):
    script.main([*options, "--seed=1", "--outpath", str(out)])
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run, some that began from its weights, and one that began from none."""
    folder = tmp_path_factory.mktemp("runs")
    rows = first_rows("utk", folder, train=8, test=6)
    same = [*rows, "--recipe=fast", "--image_size=33", "--gender=1", "--batch_size=4", "--lr=0.01"]
    first = train(folder / "first", *same, "--epochs=2")
    tuned = [*same, "--epochs=1", f"--init_from={first / 'model.pt'}"]
    train(folder / "second", *tuned)
    train(folder / "third", *tuned, "--augment=2")
    train(folder / "apart", *same, "--epochs=1")
    train(folder / "plain", *tuned, "--gender=0")
    (folder / "afad").mkdir()
    afad = [*first_rows("afad", folder / "afad", train=8, test=6), *tuned[3:], "--gender=0"]
    train(folder / "of_afad", *afad, script=load(MODEL_CODE / "afad-coral.py"))
    return folder


@pytest.mark.parametrize("names", [("first", "second"), ("first", "third", "second")])
def test_mean(runs, tmp_path, names):
    """Every weight is the mean of the runs' weights; the answers and figures are the mean's."""
    out = tmp_path / "mean"
    average.main([*(str(runs / name) for name in names), "--outpath", str(out)])
    states = [torch.load(runs / name / "model.pt", weights_only=True) for name in names]
    mean = torch.load(out / "model.pt", weights_only=True)
    assert list(mean) == list(states[0])
    for name, tensor in mean.items():
        values = [state[name].numpy().astype(np.float64) for state in states]
        if "num_batches" in name:
            assert tensor == values[-1]
        else:
            np.testing.assert_allclose(tensor, sum(values) / len(values), rtol=1e-6, atol=1e-9)
    assert not torch.equal(mean["fc.weight"], states[0]["fc.weight"])

    facts = json.loads((out / "run.json").read_text())
    table = pd.read_csv(out / "test_predictions.csv")
    distances = [abs(row.true_age - row.predicted_age) for row in table.itertuples()]
    assert facts["metrics"]["test_mae"] == pytest.approx(sum(distances) / 6)
    assert facts["status"] == "finished" and facts["settings"]["epochs"] == 1
    network = script.ResNet34(gender=1)
    network.load_state_dict(mean)
    settings = script.parse_settings(["--outpath=unused"], facts["settings"])
    splits = {"test": script.read_split(settings.test_csv, settings)}
    script.load_pixels(splits, settings)
    probas, male = script.evaluate(network, splits["test"], settings, torch.device("cpu"))
    np.testing.assert_allclose(np.load(out / "test_probas.npy"), probas, atol=1e-6)
    np.testing.assert_allclose(table.p_male, male, atol=1e-6)


def test_weights_that_have_no_mean(runs, tmp_path, capsys):
    out = ["--outpath", tmp_path / "mean"]
    err = refused(capsys, runs / "first", runs / "apart", *out)
    assert f"{runs / 'apart'}: began neither from the weights of {runs / 'first'} nor" in err
    refused(capsys, runs / "second", runs / "first", *out)  # nor the other way about
    assert "takes two runs or more" in refused(capsys, runs / "first", *out)
    for other in ("plain", "of_afad"):
        err = refused(capsys, runs / "first", runs / other, *out)
        assert f"{runs / other}: its output layers are not those of {runs / 'first'}" in err
    assert not out[1].exists()


def test_siblings(runs, tmp_path, capsys):
    """Two that began from one file, which is not among them; summarize.py tells their mean apart
    from its last run."""
    out = tmp_path / "mean"
    average.main([str(runs / "second"), str(runs / "third"), "--outpath", str(out)])
    files = [runs / name / "model.pt" for name in ("second", "third")]
    digests = [hashlib.sha256(file.read_bytes()).hexdigest()[:8] for file in files]
    capsys.readouterr()
    load(MODEL_CODE / "summarize.py").main([str(runs / "third"), str(out)])
    table = capsys.readouterr().out
    assert f"| mean_of {' '.join(digests)} | CORAL | 1 |" in table


def test_a_run_is_kept(runs, capsys):
    before = (runs / "apart" / "model.pt").read_bytes()
    err = refused(capsys, runs / "first", runs / "second", "--outpath", runs / "apart")
    assert "apart holds a run (run.json); give a new folder" in err
    assert (runs / "apart" / "model.pt").read_bytes() == before


def test_test_rows_given(runs, tmp_path, capsys):
    out = ["--outpath", tmp_path / "mean"]
    missing = ["--test_csv", tmp_path / "none.csv"]
    with pytest.raises(SystemExit) as end:
        average.main(list(map(str, [runs / "first", runs / "second", *out, *missing])))
    assert end.value.code == 2 and "none.csv" in capsys.readouterr().err
