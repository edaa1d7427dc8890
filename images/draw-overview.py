"""Draw overview.png: how CORAL tells an age, and beside it how the other two losses do.

    python images/draw-overview.py

The probabilities are computed, from example values of the outputs; the face is one of the drawn
sample faces.
"""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from PIL import Image

HERE = Path(__file__).resolve().parent
SAMPLE = HERE.parent / "datasets" / "sample" / "utk"
YOUNGEST_AGE, NUM_CLASSES = 21, 40  # UTKFace's
LABEL = 17  # of the face

WIDTH, HEIGHT = 1400, 800
INK, GREY, PALE = "#222222", "#666666", "#cfcfcf"
BLUE, LIGHT_BLUE, VERMILION = "#0072b2", "#cce3f0", "#d55e00"  # Okabe and Ito's, colour-blind-safe

matplotlib.rcParams.update({"font.size": 15, "text.color": INK, "axes.edgecolor": GREY})
matplotlib.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100)
page = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, HEIGHT))
page.axis("off")


def axes(left, bottom, width, height):
    """Axes at a place in pixels."""
    return figure.add_axes((left / WIDTH, bottom / HEIGHT, width / WIDTH, height / HEIGHT))


def write(x, y, text, **how):
    page.text(x, y, text, **{"ha": "center", "va": "center", **how})


def arrow(start, end):
    style = {"arrowstyle": "-|>", "lw": 2, "color": INK, "shrinkA": 0, "shrinkB": 0}
    page.annotate("", end, start, arrowprops=style)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def show_probas(axis, probas):
    """Bars of P(y > k), those above 0.5 in blue; their number is the predicted label."""
    axis.bar(np.arange(len(probas)), probas, 0.8, color=np.where(probas > 0.5, BLUE, PALE))
    axis.axhline(0.5, color=VERMILION, lw=2, ls="--")
    axis.set(xlim=(-1, NUM_CLASSES - 1), ylim=(0, 1.03), yticks=[0, 0.5, 1])
    return (probas > 0.5).sum()


# Example values; the biases have the shape of the log-odds of bell-shaped labels.
k = np.arange(NUM_CLASSES - 1)
biases = 4.5 * (1 - k / 19) + 3 * ((19 - k) / 19) ** 3
score = -0.6
rng = np.random.default_rng(4)
own_scores = score + rng.normal(0, 0.4, len(k))  # ordinal: every k has weights of its own
class_logits = -((np.arange(NUM_CLASSES) - 19.4) ** 2) / 50 + rng.normal(0, 0.25, NUM_CLASSES)

# From the face to the biases, all in one row.
y = 610
write(30, 770, "coral", ha="left", fontsize=20, weight="bold")
write(124, 769, "one weight vector w shared by all K − 1 tasks", ha="left", color=GREY)
face = pd.read_csv(SAMPLE / "train.csv").query("age == @LABEL")["file"].iloc[-1]
face_axes = axes(30, y - 70, 140, 140)
face_axes.imshow(Image.open(SAMPLE / "images" / face), interpolation="antialiased")
face_axes.set(xticks=[], yticks=[])
write(100, y - 92, "drawn face")
write(100, y - 114, "120 × 120", color=GREY)

arrow((178, y), (208, y))
left = 218
for channels, height, depth in (64, 150, 22), (128, 116, 32), (256, 86, 44), (512, 60, 58):
    box = Rectangle((left, y - height / 2), depth, height, fc=LIGHT_BLUE, ec=BLUE, lw=1.5)
    page.add_patch(box)
    write(left + depth / 2, y - 92, str(channels), color=GREY)
    left += depth + 14
write(317, y + 105, "ResNet-34", weight="bold")
write(317, y - 114, "channels", color=GREY)

arrow((424, y), (454, y))
for i, value in enumerate(rng.random(14)):
    page.add_patch(Rectangle((464, y - 70 + 10 * i), 18, 10, fc=BLUE, alpha=0.15 + 0.8 * value))
