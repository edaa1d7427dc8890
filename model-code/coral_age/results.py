"""The page of summarize.py --out: losses side by side, in one HTML file.

    files = results.pages(comparisons, tables, about)  # {name of a file: its text}
    pages.write(folder, files)

A comparison is as groups.py has it; the figures are in tables of texts that summarize.py made.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from coral_age import plots, significance
from coral_age.groups import LOSSES, first_of, label, named
from coral_age.pages import SUMMARIES, alone, drawn, escaped, whole

DATASETS = {"afad": "AFAD", "cacd": "CACD", "morph2": "MORPH-2", "utk": "UTKFace"}
# heading: {what a row says: its column in one of the tables}
FIGURES = {
    "Mean absolute error (years)": {
        "own rule": "MAE: own rule",
        "median": "MAE: median",
        "mean": "MAE: mean",
        "AMAE, median": "AMAE: median",
        "to a range": "MAE to range",
    },
    "Root mean squared error (years)": {
        "own rule": "RMSE: own rule",
        "median": "RMSE: median",
        "mean": "RMSE: mean",
    },
    "Answers (%)": {
        "within 5 years": "CS(5) %",
        "within 10 years": "CS(10) %",
        "inside a range": "group accuracy %",
        "inside or one group off": "one-off %",
        "gender right": "gender accuracy %",
    },
    "Probabilities": {
        "CRPS (years)": "CRPS",
        "NLL": "NLL",
        "80 % intervals hold (%)": "in interval %",
        "their length (years)": "interval years",
        "inconsistencies per image": "rank inconsistencies",
    },
    "Training": {
        "seeds": "seeds",
        "learning rate": "lr",
        "epochs": "epochs",
        "minutes": "minutes",
    },
}
READING = {
    "figures": """Means over seeds ± sample standard deviation. Each loss's probabilities are
    answered in three ways: by its <b>own rule</b> (the most probable age for CE and SORD, the mean,
    rounded, for DLDL-v2 and L1, the number of P(y > k) above 0.5 for the others), by their
    <b>median</b>, which is the same reading for all, and by their <b>mean</b>, not rounded.
    <b>AMAE</b>: mean of the MAEs of the single ages, of which some have few images. <b>CRPS</b>:
    scores the whole distribution; where an age is certain it is the absolute error. <b>NLL</b>:
    mean of &minus;log(0.99 P(y) + 0.01/K) of the true age y among K. <b>Intervals</b>: those of
    predict.py, of 80 %, whether they hold the true age. <b>Inconsistencies</b>: per image, how many
    P(y > k+1) are above P(y > k). Lower is better in all but the answers and the intervals, which
    should hold 80 %. An age known as a range counts in the rows that speak of ranges alone.""",
    "verdicts": f"""Difference: MAE by the median, first loss minus second, below 0 where the first
    is better. Interval: 95 % of {significance.RESAMPLES:,} bootstrap resamples of test images and
    seeds together. <b>Better</b>: a difference of 0 is ruled out (5 %, by Holm's procedure over all
    pairs). <b>Equal</b>: more than {significance.MARGIN:.2f} years are ruled out, in the same way.
    <b>Not settled</b>: neither; the interval tells how large the difference may be. One seed alone
    gives an interval over images, and no verdict.""",
    "paired": """By each loss's own rule; A &minus; B as above. Over images: by 2,000 bootstrap
    resamples of the test images, the trained networks being given. Over seeds: by a two-sample t,
    the test images being given. Nothing is corrected for the number of pairs.""",
}


@dataclass
class About:
    """What else is said in a report."""

    out: Path  # its folder
    conclusions: list  # a sentence for each comparison
    notes: list  # remarks
    audits: dict  # {(folder of a run, epoch): folder of the audit's page in ``out``}


# %% Tables
def heads_of(losses):
    """Names that stay on one line."""
    return [escaped(name).replace("-", "\N{NON-BREAKING HYPHEN}") for name in losses]


def table_of(heads, rows):
    """HTML of ``rows``, each a list of cells of HTML, or a text, which is a heading of others."""
    head = "".join(f"<th scope=col>{text}" for text in heads)
    lines = [
        f"<tr class=by><th scope=rowgroup colspan={len(heads)}>{row}"
        if isinstance(row, str)
        else f"<tr><th scope=row>{row[0]}" + "".join(f"<td>{cell}" for cell in row[1:])
        for row in rows
    ]
    lines = "\n".join(lines)
    return f"<div class=scroll><table><thead><tr>{head}<tbody>\n{lines}\n</table></div>"


def cell(text):
    """A figure, its standard deviation below it."""
    text = re.sub(r"(?<!\w)-(?=\d)", "\N{MINUS SIGN}", escaped(text))
    value, _, deviation = text.partition(" ± ")
    return f"{value}<small>± {deviation}</small>" if deviation else value


def figures_of(tables):
    """{loss: {column: text}} of the tables of one comparison."""
    found = {}
    for row in tables["results"].to_dict("records"):
        name = named(row["loss"], row["imp. weights"] == "1", row["variant"])
        row["MAE: own rule"], row["RMSE: own rule"] = (
            f"{row[f'test {what}']} ± {row[f'{what} sd']}".removesuffix(" ± ")
            for what in ("MAE", "RMSE")
        )
        found[name] = row
    for table in (tables["decoding"], tables["probabilities"]):
        for row in table.to_dict("records"):
            found[row["loss"]] |= row
    return found


def side_by_side(found):
    """The FIGURES of figures_of(), a column for each loss."""
    rows = []
    for heading, lines in FIGURES.items():
        told = {
            what: [its.get(column, "") for its in found.values()] for what, column in lines.items()
        }
        told = {what: texts for what, texts in told.items() if any(texts)}
        rows += [heading] if told else []
        rows += [[what, *map(cell, texts)] for what, texts in told.items()]
    return table_of(["", *heads_of(found)], rows)


def verdict_table(table):
    rows = []
    for row in table.to_dict("records"):
        told = escaped(row["verdict"])
        told = f"<b>{told}</b>" if re.search("better|equal", told) else told
        pair = f"{escaped(row['A'])} \N{MINUS SIGN} {escaped(row['B'])}<small>{told}</small>"
        rows.append([pair, f"{cell(row['A - B'])}<small>{cell(row['95 % interval'])}</small>"])
    return table_of(["pair and verdict", "difference (years)"], rows)


GROUP_FIGURES = {  # column: what a table of it is called
    "MAE": "MAE by each loss's own rule (years)",
    "bias": "Too old by (years; below 0 the answers are too young)",
    "MAE to range": "Years from the range",
    "group accuracy %": "Inside the range (%)",
    "gender accuracy %": "Genders right (%)",
}


def group_tables(table):
    """A table of each of GROUP_FIGURES, a row for each group, a column for each loss."""
    losses, parts = list(dict.fromkeys(table["loss"])), []
    for column, title in GROUP_FIGURES.items():
        rows, last = [], None
        for (by, group), some in table.groupby(["by", "group"], sort=False):
            texts = dict(zip(some["loss"], some[column], strict=True))
            if any(texts.values()):
                rows += [by] if by != last else []
                last = by
                counts = escaped(some["images"].iloc[0])
                values = (cell(texts.get(loss, "")) for loss in losses)
                rows.append([escaped(group), counts, *values])
        if rows:
            heads = ["", "images", *heads_of(losses)]
            parts.append(f"<div><h4>{title}</h4>{table_of(heads, rows)}</div>")
    return f"<div class=tables>{''.join(parts)}</div>"


def run_table(groups, about):
    """The runs, each with a link to its folder, its log and its audit."""
    rows = []
    for key, group in groups.items():
        for result in sorted(group, key=lambda result: result["seed"]):
            folder, done = result["folder"], "mae" in result
            name = f'<a href="{link(folder, about.out)}/">{escaped(folder.name or folder)}</a>'
            state = "" if done else ", unfinished"
            name += f"<small>{escaped(label(key))}, seed {result['seed']}{state}</small>"
            links = f'<a href="{link(folder / "training.log", about.out)}">log</a>'
            if audit := about.audits.get((folder, result["epoch"])):
                links += f', <a href="{audit}/index.html">audit</a>'
            told = [f"{result[what]:.{n}f}" if done else "" for what, n in RUN_FIGURES]
            rows.append([name, *told, links])
    return table_of(["", "MAE (own rule)", "minutes", ""], rows)


RUN_FIGURES = ("mae", 2), ("minutes", 1)  # with so many decimals


def link(path, out):
    """The address of a file or folder for a page in ``out``."""
    try:
        return quote(os.fsencode(Path(os.path.relpath(path, out)).as_posix()))
    except ValueError:  # on another drive
        return path.resolve().as_uri()


# %% The page
def title_of(groups):
    first = first_of(groups)
    gender = ", with gender" if first["gender"] else ""
    epoch = "" if first["epoch"] == "last" else f", epoch: {first['epoch']}"
    return f"{dataset_of(groups)}{gender}{epoch}"


def dataset_of(groups):
    name = first_of(groups)["dataset"]
    return DATASETS.get(name, name)


def facts_of(groups):
    """How many images and epochs, in words."""
    first = first_of(groups)
    texts = []
    for what, name in (("tested", "test"), ("trained", "train")):
        count = str(first["settings"].get(name)).split()[0]
        texts += [f"{what} on {int(count):,} images"] if count.isdecimal() else []
    texts.append(f"{first['epochs']} epoch{'s' * (first['epochs'] != 1)}")
    return f"<p>{', '.join(texts).capitalize()}.</p>"


def section(number, groups, tables, about, reading):
    """HTML of a comparison, and its {name: picture}; tables: its own rows of each; reading: what is
    left of READING to be said, once in a page."""
    pictures = plots.pictures(number, groups)
    verdicts = tables["verdicts"]
    if len(verdicts):
        pictures[f"{number}-differences"] = plots.drawing(plots.plot_differences, verdicts)

    def some(*names, kind="pictures"):
        its = {k: v for k, v in pictures.items() if k.split("-", 1)[1].startswith(names)}
        return drawn(its, kind)

    def explained(name):
        return f"<p class=quiet>{reading.pop(name)}</p>" if name in reading else ""

    parts = [facts_of(groups)]
    if len(verdicts):
        parts.append("<h3>Is the difference more than noise?</h3>")
        parts.append(f"<div class=tables><div class=one>{some('differences')}</div>")
        parts.append(f"<div>{verdict_table(verdicts)}</div></div>")
        parts.append(explained("verdicts"))
    if len(tables["results"]):
        parts.append("<h3>Errors and probabilities</h3><div class=tables>")
        parts.append(f"<div>{side_by_side(figures_of(tables))}</div>")
        parts.append(f"<div class=wide>{some('errors', 'reliability')}</div></div>")
        parts.append(explained("figures"))
    if shown := some("mae-by-age", "cumulative"):
        parts.append(f"<h3>Where the errors are</h3>{shown}")
    if len(tables["by_group"]):
        parts.append(group_tables(tables["by_group"]))
    if shown := some("predicted", kind="pictures many"):
        parts.append(f"<p>{plots.caption(plots.plot_predicted_against_true)}</p>{shown}")
    parts.append("<h3>The runs</h3><div class=tables>")
    parts.append(f"<div>{run_table(groups, about)}</div>")
    parts.append(f"<div class=wide>{some('curves', 'validation')}</div></div>")
    if len(tables["paired"]):
        rows = tables["paired"].drop(columns="comparison").to_numpy().tolist()
        rows = [list(map(cell, row)) for row in rows]
        heads = [escaped(name) for name in tables["paired"] if name != "comparison"]
        parts.append("<details><summary>Pairs by the losses' own rules</summary>")
        parts.append(f"{table_of(heads, rows)}{explained('paired')}</details>")
    settings = "".join(
        f"<dt>{escaped(name)}<dd>{escaped(value)}"
        for name, value in first_of(groups)["settings"].items()
        if value is not None
    )
    parts.append("<details><summary>Settings that all share</summary>")
    parts.append(f"<dl>{settings}</dl></details>")
    return "\n".join(parts), pictures


def pages(comparisons, tables, about):
    """{name of a file: its text}: index.html, and its pictures as SVG.

    tables: {name: DataFrame of texts}, those of summarize.py.
    """
    files, short, parts, reading = {}, [], [], dict(READING)
    for number, (groups, text) in enumerate(zip(comparisons, about.conclusions, strict=True), 1):
        its = {
            name: table[table["comparison"] == str(number)] if len(table) else table
            for name, table in tables.items()
        }
        body, pictures = section(number, groups, its, about, reading)
        files |= {f"{name}.svg": alone(svg) for name, (svg, _) in pictures.items()}
        title = title_of(groups)
        if [title_of(other) for other in comparisons].count(title) > 1 and len(its["results"]):
            title = ", ".join(filter(None, [title, its["results"]["settings"].iloc[0]]))
        title = escaped(title)
        if len(comparisons) == 1:
            short.append(f"<p>{escaped(text)}</p>")
            parts.append(body)
            continue
        short.append(f"<p><a href=#c{number}>{number}. {title}</a>: {escaped(text)}</p>")
        parts.append(f"<h2 id=c{number}>{number}. {title}</h2>\n{body}")
    if about.notes:
        notes = "".join(f"<li>{escaped(note)}" for note in about.notes)
        parts.append(f"<h2>Left out, and remarks</h2><ul>{notes}</ul>")
    csvs = ", ".join(f'<a href="{name}.csv">{name}.csv</a>' for name in tables)
    parts.append(f'<p class=quiet>The figures: {csvs}, <a href="results.md">results.md</a></p>')
    losses = ", ".join(dict.fromkeys(LOSSES[key[0]] for groups in comparisons for key in groups))
    where = ", ".join(dict.fromkeys(dataset_of(groups) for groups in comparisons))
    card = f"<div class=card>{''.join(short)}</div>"
    title = escaped(f"{losses} on {where}")
    files["index.html"] = whole(title, SUMMARIES, "\n".join([card, *parts]))
    return files
