"""The page of an audit: the figures of audit.py in tables and pictures, in one HTML file.

    files = report.pages(audit, about)  # {name of a file: its text}
    pages.write(folder, files)

There is no photo in any of them.
"""

import html
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from coral_age import audit as figures
from coral_age.answers import NOTE
from coral_age.labels import GENDERS
from coral_age.pages import (
    AUDITS,
    BLUE,
    DRAWN,
    LIGHT,
    PERCENT,
    QUIET,
    WIDE,
    alone,
    drawn,
    escaped,
    number,
    picture,
    shown,
    sides,
    whole,
)

ORANGE, PAGE, SHADES = LIGHT["orange"], LIGHT["page"], [LIGHT[f"shade{i}"] for i in range(4)]
MARKERS = "o", "s", "^", "D"  # of the shades, which are told apart on paper as well
HOLLOW = "Hollow: fewer than 30 photos."


# %% Pictures
def dots(table, marks, label):
    """Figures and their intervals by group, a line for each; marks: (column, what it is, its
    colour, marker), of shares as %."""
    lines, last = [], "all"  # (text, row, or None of a heading)
    for row in table.to_dict("records"):
        if row["by"] != last:
            lines.append((row["by"], None))
            last = row["by"]
        lines.append((row["group"], row))
    figure = Figure(figsize=(WIDE, 0.9 + 0.21 * len(lines)), layout="constrained")
    ax = figure.subplots()
    scale = 100 if "%" in label else 1
    for place, (name, what, colour, marker) in enumerate(marks):
        shift = 0.16 * (2 * place - len(marks) + 1)
        for few in (False, True):
            some = [
                (y + shift, *(scale * row[name + end] for end in ("", "_low", "_high")))
                for y, (_, row) in enumerate(lines)
                if row and is_known(row, name) and is_few(row, name) == few
            ]
            style = {"fmt": marker, "color": colour, "markersize": 5, "linewidth": 1.2}
            style |= {"markerfacecolor": PAGE} if few else {"label": what}
            y, x, low, high = np.array(some).reshape(-1, 4).T
            ax.errorbar(x, y, xerr=sides(x, low, high), **style)
    ax.set_yticks(range(len(lines)), [shown(text, 24) for text, _ in lines])
    for tick, (_, row) in zip(ax.get_yticklabels(), lines, strict=True):
        tick.set_fontweight("normal" if row else "bold")
    ax.tick_params(axis="y", length=0)
    ax.set(xlabel=label, ylim=(len(lines) - 0.4, -0.6))
    ax.grid(axis="y", visible=False)
    if len(marks) > 1:
        figure.legend(loc="outside upper center", ncols=len(marks))
    return figure


def plot_errors(table):
    marks = [("mae", "MAE", BLUE, "o"), ("too_old_by", "too old by", ORANGE, "D")]
    figure = dots(table, marks, "years")
    figure.axes[0].axvline(0, color=QUIET, linewidth=1)
    return figure


def plot_genders(table):
    return dots(table, [("gender_right", "", BLUE, "o")], "genders right (%)")


def plot_coverage(table, nominal):
    figure = dots(table, [("coverage", "", BLUE, "o")], "intervals that hold the true age (%)")
    figure.axes[0].axvline(100 * nominal, color=ORANGE, linewidth=1.2)
    return figure


def plot_width(table):
    return dots(table, [("width", "", BLUE, "o")], "mean width of the interval (years)")


