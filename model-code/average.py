"""Weight averaging (model soup) of runs that went on from one another, evaluated as a run.

    python model-code/average.py RUN1 RUN2 [RUN3 ...] --outpath MEAN

Each RUN after the first must have begun from RUN1's weights (--init_from RUN1/model.pt), or from
the file that RUN1 began from. The weights of such runs lie near enough to each other for their
mean to answer as well as they do, and better on photos unlike those of the training (Wortsman et
al., arXiv 2109.01903 and 2203.05482); networks trained apart have no such mean. Of a run with
validation it takes the best epoch's weights, as predict.py does, and another may have begun from
its model.pt or its best_model.pt.

MEAN has the files of a run, with no epoch in history.csv. Its settings are those of the last RUN,
but for the paths and the device given here.
"""

import argparse
import functools
import json
import sys
import time
from pathlib import Path

import torch
from coral_age import errors
from coral_age.errors import InputError, end_as_on_ctrl_c
from coral_age.runs import digest_of, load, need_no_run

GIVEN = "train_csv", "valid_csv", "test_csv", "image_path", "cuda"  # elsewhere than in the last RUN

refuse = functools.partial(errors.refuse, program="average.py")
warn = functools.partial(errors.warn, program="average.py")


def parse_settings(argv):
    """The settings as an argparse namespace, checked."""
    how = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=how, allow_abbrev=False)
    parser.error = refuse
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--outpath", type=Path, required=True, help="new folder for the mean")
    for name in GIVEN:
        parser.add_argument(f"--{name}", help="as in the training script (that of the last RUN)")
    args = parser.parse_args(argv)
    if len(args.runs) < 2:
        refuse(f"{args.runs[0]}: a mean takes two runs or more")
    return args


def checked(runs):
    """The networks of the folders ``runs`` (of load()), the facts in their run.json, and the
    SHA-256 of their weights. InputError where their weights have no mean that answers."""
    models = [load(run) for run in runs]
    facts = [json.loads((run / "run.json").read_bytes()) for run in runs]
    digests = [digest_of(model.weights) for model in models]
    start = {digests[0], digest_of(runs[0] / "model.pt")}
    start |= {facts[0].get(key) for key in ("init_from_sha256", "calibrated_from")} - {None}
    for run, its in zip(runs[1:], facts[1:], strict=True):
        if its.get("init_from_sha256") not in start:
            message = f"began neither from the weights of {runs[0]} nor from what that began from"
            raise InputError(f"{run}: {message} (--init_from): they have no mean")

    layers = [output_layers(model) for model in models]
    for run, its in zip(runs, layers, strict=True):
        if its != layers[0]:
            raise InputError(f"{run}: its output layers are not those of {runs[0]}")
    return models, facts, digests


def output_layers(model):
    """What must be equal for the weights of two networks to mean the same: the loss, the age of
    label 0, and all shapes."""
    shapes = [(name, tensor.shape) for name, tensor in model.network.state_dict().items()]
    return model.script.LOSS, model.script.YOUNGEST_AGE, shapes


def mean_of(states):
    """The state dict of the means; of counts (of batches seen), the last one's."""
    floats = [name for name, tensor in states[-1].items() if tensor.is_floating_point()]
    return states[-1] | {n: torch.stack([state[n] for state in states]).mean(0) for n in floats}


def average(args):
    """Evaluate the mean of the runs' weights, and fill --outpath."""
    began = time.monotonic()
    models, runs, digests = checked(args.runs)
    script, network = models[-1].script, models[-1].network
    sizes = [model.size for model in models]
    if len(set(sizes)) > 1:
        told = ", ".join(f"{run} at {size}" for run, size in zip(args.runs, sizes, strict=True))
        how = f"their mean is evaluated, and will answer, at {sizes[-1]}"
        warn(f"the runs saw images of several sizes ({told} pixels); {how}")
    words = [f"--{name}={value}" for name in GIVEN if (value := getattr(args, name))]
    settings = script.parse_settings([*words, f"--outpath={args.outpath}"], runs[-1]["settings"])
    device = torch.device("cuda", settings.cuda) if settings.cuda >= 0 else torch.device("cpu")
    network.load_state_dict(mean_of([model.network.state_dict() for model in models]))
    network.to(device)

    with script.locked(args.outpath):
        need_no_run(args.outpath, script)
        csvs = {name: getattr(settings, f"{name}_csv") for name in ("train", "valid", "test")}
        splits = {name: script.read_split(csv, settings) for name, csv in csvs.items() if csv}
        script.load_pixels(splits, settings)

        facts = script.describe(settings, splits, device)
        facts["init_from_sha256"] = runs[-1]["init_from_sha256"]
        facts["settings"]["mean_of"] = " ".join(digest[:8] for digest in digests)
        script.begin_run_folder(settings, facts, device)
        facts["metrics"], lines = script.evaluate_all(network, "", splits, settings, device)
        script.save_model(args.outpath / "model.pt", network)
        facts["minutes"] = sum(run["minutes"] for run in runs) + (time.monotonic() - began) / 60
        for line in (f"Mean of: {', '.join(map(str, args.runs))}", *lines):
            script.log(settings, line)
        facts["status"] = "finished"
        script.write_facts(settings, facts)


def main(argv=None):
    """Run with the given command-line arguments."""
    args = parse_settings(argv)
    try:
        average(args)
    except InputError as error:
        refuse(error)
    except OSError as error:
        refuse(f"{error.filename or args.outpath}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        refuse(f"interrupted; what {args.outpath} holds of the mean is not whole", 130)


if __name__ == "__main__":
    end_as_on_ctrl_c("SIGTERM", "SIGHUP")
    if hasattr(sys.stdout, "reconfigure"):  # in a notebook it has not
        sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal has all characters
    main()