page.add_patch(Rectangle((464, y - 70), 18, 140, fc="none", ec=BLUE, lw=1.5))
write(473, y - 92, "2048")
write(473, y - 114, "features $x$", color=GREY)

arrow((492, y), (574, y))
write(533, y + 18, "$w$", fontsize=18)
page.add_patch(Circle((610, y), 34, fc=LIGHT_BLUE, ec=BLUE, lw=1.5))
write(610, y, "$w^T x$", fontsize=16)
write(610, y - 92, "one score")
write(610, y - 114, f"here {score:.1f}".replace("-", "−"), color=GREY)

arrow((646, y), (694, y))
write(670, y + 18, "+", fontsize=18)
bias_axes = axes(706, y - 70, 180, 140)
bias_axes.axhline(0, color=GREY, lw=1)
bias_axes.vlines(k, 0, biases, color=BLUE, lw=2)
bias_axes.set(xticks=[], yticks=[], xlim=(-1, len(k)))
bias_axes.spines.bottom.set_visible(False)
write(786, y + 105, "K − 1 biases, trained", weight="bold")
write(796, y - 92, r"$b_0 \geq b_1 \geq \ldots \geq b_{K-2}$")

# The probabilities.
arrow((796, y - 112), (796, y - 172))
write(780, y - 142, "sigmoid", ha="right")
main = axes(80, 70, 806, 300)
label = show_probas(main, sigmoid(score + biases))
main.set_xticks(range(0, NUM_CLASSES - 1, 5))
main.set_xlabel(f"k: is this person older than {YOUNGEST_AGE} + k?")
main.set_ylabel("P(y > k)")
main.set_title(
    "one probability for each k, in the order of the biases (example values)",
    fontsize=15,
    loc="left",
)
answer = f"{label} of them are above 0.5:\n"
answer += f"predicted age {YOUNGEST_AGE} + {label} = {YOUNGEST_AGE + label}"
main.text(38, 0.9, answer, color=BLUE, fontsize=18, weight="bold", ha="right", va="center")
main.text(38, 0.73, f"({YOUNGEST_AGE}: the youngest age)", color=GREY, ha="right", va="center")

# The other two losses.
page.plot([930, 930], [30, 770], color=PALE, lw=1.5)
write(960, 770, "the same ResNet-34, another output:", ha="left")
write(960, 722, "ordinal", ha="left", fontsize=20, weight="bold")
write(1082, 721, "weights of its own for each k", ha="left", color=GREY)
probas = sigmoid(own_scores + biases)
ordinal = axes(1016, 450, 364, 200)
label = show_probas(ordinal, probas)
ordinal.set(xticks=range(0, NUM_CLASSES - 1, 10), xlabel="k", ylabel="P(y > k)")
ordinal.text(38, 0.88, f"{YOUNGEST_AGE} + {label} = {YOUNGEST_AGE + label}", color=BLUE, ha="right")
i = np.diff(probas).argmax()
write(960, 685, f"may cross: here P(y > {i + 1}) > P(y > {i})", ha="left")

write(960, 352, "ce", ha="left", fontsize=20, weight="bold")
write(1008, 351, "softmax over K classes", ha="left", color=GREY)
write(960, 315, "does not use the order of the ages", ha="left")
probas = np.exp(class_logits) / np.exp(class_logits).sum()
label = probas.argmax()
ce = axes(1016, 70, 364, 210)
ce.bar(
    range(NUM_CLASSES),
    probas,
    0.8,
    color=[BLUE if y == label else PALE for y in range(NUM_CLASSES)],
)
ce.set(xlim=(-1, NUM_CLASSES), xticks=range(0, NUM_CLASSES, 10), yticks=[0, 0.1])
ce.set(xlabel="y", ylabel="P(y)")
ce.text(39, 0.09, f"{YOUNGEST_AGE} + {label} = {YOUNGEST_AGE + label}", color=BLUE, ha="right")

figure.savefig(HERE / "overview.png", pil_kwargs={"optimize": True})