def plot_limit(table):
    """The share of answers that count as over the limit by true age, a line for each buffer."""
    table = table[table["by"] == "true age"]
    figure = Figure(figsize=(WIDE, 3.3), layout="constrained")
    ax = figure.subplots()
    first = table[table["buffer"] == table["buffer"].min()]
    places = {name: x for x, name in enumerate(first["true_age"])}
    for (buffer, part), shade, marker in zip(
        table.groupby("buffer"), SHADES, MARKERS, strict=False
    ):
        x, y = part["true_age"].map(places), 100 * part["over"]
        if buffer == first["buffer"].iloc[0]:
            ends = sides(y, 100 * part["over_low"], 100 * part["over_high"])
            ax.errorbar(x, y, ends, fmt="none", color=shade, linewidth=1)
        text = f"buffer {buffer}" if buffer else "no buffer"
        style = {"color": shade, "marker": marker, "markersize": 4, "linewidth": 1.2}
        ax.plot(x, y, **style, markerfacecolor=PAGE)
        many = y.where(part["over_of"] >= figures.FEW)
        ax.plot(x, many, **style | {"linewidth": 0})
        ax.plot([], [], **style, label=text)
    border = (~first["old_enough"]).sum() - 0.5
    ax.axvline(border, color=ORANGE, linewidth=1.2)
    ax.text(border - 0.15, 106, "younger ", ha="right", va="center", color=ORANGE)
    ax.text(border + 0.15, 106, " old enough", ha="left", va="center", color=ORANGE)
    ax.set_xticks(list(places.values()), [shown(name, 12) for name in places], rotation=60)
    ax.set(xlabel="true age (years)", ylabel="answered as over (%)", ylim=(-3, 112))
    ax.set_yticks(range(0, 101, 20))
    figure.legend(loc="outside upper center", ncols=4, columnspacing=1, handlelength=1.5)
    return figure


