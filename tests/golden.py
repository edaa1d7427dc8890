"""The images that the golden figures were measured on, and a script in double precision.

The figures come from the code published with the paper, under torch 2.14.1, for each script and
importance setting (seed 1, batch size 16, 2 epochs). In double precision, golden64.json: the cost
of each of the 8 steps and the final MAE and RMSE, the same on every processor. In single precision,
golden.json: sum and absolute sum of some initial weights, and the first cost; the later costs
depend on the order in which a processor sums.
"""

import contextlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import torch

FIGURES = json.loads(Path(__file__).with_name("golden.json").read_text())
FIGURES64 = json.loads(Path(__file__).with_name("golden64.json").read_text())
FORMS = {  # data set: classes, image width and height
    "afad": (26, 100, 110),
    "cacd": (49, 120, 120),
    "morph2": (55, 200, 240),
    "utk": (40, 200, 200),
}
# torch rounds a root in single precision in each processor's own way, and after some steps a cost
# shows the last bit of a task importance weight in its fifth digit. Where the figures were measured
# these roots were not the nearest number, but the next one (above: 1, below: -1).
ROUNDED_ROOTS = {34: 1, 37: -1, 42: 1, 43: 1, 55: 1, 57: 1, 62: 1}


def write_images(dataset, folder):
    """64 training and 16 test images with their CSVs; the options that point a script at them."""
    classes, width, height = FORMS[dataset]
    for split, count, first in (("train", 64, 0), ("test", 16, 1000)):
        rows = []
        for i in range(count):
            number, name = first + i, f"{split}{i:03d}.png"
            label = i if split == "train" and i < classes else 7 * number % classes
            y, x, channel = np.mgrid[0:height, 0:width, 0:3]
            texture = 7 * number + 2 * y + 3 * x + 40 * channel
            texture += (x // 16) * (y // 16) * (1 + number % 5)
            pixels = (texture % 97 + 3 * label % 160).astype(np.uint8)
            male = i % 2 == 0
            path = f"{15 + label}/{111 if male else 112}/{name}" if dataset == "afad" else name
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(pixels).save(folder / path)
            if dataset == "afad":
                gender = "male" if male else "female"
                rows.append({"file": name, "path": path, "age": label, "gender": gender})
            elif dataset == "morph2":
                rows.append({"": name, "Male": 1 if male else -1, "age": label})
            else:
                rows.append({"": i, "file": name, "age": label})
        pd.DataFrame(rows).to_csv(folder / f"{split}.csv", index=False)
    return [f"--{s}_csv={folder / s}.csv" for s in ("train", "test")] + [f"--image_path={folder}"]


def importance_weights(labels, classes):
    """Task importance weights (classes - 1,) as they were where the figures were measured."""
    above = [sum(label > k for label in labels.tolist()) for k in range(classes - 1)]
    counts = [max(count, len(labels) - count) for count in above]
    roots = np.sqrt(np.array(counts)).astype(np.float32)
    away = np.array([ROUNDED_ROOTS.get(count, 0) for count in counts], np.int32)
    roots = torch.from_numpy((roots.view(np.int32) + away).view(np.float32))
    return roots / roots.max()


@contextlib.contextmanager
def in_double(module):
    """Within it, a loaded script computes in double precision: weights are drawn as always, then
    converted, and task importance weights may differ from the measured ones in the last bits only.
    Gives the list to which each step's cost is added."""
    ResNet34, to_device, cost_fn, costs = module.ResNet34, module.to_device, module.cost_fn, []
    weights_fn = module.task_importance_weights

    def network(*args):
        torch.set_default_dtype(torch.float32)  # the weights' generator depends on it
        model = ResNet34(*args).double()
        torch.set_default_dtype(torch.float64)
        return model

    def keep_cost(*args):
        cost = cost_fn(*args)
        costs.append(cost.mean().item())
        return cost

    def weights(labels):
        expected = importance_weights(labels, module.NUM_CLASSES)
        torch.testing.assert_close(weights_fn(labels), expected, rtol=3e-7, atol=0)
        return expected

    module.ResNet34, module.cost_fn = network, keep_cost
    if weights_fn:  # cross-entropy has none
        module.task_importance_weights = weights
    module.to_device = lambda *args: to_device(*args).double()
    try:
        yield costs
    finally:
        torch.set_default_dtype(torch.float32)
