"""Plots of a comparison, as groups.py has them; the docstring of each is its caption.

A loss has its own colour; weighted by importance it is dashed, and unfinished runs are dotted.
"""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from coral_age.groups import colour, having, label, median_errors, per_image
from coral_age.pages import BLUE, DRAWN, LIGHT, QUIET, WIDE, picture, shown, sides
from coral_age.significance import MARGIN

# of one blue, more or less of it, so that it can be seen on black and on white
SHADES = LinearSegmentedColormap.from_list("", ["#3a87c81a", "#3a87c8ff"])


def line(key):
    style = {"color": colour(key), "linestyle": "--" if key[1] else "-"}
    return style | {"label": shown(label(key))}


def unfinished_line(key):
    style = line(key)
    return style | {"linestyle": ":", "marker": ".", "label": f"{style['label']}, unfinished"}


def panel(height=3.2, width=WIDE, **options):
    """A figure of so many inches, and its panel, or panels."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**options)


def legend(figure, ax, columns=4):
    """Above all panels, of what is drawn in ``ax``."""
    handles, labels = ax.get_legend_handles_labels()
    if max(map(len, labels)) > 12:
        columns = 2
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, columnspacing=1.2)


def name_rows(ax, names):
    """A row for each name, the first one on top."""
    ax.set_yticks(range(len(names)), [shown(name, 30) for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)


def plot_errors(groups):
    """Mean absolute error of each loss. Dots: by the median of its probabilities, the same reading
    for all, with a line for each seed. Diamonds: by the loss's own rule."""
    figure, ax = panel(1 + 0.3 * len(groups))
    for row, (key, errors) in enumerate(median_errors(groups).items()):
        maes, own = errors.mean(1), np.mean([result["mae"] for result in groups[key]])
        ax.plot(maes, [row] * len(maes), "|", color=colour(key), markersize=12)
        ax.plot(own, row, "D", color=colour(key), markerfacecolor="none", markersize=7)
        ax.plot(maes.mean(), row, "o", color=colour(key), markersize=5)
    for marker, text in (("o", "median"), ("|", "its seeds"), ("D", "own rule")):
        face = "none" if marker == "D" else QUIET
        ax.plot([], [], marker, color=QUIET, markerfacecolor=face, label=text)
    name_rows(ax, list(map(label, groups)))
    ax.set(xlabel="MAE (years)")
    legend(figure, ax)
    return figure


def plot_differences(rows):
    """Differences of the MAEs by the median, first loss minus second, with 95 % intervals. Blue:
    one is better. Where the whole bar lies in the grey strip, a tenth of a year to either side, the
    two are equal. Hollow dots: not settled."""
    figure, ax = panel(1 + 0.26 * len(rows))
    ax.axvspan(-MARGIN, MARGIN, color=LIGHT["line"], alpha=0.6, linewidth=0)
    ax.axvline(0, color=QUIET, linewidth=1)
    for place, row in enumerate(rows.to_dict("records")):
        low, high = map(float, row["95 % interval"].split(" to "))
        x, better = float(row["A - B"]), "better" in row["verdict"]
        style = {"fmt": "o", "color": BLUE if better else QUIET, "markersize": 5, "linewidth": 1.4}
        open_ = "better" not in row["verdict"] and row["verdict"] != "equal"
        style |= {"markerfacecolor": "none"} if open_ else {}
        ax.errorbar(x, place, xerr=sides(np.array([x]), low, high), **style)
    name_rows(ax, [f"{row.A} \N{MINUS SIGN} {row.B}" for row in rows.itertuples()])
    style = {"transform": ax.transAxes, "color": QUIET, "va": "bottom"}
    ax.text(0, 1.02, "\N{LEFTWARDS ARROW} first is better", ha="left", **style)
    ax.text(1, 1.02, "second is better \N{RIGHTWARDS ARROW}", ha="right", **style)
    ax.set(xlabel="years")
    reach = max(0.15, *map(abs, ax.get_xlim()))
    ax.set_xlim(-reach, reach)
    return figure


def plot_mae_by_age(groups):
    """MAE by true age, by each loss's own rule, mean over seeds; below it how many test images have
    that age."""
    figure, (top, bottom) = panel(3.8, nrows=2, sharex=True, height_ratios=[3, 1])
    for key, group in groups.items():
        by_age = per_image(group, "exact").groupby("true_age")["MAE"].agg(["mean", "size"])
        top.plot(by_age.index, by_age["mean"], marker=".", linewidth=1.2, **line(key))
    bottom.bar(by_age.index, by_age["size"], color=QUIET)
    top.set(ylabel="MAE (years)", ylim=(0, None))
    bottom.set(xlabel="true age (years)", ylabel="images")
    legend(figure, top)
    return figure


def plot_cumulative_score(groups):
    """Share of test images whose error is at most so many years, by each loss's own rule: the
    higher, the better."""
    figure, ax = panel(3.2)
    for key, group in groups.items():
        absolute = pd.concat([result["exact"]["error"].abs() for result in group])
        within = [100 * (absolute <= years).mean() for years in range(21)]
        ax.plot(range(21), within, marker=".", linewidth=1.2, **line(key))
    ax.set(xlabel="error of at most (years)", ylabel="test images (%)", ylim=(0, 102))
    ax.set_xticks(range(0, 21, 5))
    legend(figure, ax)
    return figure