def plot_reliability(table):
    """What happened against what was said, and the number of photos in each bin."""
    figure = Figure(figsize=(WIDE, 3.8), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    top.plot([0, 100], [0, 100], color=ORANGE, linewidth=1.2)
    x, y = 100 * table["mean_p"], 100 * table["share"]
    ends = sides(y, 100 * table["share_low"], 100 * table["share_high"])
    few = table["share_of"] < figures.FEW
    for where, face in ((~few, BLUE), (few, PAGE)):
        style = {"fmt": "o", "color": BLUE, "markersize": 5, "markerfacecolor": face}
        top.errorbar(x[where], y[where], ends[:, where], linewidth=1.2, **style)
    middle = 50 * (table["p_from"] + table["p_to"])
    bottom.set_yscale("log")
    bottom.set_yticks([1, 10, 100, 1000, 10_000, 100_000], "1 10 100 1,000 10,000 100,000".split())
    bottom.bar(middle, table["share_of"], 9, color=BLUE)
    top.set(ylabel="really that old (%)", ylim=(-4, 104))
    bottom.set(xlabel="P by the network (%)", ylabel="photos", xlim=(-2, 102))
    bottom.set_ylim(0.7, 1.5 * table["share_of"].max())
    return figure


def plot_risk(curve, table, name, words):
    """The risk at each share answered, and intervals at those of the table; words: of the axes."""
    scale = 100 if name == "wrong" else 1
    figure = Figure(figsize=(WIDE, 3), layout="constrained")
    ax = figure.subplots()
    _, shares, risks = curve
    ax.axhline(scale * risks[-1], color=ORANGE, linewidth=1.2)
    ax.plot(100 * shares, scale * risks, color=BLUE, linewidth=1.4)
    y, low, high = (scale * table[name + end] for end in ("", "_low", "_high"))
    style = {"fmt": "o", "color": BLUE, "markersize": 4, "linewidth": 1.2}
    ax.errorbar(100 * table["answered"], y, sides(y, low, high), **style)
    top = max(high.max(), scale * risks[shares >= 0.1].max())
    ax.set(xlabel="photos answered (%)", ylabel=words, xlim=(0, 102), ylim=(0, 1.05 * top or 1))
    return figure


# %% Tables
def is_known(row, name):
    return row.get(name) is not None and not np.isnan(row[name])


def is_few(row, name):
    return row[f"{name}_of"] < figures.FEW


def cell(row, name, form):
    """A figure of ``row`` and below it its interval."""
    if not is_known(row, name):
        return "<td>"
    ends = [number(row[f"{name}_{end}"], form) for end in ("low", "high")]
    few = is_few(row, name)
    text = f"{number(row[name], form)}{' *' * few}<small>{ends[0]} to {ends[1]}</small>"
    return f"<td class=few>{text}" if few else f"<td>{text}"


def years(name, form=".2f"):
    return lambda row: cell(row, name, form)


def percent(name):
    return lambda row: cell(row, name, ".1%")


def count(name):
    """A count, which is marked where it is of few photos."""

    def of(row):
        value = int(row[name]) if is_known(row, name) else 0
        few = 0 < value < figures.FEW and (name == "photos" or name.endswith("_of"))
        return f"<td class=few>{value:,} *" if few else f"<td>{value:,}"

    return of


def plain(name, form):
    """A figure without an interval."""
    return lambda row: f"<td>{number(row[name], form) if is_known(row, name) else ''}"


def table_of(table, columns, first=("", "group")):
    """The rows as HTML; columns: {heading: what makes a cell of a row}; first: heading and column
    of the names of the rows, which have a heading of their own where a column ``by`` changes."""
    heading, name = first
    heads = "".join(f"<th scope=col>{html.escape(text)}" for text in (heading, *columns))
    lines, last = [], table["by"].iloc[0] if "by" in table and len(table) else ""
    for row in table.to_dict("records"):
        by = row.get("by", last)
        if by != last:
            lines.append(
                f"<tr class=by><th scope=rowgroup colspan={len(columns) + 1}>{escaped(by)}"
            )
            last = by
        cells = "".join(make(row) for make in columns.values())
        lines.append(f"<tr><th scope=row>{escaped(row[name])}{cells}")
    body = "\n".join(lines)
    return f"<div class=scroll><table><thead><tr>{heads}<tbody>\n{body}\n</table></div>"


def has(table, name):
    return name in table and table[name].notna().any()


def differs(table, a, b):
    return a in table and b in table and (table[a].fillna(0) != table[b].fillna(0)).any()


# %% Sections: of each its heading, its HTML, and {name: table} and {name: picture}
def section_errors(audit):
    table, pictures = figures.errors(audit), {}
    columns = {"photos": count("photos")}
    if has(table, "mae"):
        caption = "MAE, and by how many years answers are too old on average, with 95 % intervals."
        pictures["errors"] = picture(plot_errors(table), f"{caption} {HOLLOW}")
        columns |= {"ages known": count("mae_of")} if differs(table, "photos", "mae_of") else {}
        columns |= {"MAE (years)": years("mae"), "too old by (years)": years("too_old_by", "+.2f")}
        columns |= {"AMAE (years)": years("amae")} if has(table, "amae") else {}
    if has(table, "in_range"):
        other = differs(table, "photos", "in_range_of")
        columns |= {"ranges": count("in_range_of")} if other else {}
        columns |= {"age in the range (%)": percent("in_range")}
    if has(table, "gender_right"):
        caption = f"Share of genders that are right, with 95 % intervals. {HOLLOW}"
        pictures["genders"] = picture(plot_genders(table), caption)
        other = differs(table, "photos", "gender_right_of")
        columns |= {"genders known": count("gender_right_of")} if other else {}
        columns |= {"gender right (%)": percent("gender_right")}
    text = """<p>The error of an age is its distance in years to the true one, or to the nearest one
    of the range where the label is a range. <b>MAE</b>: mean absolute error. <b>Too old by</b>:
    mean error with its sign; below 0 the answers are too young. <b>AMAE</b>: mean of the MAEs of
    all age groups that have photos, in which each counts the same, however few they are.</p>"""
    body = text + drawn(pictures) + table_of(table, columns)
    return "Errors by group", body, {"errors": table}, pictures


def section_limits(audit):
    table, pictures = figures.limits(audit), {}
    by_age, by_group = figures.limits_by_age(audit), figures.limits_by_group(audit)
    tables = {"limits": table, "limits-by-age": by_age, "limits-by-group": by_group}
    body = f"""<p>An answer counts as over a limit where the predicted age is at least the limit and
    a buffer together. <b>Let through</b>: of those younger than the limit, the share whose answer
    counts as over (false positives). <b>Sent on</b> to another check: of those who are old enough,
    the share whose answer does not (false negatives). A larger buffer lets fewer through and sends
    more on. The shares hang on the ages that the photos show: small children are seldom taken for
    adults, so that of a group with many of them fewer are let through. Fairer to compare, where
    there are photos enough, are single ages near the limit.</p>{missing(table)}"""
    if table.empty:
        return "Over an age limit", body, tables, pictures
    rows = table.drop_duplicates("limit").itertuples()
    if left := ", ".join(f"{row.left_out:,} at {row.limit}" for row in rows if row.left_out):
        body += f"<p>Left out, as their labels are ranges with ages on both sides: {left}.</p>"
    given = table["limit"].unique()
    for limit in given:
        caption = f"Limit {limit}: share of answers that count as over, by true age. Left of the "
        caption += (
            "line it should be 0 %, right of it 100 %. Bars: 95 % intervals without a buffer. "
        )
        plot = plot_limit(by_age[by_age["limit"] == limit])
        caption += "Ages known as ranges are in the table alone. " * (len(audit.ages) > 1)
        pictures[f"limit-{limit}"] = picture(plot, caption + HOLLOW)
    sides = {"let_through": ("younger", "let through, "), "sent_on": ("old enough", "sent on, ")}
    body += "<h3>All photos (%)</h3>" + by_buffer(table, sides, ("limit", "limit"))
    body += drawn(pictures)
    over = {"over": ("photos", "")}
    for limit in given:
        part = by_buffer(by_age[by_age["limit"] == limit], over, ("true age", "true_age"))
        body += folded(f"Limit {limit}, by true age: counted as over (%)", part)
    for limit in given:
        part = by_buffer(by_group[by_group["limit"] == limit], sides, ("", "group"))
        body += folded(f"Limit {limit}, by group (%)", part)
    return "Over an age limit", body, tables, pictures


def folded(title, body):
    """A part that is shown when its title is clicked."""
    return f"<details><summary>{title}</summary>{body}</details>"


def missing(table):
    """The limits that ``table`` has not, in words."""
    given = set() if table.empty else set(table["limit"])
    left = ", ".join(str(limit) for limit in figures.LIMITS if limit not in given)
    what = "there are no photos of younger people, or none of people who are old enough"
    return f"<p>Nothing can be said of the limits {left}: {what}.</p>" if left else ""


def by_buffer(table, sides, first):
    """The rows of one limit as HTML, with a column for each buffer; sides: {figure: (heading of
    its count, words before that of the buffer)}; first: as of table_of()."""
    rows, columns = table[table["buffer"] == figures.BUFFERS[0]], {}
    keys = [name for name in ("by", first[1]) if name in rows]
    for name, (heading, words) in sides.items():
        columns[heading] = count(f"{name}_of")
        for buffer in figures.BUFFERS:
            part = table[table["buffer"] == buffer]
            ends = {end: f"{name}{buffer}{end}" for end in ("", "_low", "_high", "_of")}
            part = part[keys].assign(**{new: part[name + end] for end, new in ends.items()})
            rows = rows.merge(part, on=keys)
            columns[f"{words}{f'buffer {buffer}' if buffer else 'no buffer'}"] = percent(
                f"{name}{buffer}"
            )
    return table_of(rows, columns, first)


def section_reliability(audit):
    (bins, table), pictures = figures.calibration(audit), {}
    body = f"""<p>P(age ≥ T), the probability that somebody is T years old or more, is the sum of
    the network's probabilities of these ages. Of all who get 80 %, 80 in 100 should be that old.
    <b>ECE</b>: expected calibration error, by how much what was said differs from what was so, in
    ten equal bins, averaged over the photos; with few photos it comes out too large.</p>
    {missing(table)}"""
    for limit in [] if table.empty else table["limit"]:
        caption = f"P(age ≥ {limit}): share of people who were that old against P, with "
        caption += "95 % intervals; on the line both agree. Below: number of photos (logarithmic). "
        plot = plot_reliability(bins[bins["limit"] == limit])
        pictures[f"reliability-{limit}"] = picture(plot, caption + HOLLOW)
    if pictures:
        columns = {"photos": count("share_of"), "ECE (%)": plain("ece", ".1%")}
        columns |= {"P, mean (%)": plain("mean_p", ".1%"), "that old (%)": percent("share")}
        named = table.assign(limit=table["limit"].map(lambda limit: f"P(age ≥ {limit})"))
        body += table_of(named, columns, ("", "limit")) + drawn(pictures)
    tables = {"calibration": table, "reliability": bins}
    return "Probability of being over a limit", body, tables, pictures


def section_intervals(audit, interval):
    table, pictures = figures.coverage(audit), {}
    meant = f"{number(interval, '.0%')} %"
    columns = {"photos": count("photos")}
    if has(table, "coverage"):
        caption = f"Share of intervals that hold the true age; the line is at {meant}. "
        pictures["coverage"] = picture(plot_coverage(table, interval), caption + HOLLOW)
        other = differs(table, "photos", "coverage_of")
        columns |= {"ages known": count("coverage_of")} if other else {}
        columns |= {"holds the true age (%)": percent("coverage")}
    if has(table, "range_met"):
        other = differs(table, "photos", "range_met_of")
        columns |= {"ranges": count("range_met_of")} if other else {}
        columns |= {"meets the range (%)": percent("range_met")}
    if has(table, "said"):
        columns["said to hold (%)"] = plain("said", ".1%")
    if has(table, "width"):
        caption = f"Mean width of the intervals. {HOLLOW}"
        pictures["width"] = picture(plot_width(table), caption)
        columns["width (years)"] = years("width", ".1f")
    body = f"""<p>With each age comes an interval, which is meant to hold the true age of at least
    {meant} of people. <b>Said to hold</b>: the network's own probability that it does, on average.
    <b>Meets the range</b>, where labels are ranges: some age is in both, which says less. An
    interval from 20 to 42 has a width of 22 years. By predicted age is what a reader of the
    answers sees; by true age is what people of that age meet with.</p>"""
    body += drawn(pictures) + table_of(table, columns)
    return "Intervals: coverage and width", body, {"coverage": table}, pictures


def section_found(audit, crops):
    table = figures.found(audit)
    columns = {"labelled photos": count("answered_of"), "answered (%)": percent("answered")}
    columns |= {"no face found": count("no_face"), "not readable": count("unreadable")}
    body = "<p>All other figures are of the photos in which a face was found"
    body = (
        f"{body}.</p>"
        if not crops
        else "<p>The photos are faces as a whole: none was looked for.</p>"
    )
    if audit.answered.all():
        body += f"<p>All {len(audit.photos):,} labelled photos were answered.</p>"
    else:
        body += table_of(table, columns)
    return "Photos without an answer", body, {"found": table}, {}


def section_risk(audit):
    table, pictures, tables = figures.risk(audit), {}, ""
    for answer, curve in figures.curves(audit).items():
        rows = table[table["answer"] == answer]
        if answer == "age":
            name, words = "mae", "MAE (years)"
            columns = {"photos": count("mae_of"), "width at most (years)": plain("width", ".0f")}
            columns[words], title = years("mae"), "Ages, the narrowest intervals first"
        else:
            name, words = "wrong", "genders wrong (%)"
            columns = {"photos": count("wrong_of")}
            columns["probability at least (%)"] = plain("probability", ".1%")
            columns[words], title = percent("wrong"), "Genders, the highest probabilities first"
        caption = f"{title}. The line: all photos answered."
        pictures[f"risk-{answer}"] = picture(plot_risk(curve, rows, name, words), caption)
        share = rows["answered"].map(lambda share: f"{number(share, '.1%')} %")
        part = table_of(rows.assign(answered=share), columns, ("answered", "answered"))
        tables += f"<div><h3>{title}</h3>{part}</div>"
    body = """<p>Who may answer “not sure” errs less. Here only those photos are answered that have
    the narrowest intervals (ages) or the highest probabilities (genders). They are no fair sample
    of all: narrow intervals are often those of children, sure genders those of adults.</p>"""
    body += f"{drawn(pictures)}<div class=tables>{tables}</div>"
    return "Risk against coverage", body, {"risk": table}, pictures


# %% The page
@dataclass
class About:
    """What is said of an audit."""

    model: str  # what answered
    photos: str  # whose photos and labels they are
    facts: dict  # {what: text}, in a table
    interval: float  # share of people whose age an interval is meant to hold
    crops: bool  # the photos are faces as a whole


def with_ends(row, name, form):
    """A figure and its interval in words."""
    unit = PERCENT if form.endswith("%") else " years"
    low, high = (number(row[f"{name}_{end}"], form) for end in ("low", "high"))
    return f"<b>{number(row[name], form)}{unit}</b> (95{PERCENT}: {low} to {high})"


def summary(tables, interval):
    """The main figures, in a list; ``interval`` is the share of ages that one is to hold."""
    table, lines = tables["errors"], []
    [row] = table.to_dict("records")[:1] or [{}]
    if row.get("mae_of"):
        far = " from the range, where the label is one" if row["in_range_of"] else ""
        way, off = "old" if row["too_old_by"] > 0 else "young", abs(row["too_old_by"])
        lines.append(
            f"Ages are off by {with_ends(row, 'mae', '.2f')} on average{far}, over "
            f"{row['mae_of']:,} photos; on the whole answers are too {way} by {off:.2f} years."
        )
    lines += spread(table, "mae", "Mean absolute error (MAE)", ".2f")
    if row.get("gender_right_of"):
        right = with_ends(row, "gender_right", ".1%")
        lines.append(f"Of {row['gender_right_of']:,} genders {right} are right.")
    lines += spread(table, "gender_right", "Genders right", ".1%")
    for limit, rows in tables["limits"].groupby("limit") if len(tables["limits"]) else ():
        lines.append(limit_in_words(limit, rows, tables["limits-by-age"]))
    [row] = tables["coverage"].to_dict("records")[:1] or [{}]
    if row.get("coverage_of"):
        held = with_ends(row, "coverage", ".1%")
        due = number(interval, ".0%") + PERCENT
        wide = f"{row['width']:.1f} years wide"
        lines.append(f"Intervals of {due}, {wide}, hold {held} of the true ages.")
    if has(table, "few") and table["few"].any():
        lines.append(f"Groups of fewer than {figures.FEW} photos are left out of this list.")
    return f"<ul>{''.join(f'<li>{line}' for line in lines)}</ul>" if lines else ""


def limit_in_words(limit, rows, by_age):
    """Who is let through and sent on without a buffer and with the largest, of those just below
    the limit as well: of all who are younger many are small children, who are easily told."""
    first, *_, last = rows.to_dict("records")
    ages = [str(limit - 2), str(limit - 1)]
    near = by_age[(by_age["limit"] == limit) & by_age["true_age"].isin(ages)]
    near = near.groupby("buffer")[["over_count", "over_of"]].sum()
    close = later = ""
    if len(near) and (total := near["over_of"].iloc[0]) >= figures.FEW:
        shares = (near["over_count"] / total).map(lambda share: f"{number(share, '.0%')}{PERCENT}")
        people = f"of the {total:,.0f} people of {' and '.join(ages)} years"
        close = f"<b>{shares[first['buffer']]}</b> {people}, "
        later = f"<b>{shares[last['buffer']]}</b>, "
    (through, on), (later_through, later_on) = (
        [number(row[name], ".1%") + PERCENT for name in ("let_through", "sent_on")]
        for row in (first, last)
    )
    return (
        f"A limit of {limit} years lets through {close}{through} of all who are younger, and sends "
        f"on {on} of those who are old enough; with a buffer of {last['buffer']} years "
        f"{later}{later_through} and {later_on}."
    )


def spread(table, name, what, form):
    """Lines that tell the lowest and the highest figure by group, but those of few photos."""
    unit = PERCENT if form.endswith("%") else " years"
    for by, part in table.groupby("by", sort=False) if has(table, name) else ():
        part = part[part[f"{name}_of"] >= figures.FEW]
        if by != "all" and len(part) > 1:
            low, high = (
                f"{number(part.loc[place, name], form)}{unit} ({escaped(part.loc[place, 'group'])})"
                for place in (part[name].idxmin(), part[name].idxmax())
            )
            yield f"{what} by {escaped(by)}: from {low} to {high}."


def introduction(audit, about):
    """What was measured on what, and what may not be concluded."""
    photos = audit.photos
    exact, ranges = photos["low"] == photos["high"], photos["low"] < photos["high"]
    smaller = "that it errs less in groups whose ages are ranges, to which errors are smaller; "
    smaller = smaller if exact.any() and ranges.any() else ""
    counts = {"ages in years": exact, "ages as ranges": ranges}
    counts["genders"] = photos["true_gender"].isin(GENDERS)
    known = ", ".join(f"{n:,} {what}" for what, some in counts.items() if (n := some.sum()))
    facts = "".join(f"<dt>{escaped(k)}<dd>{escaped(v)}" for k, v in about.facts.items() if v)
    return f"""<div class=card><p><b>What was measured:</b> the answers of {escaped(about.model)}
    for {len(photos):,} labelled photos ({escaped(about.photos)}). The labels tell {known}, and are
    taken to be right; groups are those that they name.</p>
    <p><b>What may not be concluded:</b> that it errs as little or as much on other photos, cameras
    or people; {smaller}anything about a single person; that it is good enough for a purpose: this
    is a report, and no verdict. Where groups differ, their photos may differ too: in ages, in
    light, in sharpness. {NOTE}</p></div>
    <dl>{facts}</dl>
    <p class=quiet>Small print below a figure: its 95 % interval, by how much it may be off because
    these photos were taken and no others like them (Wilson's for shares, 2,000 bootstrap resamples
    for means, seed 0). Of 20 such intervals about one misses. <i>An asterisk *</i>: fewer than
    {figures.FEW} photos.</p>"""


def pages(audit, about):
    """{name of a file: its text}: index.html, and its tables as CSV and pictures as SVG."""
    with matplotlib.rc_context(DRAWN):
        sections = [
            section_errors(audit),
            section_limits(audit),
            section_reliability(audit),
            section_intervals(audit, about.interval),
            section_found(audit, about.crops),
            section_risk(audit),
        ]
    files, tables, parts, links = {}, {}, [], []
    for place, (title, body, its, pictures) in enumerate(sections, 1):
        tables |= its
        files |= {
            f"{name}.csv": table.to_csv(index=False, float_format="%.6g")
            for name, table in its.items()
        }
        files |= {f"{name}.svg": alone(svg) for name, (svg, _) in pictures.items()}
        csvs = ", ".join(f'<a href="{name}.csv">{name}.csv</a>' for name in its)
        parts.append(f"<h2 id=s{place}>{place}. {title}</h2>{body}")
        parts.append(f"<p class=quiet>The figures of this section: {csvs}</p>")
        links.append(f"<li><a href=#s{place}>{title}</a>")
    body = "\n".join(parts)
    title = escaped(f"Audit report: {about.model}")
    body = f"""{introduction(audit, about)}
<h2>In short</h2>{summary(tables, about.interval)}
<nav><ol>{"".join(links)}</ol></nav>
{body}"""
    files["index.html"] = whole(title, AUDITS, body)
    return files
