"""Draw recipes.png: the held-out MAE of finished runs against the minutes that they took.

    python images/draw-recipes.py model-code/results/*/* --out recipes.png

All must have been tested on the same images. A point is the mean over a loss's runs in one folder,
its line reaches from the lowest to the highest of them; the figures are printed as well. What a
folder's name has after "minutes" tells another machine, whose points are squares on dashed lines.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import fmean

sys.path.append(str(Path(__file__).resolve().parent.parent / "model-code"))
from coral_age.groups import COLOURS, LOSSES


def read_runs(folders, parser):
    """The title, and of each group of runs, (name of their folder, loss), their (minutes, MAE)."""
    groups, tested = {}, {}
    for folder in folders:
        try:
            record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            point = record["minutes"], record["metrics"]["test_mae"]
            loss, test = record["loss"], record["data"]["test"]
            images = test["csv_sha256"], test["images_sha256"]
            title = f"{record['dataset']}, {test['rows']} held-out images"
        except (OSError, ValueError, KeyError, TypeError):
            parser.error(f"{folder}: no folder of a finished run; leave it out")
        if loss not in LOSSES:
            parser.error(f"{folder}: {loss} has no colour in draw-recipes.py; give it one")
        tested.setdefault(images, folder)
        if len(tested) > 1:
            parser.error(f"{folder}: tested on other images than {folders[0]}; draw them apart")
        groups.setdefault((folder.resolve().parent.name, loss), []).append(point)
    return title, groups


def print_table(groups):
    losses = [loss for loss in LOSSES if any(loss == its for _, its in groups)]
    print("| runs in | " + " | ".join(LOSSES[loss] for loss in losses) + " |")
    print("| --- " * (len(losses) + 1) + "|")
    minutes_of = {}
    for (folder, _), points in groups.items():
        minutes_of.setdefault(folder, []).extend(minutes for minutes, _ in points)
    for folder in sorted(minutes_of, key=lambda folder: fmean(minutes_of[folder])):
        cells = [folder]
        for loss in losses:
            points = groups.get((folder, loss), [])
            minutes, errors = zip(*points, strict=True) if points else ([], [])
            told = f"{fmean(errors):.2f} after {fmean(minutes):.0f} min" if points else ""
            cells.append(told + (f" ({len(points)} seeds)" if len(points) > 1 else ""))
        print(f"| {' | '.join(cells)} |")


def draw(title, groups, out):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    ax = figure.subplots()
    lines = {}
    for (folder, loss), points in groups.items():
        minutes, errors = zip(*points, strict=True)
        ax.vlines(fmean(minutes), min(errors), max(errors), color=COLOURS[loss])
        machine = folder.partition("minutes")[2]
        lines.setdefault((loss, machine), []).append((fmean(minutes), fmean(errors)))
    for loss, machine in sorted(lines, key=lambda line: list(LOSSES).index(line[0])):
        style = {"marker": "s", "linestyle": "--"} if machine else {"marker": "o"}
        label = LOSSES[loss] + machine.replace("-", ", ")
        ax.plot(
            *zip(*sorted(lines[loss, machine]), strict=True),
            color=COLOURS[loss],
            label=label,
            **style,
        )
    ax.set(
        xlabel="minutes",
        ylabel="held-out MAE in years (options chosen on it)",
        title=title,
        xlim=(0, None),
    )
    ax.legend(loc="upper right")  # errors fall with time
    with open(out, "wb") as file:
        figure.savefig(file, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("recipes.png"))
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: error: {message}\n")
    args = parser.parse_args()
    title, groups = read_runs(args.runs, parser)
    print_table(groups)
    try:
        draw(title, groups, args.out)
    except (OSError, ImportError) as problem:
        parser.error(f"--out {args.out}: not drawn: {problem}")


if __name__ == "__main__":
    main()