def plot_reliability(groups):
    """Are the probabilities true? Where the network says that somebody is above an age with so many
    %, that is so as often as the upper panel tells: on the grey line as often as it says. Below:
    how many such statements there are, over all images, ages and seeds."""
    figure, (top, bottom) = panel(4, nrows=2, sharex=True, height_ratios=[3, 1])
    top.plot([0, 100], [0, 100], color=QUIET, linewidth=1)
    most = 0
    for key, group in groups.items():
        pairs, given, happened = np.sum([result["reliability"] for result in group], axis=0)
        pairs[pairs == 0] = np.nan
        top.plot(100 * given / pairs, 100 * happened / pairs, marker="o", markersize=4, **line(key))
        bottom.plot(100 * given / pairs, pairs, marker="o", markersize=4, **line(key))
        most = max(most, np.nanmax(pairs))
    bottom.set_yscale("log")
    ticks = [10**power for power in range(0, 9, 2) if 10**power <= most]
    bottom.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
    bottom.minorticks_off()
    bottom.set_ylim(0.7, 2 * most)
    top.set(ylabel="are above it (%)", ylim=(-3, 103))
    bottom.set(xlabel="P(above an age) by the network (%)", ylabel="statements")
    legend(figure, top)
    return figure


def plot_predicted_against_true(groups):
    """Test images, over all seeds, by true and predicted age: the stronger the colour, the more. On
    the line there is no error; below it people are taken for younger than they are."""
    figure, ax = panel(2.7, 2.5)
    [group] = groups.values()
    ages = pd.concat([result["exact"][["true_age", "predicted_age"]] for result in group])
    edges = np.arange(ages.min().min() - 0.5, ages.max().max() + 1)
    counts = np.histogram2d(*ages.to_numpy().T, [edges, edges])[0].T
    counts[counts == 0] = np.nan
    ax.pcolormesh(edges, edges, counts, norm=LogNorm(), cmap=SHADES, rasterized=True)
    ax.axline((edges[0], edges[0]), slope=1, color=LIGHT["orange"], linewidth=1)
    ax.set(title=shown(label(next(iter(groups)))), xlabel="true age (years)")
    ax.set(ylabel="predicted age (years)", aspect="equal")
    ax.locator_params(nbins=5)
    return figure


def plot_curves(groups):
    """Training: the mean cost of each epoch, as % of the first epoch's, which every loss counts in
    a unit of its own; a line for each run."""
    figure, ax = panel(3.2)
    curves(ax, groups, lambda table: 100 * table["cost"] / table["cost"].iloc[0])
    ax.set(xlabel="epoch", ylabel="cost (%, first epoch: 100)", ylim=(0, None))
    legend(figure, ax)
    return figure


def plot_validation(groups):
    """MAE on the validation images after each epoch; a line for each run."""
    figure, ax = panel(3.2)
    curves(ax, groups, lambda table: table["valid_mae"])
    ax.set(xlabel="epoch", ylabel="validation MAE (years)")
    legend(figure, ax)
    return figure


def curves(ax, groups, figure_of):
    known = set()
    for key, group in groups.items():
        for result in group:
            style = line(key) if "mae" in result else unfinished_line(key)
            if style["label"] in known:
                style["label"] = None
            known.add(style["label"])
            if len(result["curves"]) == 1:  # of which a line shows nothing
                style["marker"] = "."
            epochs, values = result["curves"]["epoch"], figure_of(result["curves"])
            ax.plot(epochs, values, linewidth=1, **style)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def validated(groups):
    """The groups that have been validated after epochs."""
    held = {
        key: [r for r in group if r["curves"]["valid_mae"].notna().any()]
        for key, group in groups.items()
    }
    return {key: group for key, group in held.items() if group}


def pictures(number, groups):
    """{name of a file, without suffix: its picture, of pages.picture()} of a comparison."""
    ways = {  # what is drawn of which groups
        plot_errors: having(groups, "median_errors"),
        plot_mae_by_age: having(groups, "exact"),
        plot_cumulative_score: having(groups, "exact"),
        plot_reliability: having(groups, "reliability"),
        plot_curves: having(groups, "curves"),
        plot_validation: validated(groups),
    }
    found = {}
    for plot, shown_groups in ways.items():
        if shown_groups:
            found[f"{number}-{slug(plot)}"] = drawing(plot, shown_groups)
    for place, (key, group) in enumerate(having(groups, "exact").items(), 1):
        name = f"{number}-{slug(plot_predicted_against_true)}-{place}"
        svg, _ = drawing(plot_predicted_against_true, {key: group})
        found[name] = svg, ""  # what is said of one is said of all
    return found


def caption(plot):
    return " ".join(plot.__doc__.split())


def slug(plot):
    return plot.__name__.removeprefix("plot_").replace("_", "-")


def drawing(plot, given):
    with matplotlib.rc_context(DRAWN):
        return picture(plot(given), caption(plot))
