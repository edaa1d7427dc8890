"""Draw recipes.png: validation MAE against minutes of training, for --recipe paper and fast.

    python images/draw-recipes.py RUN...

A RUN is the folder of a run with --valid_csv, finished or not; all must be on the same rows.
"""

import csv
import json
import sys
from itertools import accumulate
from pathlib import Path

from matplotlib.figure import Figure

COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7")  # Okabe and Ito's, colour-blind-safe

figure = Figure(figsize=(8, 4.5), layout="constrained")
ax = figure.subplots()
labels = {}  # to colours
if not sys.argv[1:]:
    sys.exit(__doc__)
for folder in map(Path, sys.argv[1:]):
    facts = json.loads((folder / "run.json").read_text())
    if "valid" not in facts["data"]:
        sys.exit(f"{folder}: a run without --valid_csv")
    settings, recipe = facts["settings"], facts["settings"]["recipe"]
    with open(folder / "history.csv") as file:
        rows = list(csv.DictReader(file))
    minutes = accumulate(float(row["seconds"]) / 60 for row in rows)
    mae = [float(row["valid_mae"]) for row in rows]
    label = f"{recipe}: {settings['image_size']}x{settings['image_size']}, "
    label += f"{settings['epochs']} epochs" if recipe == "fast" else "the first epochs of 200"
    new = label not in labels
    colour = labels.setdefault(label, COLOURS[len(labels) % len(COLOURS)])
    ax.plot(list(minutes), mae, color=colour, marker="o", label=label if new else None)
median = facts["data"]["valid"]["median_mae"]
ax.axhline(median, color="0.3", linewidth=1, linestyle="--", label="always the median age")
ax.set(xlabel="minutes of training", ylabel="validation MAE (years)", xlim=(0, None))
ax.set_title(f"{facts['script'].removesuffix('.py')}, {facts['data']['valid']['rows']} photos")
ax.legend()
figure.savefig(Path(__file__).with_name("recipes.png"), dpi=120)
