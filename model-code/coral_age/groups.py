"""Results of runs, in groups of those that differ in nothing but the seed.

A comparison is a dict of groups, {(loss, imp_weight, variant): [results, one per seed]}; a result
is a dict, as summarize.py reads it.
"""

import numpy as np

from coral_age.pages import LIGHT

LOSSES = {"ce": "CE", "ordinal": "OR-CNN", "coral": "CORAL"}
LOSSES |= {"corn": "CORN", "dldl": "DLDL-v2", "sord": "SORD", "l1": "L1"}
OURS = tuple(LOSSES)  # runs of others add theirs
OF_CLASSES = "ce", "dldl", "sord"  # their files hold the probabilities of the classes
# Told apart by all eyes. A loss keeps its colour, a variant of it has another one.
COLOURS = {loss: LIGHT[loss] for loss in ("ce", "coral", "corn", "dldl", "sord")}
COLOURS |= {"ordinal": LIGHT["blue"], "l1": LIGHT["ink"]}
OTHER_COLOURS = [LIGHT[f"other{i}"] for i in range(4)]  # of variants and losses of one's own


def key_of(result):
    return result["loss"], result["imp_weight"], result["variant"]


def named(loss, weighted, variant):
    return loss + (", weighted" if weighted else "") + (f", {variant}" if variant else "")


def label(key):
    return named(LOSSES[key[0]], *key[1:])


def colour(key):
    loss, _, variant = key
    name = (loss, variant) if variant else loss
    return COLOURS.setdefault(name, OTHER_COLOURS[len(COLOURS) % len(OTHER_COLOURS)])


def having(groups, name):
    """``groups`` with only those of their results that hold ``name``, and without empty groups."""
    held = {key: [result for result in group if name in result] for key, group in groups.items()}
    return {key: group for key, group in held.items() if group}


def first_of(groups):
    """The first finished result in ``groups``, or else the first."""
    return next(iter((having(groups, "mae") or groups).values()))[0]


def per_image(group, which="images"):
    """Per test image, means over seeds: absolute error, error (years), gender right (%), and of
    ranges years to it, and inside (%)."""
    tables = [result[which] for result in group]
    return tables[0][["true_age", "age", "range", "gender", "race"]].assign(
        MAE=np.mean([table["error"].abs() for table in tables], axis=0),
        bias=np.mean([table["error"] for table in tables], axis=0),
        **{
            name: np.mean([table[name] for table in tables], axis=0)
            for name in ("right", "to_range", "inside")
        },
    )


def median_errors(groups):
    """{key: absolute errors of the median, (seeds, images)}, in the order of the seeds."""
    return {
        key: np.stack([r["median_errors"] for r in sorted(group, key=lambda r: r["seed"])])
        for key, group in having(groups, "median_errors").items()
    }
