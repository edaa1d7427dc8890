"""average.py: means of weights beside a slow computation, and what has none."""

import functools
import hashlib
import json
import shutil

import conftest
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import MODEL_CODE, first_rows, load
from coral_age import runs as run_folders

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
    train(folder / "larger", *tuned, "--image_size=40")
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


def weights(run, name="model.pt"):
    return torch.load(run / name, weights_only=True)


def assert_mean(out, *states):
    for name, tensor in weights(out).items():
        if tensor.is_floating_point():
            due = np.mean([state[name].numpy().astype(np.float64) for state in states], axis=0)
            np.testing.assert_allclose(tensor, due, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("start", ["model.pt", "best_model.pt"])
def test_a_run_with_validation(runs, tmp_path, start):
    """Its best epoch's weights are taken, whichever of its two files the other run began from."""
    first, out = tmp_path / "first", tmp_path / "mean"
    shutil.copytree(runs / "first", first)
    for name, source in {"model.pt": "third", "best_model.pt": "larger", start: "first"}.items():
        shutil.copy(runs / source / "model.pt", first / name)
    average.main([str(first), str(runs / "second"), "--outpath", str(out)])
    assert_mean(out, weights(first, "best_model.pt"), weights(runs / "second"))


def test_two_sizes_of_images(runs, tmp_path, capsys):
    """Are told of; the mean is evaluated at the last run's."""
    first, larger, out = runs / "first", runs / "larger", tmp_path / "mean"
    average.main([str(first), str(larger), "--outpath", str(out)])
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("average.py: warning: the runs saw images of several sizes")
    assert f"({first} at 33, {larger} at 40 pixels); their mean is evaluated" in line
    assert line.endswith("at 40")
    assert json.loads((out / "run.json").read_text())["settings"]["image_size"] == 40
    assert_mean(out, weights(first), weights(larger))


def test_a_loss_of_ones_own(runs, tmp_path, monkeypatch, capsys):
    """With CORAL's output layer: two runs of it have a mean, biases and all, one of it and one of
    CORAL have none."""
    monkeypatch.setattr(run_folders, "MODEL_CODE", tmp_path)
    monkeypatch.setattr(run_folders, "SCRIPTS", ["utk-coral.py", "utk-corn.py"])
    text = (MODEL_CODE / "utk-coral.py").read_text()
    (tmp_path / "utk-coral.py").write_text(text)
    (tmp_path / "utk-corn.py").write_text(text.replace('LOSS = "coral"', 'LOSS = "corn"'))
    for name in ("first", "second"):
        shutil.copytree(runs / name, tmp_path / name)
        facts = json.loads((runs / name / "run.json").read_text())
        facts["script"] = "utk-corn.py"
        facts["script_sha256"] = average.digest_of(tmp_path / "utk-corn.py")
        (tmp_path / name / "run.json").write_text(json.dumps(facts))
    names, out = [tmp_path / "first", tmp_path / "second"], tmp_path / "mean"
    average.main([*map(str, names), "--outpath", str(out)])
    assert_mean(out, *map(weights, names))
    assert json.loads((out / "run.json").read_text())["loss"] == "corn"
    err = refused(capsys, names[0], runs / "second", "--outpath", tmp_path / "none")
    assert f"{runs / 'second'}: its output layers are not those of {names[0]}\n" in err


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
