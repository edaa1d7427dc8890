"""The figures of an audit against plain loops, the page in a browser, and the commands."""

import csv
import json
import math
import random
import re

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, chromium, load, looks_of, refused
from coral_age import audit, labels, pages, report
from PIL import Image
from test_predict import bare, call, predict, small  # noqa: F401 (bare is a fixture)
from test_summarize import write_run

EVIL = "<script>alert(1)</script>"
MONEY = "$\\frac{1$ \x07"  # mathematics to matplotlib, and a bell
K, YOUNGEST = 60, 5  # ages 5 to 64


def made_photos(count=400, seed=1):
    """(photos, probas, groups) of an Audit: ages, ranges and genders, some of them unknown, photos
    with and without an answer, and two columns of groups."""
    draw = random.Random(seed)
    photos, probas, groups = [], [], []
    for _ in range(count):
        true = draw.choice([*range(8, 26), *range(26, 62, 3)])
        begin = true // 10 * 10
        kind = draw.choice(["exact"] * 7 + ["range", "open", "none"])
        text = {"exact": f"{true}", "range": f"{begin}-{begin + 9}", "open": "50+", "none": ""}[
            kind
        ]
        score = min(max(true + draw.gauss(0, 5), YOUNGEST), YOUNGEST + K - 1)
        weights = [math.exp(-abs(age - score) / 3) for age in range(YOUNGEST, YOUNGEST + K)]
        probas.append([weight / sum(weights) for weight in weights])
        age = round(score)
        male = draw.random() < 0.6
        row = {"kind": "image", "true_age": text, "age": age}
        row |= {"age_low": age - draw.randrange(9), "age_high": age + draw.randrange(9)}
        row |= {"interval_probability": draw.uniform(0.8, 0.9)}
        row |= {"true_gender": draw.choice(["", *["male" if male else "female"] * 5])}
        row |= {"gender": draw.choice(["male", "female", *["male" if male else "female"] * 6])}
        row |= {"gender_probability": draw.randrange(50, 101) / 100}
        missing = draw.random()
        if missing < 0.1:
            row = {key: row[key] for key in ("true_age", "true_gender")}
            row["kind"] = "no face" if missing < 0.06 else "error"
        photos.append(row)
        groups.append({"camera": draw.choice(["", "A", "B", EVIL]), "$": draw.choice([MONEY, "x"])})
    return photos, np.array(probas, np.float32), groups


@pytest.fixture(scope="module")
def made():
    photos, probas, groups = made_photos()
    told = audit.Audit(pd.DataFrame(photos), probas, YOUNGEST, pd.DataFrame(groups))
    for row, some, group in zip(photos, probas, groups, strict=True):
        row["probas"], row["groups"] = [float(p) for p in some], group
    return told, photos


# ---- The same by plain loops


def ends_of(row):
    """Lowest and highest true age, or None."""
    text = row["true_age"]
    if not text:
        return None
    if text.endswith("+"):
        return int(text[:-1]), 150
    low, _, high = text.partition("-")
    return int(low), int(high or low)


def error_of(row):
    """Years from the nearest age that the label allows, or None."""
    if row["kind"] != "image" or not row["true_age"]:
        return None
    low, high = ends_of(row)
    return min(row["age"] - low, 0) if row["age"] < low else max(row["age"] - high, 0)


def age_group(row):
    low, high = ends_of(row) or (None, None)
    if low is None:
        return ""
    return row["true_age"] if low < high else f"{low // 10 * 10}-{low // 10 * 10 + 9}"


RANGES = "true age as a range"


def is_range(row):
    return bool(row["true_age"]) and not row["true_age"].isdigit()


def group_of(row, by):
    if by == "all":
        return "all"
    if by.startswith("true age"):
        return age_group(row) if is_range(row) == (by != "true age") else ""
    return row["true_gender"] if by == "true gender" else row["groups"][by]


def share_is(row, name, happened):
    """Is the share in a row of a table, with its count and interval, that of ``happened``?"""
    happened = list(happened)
    assert row[f"{name}_of"] == len(happened), (row, name)
    if happened:
        share = sum(happened) / len(happened)
        assert row[f"{name}_count"] == sum(happened) and row[name] == pytest.approx(share)
        ends = slow_wilson(sum(happened), len(happened))
        assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx(ends, abs=1e-6)
    elif name in row:
        assert np.isnan(row[name])


def slow_wilson(count, total):
    """The shares p that differ from what was counted by 1.96 of p's own standard errors, found by
    halving."""

    def off(p):
        return abs(count / total - p) - 1.959963984540054 * math.sqrt(p * (1 - p) / total)

    ends = []
    for inside, outside in ((count / total, 0.0), (count / total, 1.0)):
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if off(middle) <= 0 else (inside, middle)
        ends.append(inside)
    return tuple(ends)


def slow_bootstrap(parts, seed=2):
    """2.5 and 97.5 % of the mean of the means of ``parts``, each drawn with replacement."""
    draw = random.Random(seed)
    means = [
        sum(sum(draw.choices(part, k=len(part))) / len(part) for part in parts) / len(parts)
        for _ in range(400)
    ]
    return sorted(means)[10], sorted(means)[389]


def mean_is(row, name, values):
    values = list(values)
    assert row[f"{name}_of"] == len(values)
    if values:
        assert row[name] == pytest.approx(sum(values) / len(values))
        ends = slow_bootstrap([values])
        near = 0.25 * (ends[1] - ends[0]) + 1e-9
        assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx(ends, abs=near)


def test_wilson_of_known_shares():
    """Values of Wilson's interval as textbooks and R's binom package have them."""
    assert audit.wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=5e-5)
    assert audit.wilson(0, 10) == pytest.approx((0, 0.2775), abs=5e-5)
    assert audit.wilson(10, 10) == pytest.approx((0.7225, 1), abs=5e-5)
    assert audit.wilson(500, 1000) == pytest.approx((0.4691, 0.5309), abs=5e-5)
    assert all(np.isnan(audit.wilson(0, 0)))


def test_bootstrap_of_known_means():
    """Of one value nothing varies; of many 0 and 1 it is the normal interval; seeded."""
    assert audit.bootstrap([3.0] * 7) == (3, 3)
    values = np.arange(1000) % 2
    half = 1.96 * 0.5 / math.sqrt(1000)
    assert audit.bootstrap(values) == pytest.approx((0.5 - half, 0.5 + half), abs=0.004)
    assert audit.bootstrap(values) == audit.bootstrap(values) != audit.bootstrap(values, seed=1)


def test_small_groups_are_marked():
    rows = [{"a_of": 30, "b_of": 0}, {"a_of": 29, "b_of": 50}, {"a_of": 0}, {"n": 1}]
    assert list(audit.as_table(rows)["few"]) == [False, True, False, False]


def test_amae_by_hand():
    """Groups with MAEs of 1 and 4 have 2.5, however many are in them."""
    errors, groups = np.array([1, -1, 1, 4, -4]), np.array(["a", "a", "a", "b", "b"])
    assert audit.amae(errors, groups) == (2.5, 2.5, 2.5)
    errors = np.array([0] * 50 + [2] * 50 + [10] * 20 + [0] * 20)
    value, *ends = audit.amae(errors, np.repeat(["a", "b"], [100, 40]))
    due = slow_bootstrap([[0] * 50 + [2] * 50, [10] * 20 + [0] * 20])
    assert value == 3 and ends == pytest.approx(due, abs=0.1)


def test_errors_by_a_slow_loop(made):
    told, photos = made
    table = audit.errors(told).to_dict("records")
    groups = {(by, group_of(row, by)) for row in photos for by in ("all", *told.by)}
    answered = {(by, group_of(r, by)) for r in photos for by in ("all", *told.by) if "age" in r}
    due = {(by, group) for by, group in groups & answered if group}
    assert {(row["by"], row["group"]) for row in table} == due and len(table) == len(due) > 10
    ages = [row["group"] for row in table if row["by"] == "true age"]
    ranges = [row["group"] for row in table if row["by"] == RANGES]
    assert ages == [f"{n}-{n + 9}" for n in range(0, 60, 10)]  # never beside ranges
    assert ranges.index("10-19") < ranges.index("20-29") < ranges.index("50+")
    for row in table:
        here = [
            p for p in photos if group_of(p, row["by"]) == row["group"] and p["kind"] == "image"
        ]
        errors = [error for p in here if (error := error_of(p)) is not None]
        assert row["photos"] == len(here)
        mean_is(row, "mae", map(abs, errors))
        mean_is(row, "too_old_by", errors)
        of_ages = {}
        for p in here:
            if (error := error_of(p)) is not None:
                of_ages.setdefault(age_group(p), []).append(abs(error))
        if len(of_ages) > 1:
            maes = [sum(some) / len(some) for some in of_ages.values()]
            assert row["amae"] == pytest.approx(sum(maes) / len(maes))
        else:
            assert np.isnan(row["amae"])
        ranges = [p for p in here if p["true_age"] and not p["true_age"].isdigit()]
        share_is(row, "in_range", [error_of(p) == 0 for p in ranges])
        known = [p for p in here if p["true_gender"]]
        share_is(row, "gender_right", [p["gender"] == p["true_gender"] for p in known])
        sizes = [n for n in (len(errors), len(ranges), len(known)) if n]
        assert row["few"] == (min(sizes) < 30)
    assert {row["few"] for row in table} == {True, False}


def is_older(row, limit):
    """True, False, or None where nobody knows, or there is no answer."""
    ends = ends_of(row)
    if row["kind"] != "image" or not ends:
        return None
    return True if ends[0] >= limit else False if ends[1] < limit else None


def test_ages_at_a_limit():
    low, high = (
        np.array([17, 18, 17.5, 10, 18, 10, 70, np.nan]),
        np.array([17, 18, 17.5, 19, 20, 17, 150, np.nan]),
    )
    found = audit.at_least(low, high, 18)
    due = [0, 1, 0, np.nan, 1, 0, 1, np.nan]
    assert np.array_equal(found, due, equal_nan=True)


def test_limits_by_a_slow_loop(made):
    told, photos = made
    table = audit.limits(told).to_dict("records")
    every = [(limit, buffer) for limit in (13, 16, 18, 21) for buffer in (0, 3, 5, 7)]
    assert [(row["limit"], row["buffer"]) for row in table] == every
    by_group = audit.limits_by_group(told).to_dict("records")
    assert {row["by"] for row in by_group} == {"all", "true gender", "camera", "$"}
    for row in [*table, *by_group]:
        here = [p for p in photos if group_of(p, row.get("by", "all")) == row.get("group", "all")]
        over = row["limit"] + row["buffer"]
        young = [p for p in here if is_older(p, row["limit"]) is False]
        old = [p for p in here if is_older(p, row["limit"])]
        share_is(row, "let_through", [p["age"] >= over for p in young])
        share_is(row, "sent_on", [p["age"] < over for p in old])
        if "left_out" in row:
            known = [p for p in here if p["kind"] == "image" and p["true_age"]]
            assert row["left_out"] == len(known) - len(young) - len(old) > 0


def test_limits_by_age_by_a_slow_loop(made):
    """Single years from five below the limit, and wider parts further away."""
    told, photos = made
    table = audit.limits_by_age(told)
    names = list(table[(table["limit"] == 18) & (table["buffer"] == 0)]["true_age"])
    exact = ["0-12", *map(str, range(13, 23)), "23-27", "28+"]
    assert names[: len(exact)] == exact
    assert set(names[len(exact) :]) == {"20-29", "30-39", "40-49", "50-59", "50+", "0-9"}
    assert (table["true_age"].isin(exact) <= (table["by"] == "true age")).all()
    for row in table.to_dict("records"):
        limit, name, here = row["limit"], row["true_age"], []
        for photo in photos:
            older, ends = is_older(photo, limit), ends_of(photo)
            if older is None:
                continue
            if ends[0] < ends[1]:
                band = photo["true_age"]
            elif ends[0] < limit - 5:
                band = f"0-{limit - 6}"
            elif ends[0] < limit + 5:
                band = str(ends[0])
            else:
                band = f"{limit + 5}-{limit + 9}" if ends[0] < limit + 10 else f"{limit + 10}+"
            here += [photo] if band == name else []
        share_is(row, "over", [photo["age"] >= limit + row["buffer"] for photo in here])
        assert {row["old_enough"]} == {is_older(photo, limit) for photo in here}


def test_reliability_by_a_slow_loop(made):
    """Bins, and the ECE, the mean over photos of what a bin is off by."""
    told, photos = made
    bins, table = audit.calibration(told)
    assert list(table["limit"]) == [13, 16, 18, 21]
    for summary in table.to_dict("records"):
        limit = summary["limit"]
        known = [photo for photo in photos if is_older(photo, limit) is not None]
        places = {}
        for photo in known:
            p = sum(photo["probas"][limit - YOUNGEST :])
            places.setdefault(min(int(p * 10), 9), []).append((p, is_older(photo, limit)))
        off = 0
        rows = bins[bins["limit"] == limit].to_dict("records")
        for row, (place, some) in zip(rows, sorted(places.items()), strict=True):
            assert (row["p_from"], row["p_to"]) == pytest.approx((place / 10, place / 10 + 0.1))
            mean_p = sum(p for p, _ in some) / len(some)
            assert row["mean_p"] == pytest.approx(mean_p)
            share_is(row, "share", [older for _, older in some])
            off += (
                len(some) / len(known) * abs(mean_p - sum(older for _, older in some) / len(some))
            )
        assert summary["ece"] == pytest.approx(off)
        share_is(summary, "share", [is_older(photo, limit) for photo in known])


def test_reliability_by_hand():
    """Said 0.05 of four, one of whom was; 1 of two who were: off by 0.2 and 0."""
    table = audit.reliability(np.array([0.05] * 4 + [1, 1]), np.array([1, 0, 0, 0, 1, 1]) == 1)
    assert list(table["share"]) == [0.25, 1] and list(table["share_of"]) == [4, 2]
    assert list(table["p_to"]) == pytest.approx([0.1, 1])
    assert audit.ece(table) == pytest.approx(0.2 * 4 / 6)


def test_p_at_least():
    probas = np.array([[0.1, 0.2, 0.3, 0.4]])  # of the ages 16 to 19
    for limit, due in ((13, 1), (16, 1), (18, 0.7), (19, 0.4), (20, 0)):
        assert audit.p_at_least(probas, 16, limit) == pytest.approx([due])


def test_coverage_by_a_slow_loop(made):
    told, photos = made
    answered = [photo for photo in photos if photo["kind"] == "image"]
    table = audit.coverage(told).to_dict("records")
    assert {row["by"] for row in table} == {"all", "predicted age", "true age", RANGES}
    for row in table:
        here = []
        for photo in answered:
            decade = photo["age"] // 10 * 10
            predicted = row["by"] == "predicted age"
            group = f"{decade}-{decade + 9}" if predicted else group_of(photo, row["by"])
            if group == row["group"]:
                here.append(photo)
        assert row["photos"] == len(here)
        exact = [photo for photo in here if photo["true_age"].isdigit()]
        held = [p["age_low"] <= int(p["true_age"]) <= p["age_high"] for p in exact]
        share_is(row, "coverage", held)
        ranges = [p for p in here if p["true_age"] and not p["true_age"].isdigit()]
        met = []
        for photo in ranges:
            low, high = ends_of(photo)
            met.append(
                any(low <= a <= high for a in range(photo["age_low"], photo["age_high"] + 1))
            )
        share_is(row, "range_met", met)
        mean_is(row, "width", [photo["age_high"] - photo["age_low"] for photo in here])
        said = [photo["interval_probability"] for photo in here]
        assert row["said"] == pytest.approx(sum(said) / len(said))


def test_found_by_a_slow_loop(made):
    told, photos = made
    for row in audit.found(told).to_dict("records"):
        kinds = [p["kind"] for p in photos if group_of(p, row["by"]) == row["group"]]
        share_is(row, "answered", [kind == "image" for kind in kinds])
        assert (row["no_face"], row["unreadable"]) == (kinds.count("no face"), kinds.count("error"))


def test_risk_by_hand():
    """Those of one confidence are answered together."""
    loss, confidence = np.array([4.0, 1, 3, 0]), np.array([0.5, 0.9, 0.5, 0.7])
    thresholds, shares, risks = audit.risk_coverage(loss, confidence)
    assert list(thresholds) == [0.9, 0.7, 0.5] and list(shares) == [0.25, 0.5, 1]
    assert list(risks) == [1, 0.5, 2]


def test_risk_by_a_slow_loop(made):
    told, photos = made
    table = audit.risk(told)
    answered = [photo for photo in photos if photo["kind"] == "image"]
    ages = [(p["age_high"] - p["age_low"], abs(error_of(p))) for p in answered if p["true_age"]]
    genders = [
        (p["gender_probability"], p["gender"] != p["true_gender"])
        for p in answered
        if p["true_gender"]
    ]
    for row in table[table["answer"] == "age"].to_dict("records"):
        some = [loss for width, loss in ages if width <= row["width"]]
        assert row["answered"] == len(some) / len(ages)
        mean_is(row, "mae", some)
    for row in table[table["answer"] == "gender"].to_dict("records"):
        some = [wrong for sure, wrong in genders if sure >= row["probability"]]
        assert row["answered"] == len(some) / len(genders)
        share_is(row, "wrong", some)
    for answer, smallest in (("age", 0.1), ("gender", 0.1)):
        shares = list(table[table["answer"] == answer]["answered"])
        assert shares[0] == 1 and shares == sorted(shares, reverse=True)
        assert smallest <= shares[-1] < smallest + 0.1


def test_columns_that_make_groups():
    table = pd.DataFrame({"a": ["x", "y", ""], "b": ["x", "x", ""], "c": ["", "", ""]})
    table = pd.concat([table] * 10, ignore_index=True).assign(d=[str(i) for i in range(30)])
    kept, others = audit.few_valued(table)
    assert list(kept) == ["a"]
    assert others.startswith("b (1 value), c (0 values), d (30 values); only columns of 2 to 20 ")
    assert audit.few_valued(kept)[1] == ""


def test_the_lines_of_the_docs(capsys):
    page = (ROOT / "docs/predict.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```python\n(from coral_age import audit.*?)```", page, re.S)
    photos, probas, groups = made_photos(60)
    given = {"photos": pd.DataFrame(photos), "groups": pd.DataFrame(groups)}
    exec(block, {"probas": probas, "youngest": YOUNGEST, **given})
    assert str(slow_wilson(8, 10)[0])[:8] in capsys.readouterr().out


# ---- The page


ABOUT = {"model": "run<1>/model.pt", "photos": "those of <labels>.csv", "facts": {"x": "<y>"}}
ABOUT |= {"interval": 0.8, "crops": False}


@pytest.fixture(scope="module")
def page(made, tmp_path_factory):
    """A folder with the report on the made photos."""
    folder = tmp_path_factory.mktemp("report") / "report"
    pages.write(folder, report.pages(made[0], report.About(**ABOUT)))
    return folder


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_page_stands_alone(page):
    """No script, no other file is asked for, and what comes from files is escaped; links lead to
    the tables and pictures beside it."""
    text = (page / "index.html").read_text(encoding="utf-8")
    assert "<script" not in text and "&lt;script&gt;" in text and "run&lt;1&gt;" in text
    assert "\x07" not in text and "x<dd>&lt;y&gt;" in text
    assert not re.search(r"<(img|link rel=.stylesheet|iframe)|url\(http|@import", text)
    linked = set(re.findall(r'href="([^"#]+)"', text)) - {"data:,"}
    assert linked == {path.name for path in page.iterdir()} - {"index.html"}
    names = (
        "errors limits limits-by-age limits-by-group calibration reliability coverage found risk"
    )
    assert {path.stem for path in page.glob("*.csv")} == set(names.split())
    assert len(list(page.glob("*.svg"))) == text.count("<svg ") == 14
    assert audit.__doc__ and report.NOTE in text


def test_what_is_said_on_top(made, page):
    """What intervals are to hold; what is left out; that ranges and years are no fair comparison,
    where the labels are both."""
    text = (page / "index.html").read_text(encoding="utf-8")
    photos = made[0].photos
    both = (photos["low"] == photos["high"]).any() and (photos["low"] < photos["high"]).any()
    assert both and "that it errs less in groups whose ages are ranges" in text
    assert f"<li>Intervals of 80{pages.PERCENT}, " in text
    few = "<li>Groups of fewer than 30 photos are left out of this list."
    assert (few in text) == audit.errors(made[0])["few"].any()


def test_a_limit_in_words(made, monkeypatch):
    """Those just below it are named, unless they are few, and then all who are younger."""
    told, photos = made
    young = [row for row in photos if is_older(row, 18) is False]
    near = [row for row in young if row["true_age"] in ("16", "17")]
    assert len(near) == 20
    every, some = (sum(p["age"] >= 18 for p in part) / len(part) for part in (young, near))
    later = sum(p["age"] >= 25 for p in near) / len(near)

    def words():
        table = audit.limits(told)
        by_age = audit.limits_by_age(told)
        text = report.limit_in_words(18, table[table["limit"] == 18], by_age)
        return text.replace(pages.PERCENT, "%")

    assert words().startswith(
        f"A limit of 18 years lets through {every:.1%} of all who are younger"
    )
    monkeypatch.setattr(audit, "FEW", 20)
    close = f"<b>{some:.0%}</b> of the 20 people of 16 and 17 years, {every:.1%} of all who are"
    assert words().startswith(f"A limit of 18 years lets through {close} younger, and sends on ")
    assert f"with a buffer of 7 years <b>{later:.0%}</b>, " in words()
    assert later < some


def test_pictures_are_xml_and_have_both_themes(page):
    import xml.etree.ElementTree

    for path in page.glob("*.svg"):
        xml.etree.ElementTree.parse(path)
        text = path.read_text(encoding="utf-8")
        assert "prefers-color-scheme: dark" in text and "var(--ink)" in text
        shades = {"#000000", *(light for light, _ in pages.COLOURS.values())}
        drawn = text.split("</style>", 1)[1]
        assert not {colour for colour in shades if colour in drawn}
    assert EVIL[:23].replace("<", "&lt;").replace(">", "&gt;") in (page / "errors.svg").read_text()


def test_the_tables_of_the_page_are_the_csvs(page, made):
    """MAE and its interval of each group, as they stand in errors.csv and in the page."""
    text = (page / "index.html").read_text(encoding="utf-8").split("<h2 id=s2>")[0]
    text = text.split("<h2 id=s1>")[1].replace("\N{MINUS SIGN}", "-")
    rows = re.findall(r"<th scope=row>([^<]*)<td[^>]*>([\d,]+)( \*)?<.*", text)
    table = read_csv(page / "errors.csv")
    assert [int(row[1]) for row in rows] == [int(row["photos"]) for row in table]
    for row in table:
        ends = f"{float(row['mae_low']):.2f} to {float(row['mae_high']):.2f}"
        assert f">{float(row['mae']):.2f}{' *' * (int(row['mae_of']) < 30)}<small>{ends}" in text
    assert table[0]["few"] == "False" and {row["few"] for row in table} == {"True", "False"}


def test_the_same_figures_give_the_same_picture(page, made):
    """As SVG, without the date, or names drawn by lot."""
    with report.matplotlib.rc_context(pages.DRAWN):
        svg, _ = pages.picture(report.plot_width(audit.coverage(made[0])), "")
    assert f">{svg.split('>', 1)[1]}" in (page / "width.svg").read_text(encoding="utf-8")


def test_a_report_is_written_over_an_older_one_alone(page, tmp_path):
    """What the older one had and the new one has not is gone; what others put there stays."""
    folder = tmp_path / "report"
    pages.write(folder, {path.name: path.read_text("utf-8") for path in page.iterdir()})
    (folder / "notes.csv").write_text("mine")
    with pytest.raises(ValueError, match="--out .*: holds a report already; give a new folder, or"):
        pages.check_folder("--out", folder, False, pages.AUDITS)
    pages.check_folder("--out", folder, True, pages.AUDITS)
    pages.write(folder, {"errors.csv": "", "index.html": pages.AUDITS})
    assert {path.name for path in folder.iterdir()} == {"errors.csv", "index.html", "notes.csv"}
    (folder / "index.html").write_text("another page")
    with pytest.raises(ValueError, match="something other than a report"):
        pages.check_folder("--out", folder, True, pages.AUDITS)


@pytest.mark.parametrize("left", ["genders", "ages", "answers", "ranges"])
def test_reports_on_less(left):
    """Of a network without genders, labels without ages, photos without an answer, ranges alone."""
    photos, probas, groups = made_photos(60)
    for row in photos:
        if left == "genders":
            row.pop("gender", None)
            row.pop("gender_probability", None)
        if left == "ages":
            row["true_age"] = ""
        if left == "answers":
            row |= {"kind": "no face", "age": None, "age_low": None, "age_high": None}
        if left == "ranges":
            row["true_age"] = "20-29"
    told = audit.Audit(pd.DataFrame(photos), probas, YOUNGEST)
    files = report.pages(told, report.About(**ABOUT))
    text = files["index.html"]
    assert ("genders wrong (%)" in text) == (left in ("ages", "ranges"))
    assert ("MAE (years)" in text) == (left not in ("ages", "answers"))
    assert ("Nothing can be said of the limits" in text) == (left != "genders")
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.S)
    assert len(files["found.csv"].splitlines()) > 3


@pytest.mark.skipif(chromium() is None, reason="no Chromium installed")
@pytest.mark.parametrize(
    ("width", "theme", "ink"),
    [(1200, "light", "rgb(27, 35, 43)"), (360, "dark", "rgb(230, 235, 239)")],
)
def test_the_page_in_a_browser(page, width, theme, ink):
    """On a desk, and on a telephone, dark: nothing is wider than the window but what can be moved
    in itself, and the pictures have the theme's colours."""
    found = looks_of(page / "index.html", width, theme)
    assert found["wide"] <= 0 and found["tables"] == 1
    assert found["ink"] == ink and found["pictures"] > 300 and found["letters"] > 9


# ---- predict.py --report


@pytest.fixture
def labelled_photos(tmp_path):
    """Twelve crops, one of which is none, and the CSV of their labels."""
    lines = ["file,age,gender,camera,number"]
    for i in range(12):
        small(0.4 + 0.05 * i).save(tmp_path / f"{i}.png")
        age = ["20-29", "", "15", "19"][i % 4] if i < 8 else str(14 + i)
        lines.append(f"{i}.png,{age},{['male', 'female', ''][i % 3]},{EVIL if i % 2 else 'B'},n{i}")
    (tmp_path / "11.png").write_text("Dear reader,")
    lines += [f"else.png,3,,B,x{i}" for i in range(10)]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return [tmp_path / f"{i}.png" for i in range(12)]


def test_report_of_predict(bare, labelled_photos, tmp_path, capsys):  # noqa: F811
    """Its figures are those of --labels; P(age >= T) is that of the network; predictions.csv and
    predictions.json are what they are without it."""
    words = [*bare, *labelled_photos, "--crops", "--labels", tmp_path / "labels.csv"]
    words += ["--no_draw", "--out"]
    assert call(*words, tmp_path / "without") == 1
    capsys.readouterr()
    assert call(*words, tmp_path / "out", "--report", tmp_path / "report") == 1
    assert capsys.readouterr().out.endswith(f"{tmp_path / 'report' / 'index.html'}: written\n")
    for name in ("predictions.csv", "predictions.json"):
        told = [(tmp_path / folder / name).read_bytes() for folder in ("without", "out")]
        assert told[0] == told[1]
    scores = json.loads((tmp_path / "out" / "predictions.json").read_text())["scores"]
    rows = {}  # years and ranges, of which the scores make one group, are told apart here
    for row in read_csv(tmp_path / "report" / "errors.csv"):
        rows.setdefault(row["group"], []).append(row)
    assert {row["group"] for row in scores} < rows.keys() and {"B", EVIL} < rows.keys()
    for due in scores:
        for name, ours in (("mae", "mae"), ("gender_accuracy", "gender_right")):
            if name in due:
                some = [row for row in rows[due["group"]] if int(row[f"{ours}_of"])]
                counts = [int(row[f"{ours}_of"]) for row in some]
                mean = np.average([float(row[ours]) for row in some], weights=counts)
                assert mean == pytest.approx(due[name], rel=1e-5)
    [every, *_] = read_csv(tmp_path / "report" / "found.csv")
    assert (every["answered_of"], every["answered_count"], every["unreadable"]) == (
        "11",
        "10",
        "1",
    )  # one is without a label

    model = predict.load(weights=bare[1], script="afad-coral.py", image_size=32)
    given = []
    for i, path in enumerate(labelled_photos[:-1]):
        age = ["20-29", "", "15", "19"][i % 4] if i < 8 else str(14 + i)
        if age:
            [face] = predict.faces(model, path, crops=True)
            given.append(sum(face["age_probas"][18 - 15 :]))
    rows = read_csv(tmp_path / "report" / "calibration.csv")
    [row] = [row for row in rows if row["limit"] == "18"]
    assert int(row["share_of"]) == len(given) == 9
    assert float(row["mean_p"]) == pytest.approx(sum(given) / len(given), rel=1e-5)
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "<dt>columns left out<dd>number (22 values)" in page and "<script" not in page


def test_report_with_the_detector(bare, labelled_photos, tmp_path, capsys):  # noqa: F811
    """A photo without a face is counted as one; a file that is none as well."""
    Image.new("RGB", (90, 90)).save(labelled_photos[0])
    photos = [*labelled_photos[:3], labelled_photos[11]]
    words = [*bare, *photos, "--labels", tmp_path / "labels.csv", "--json"]
    assert call(*words, "--report", tmp_path / "report") == 1
    assert json.loads(capsys.readouterr().out)["scores"]
    rows = read_csv(tmp_path / "report" / "found.csv")
    assert (rows[0]["no_face"], rows[0]["unreadable"], rows[0]["answered_of"]) == ("1", "1", "4")
    single, many = [row for row in rows if row["group"] == "20-29"]
    assert (single["by"], many["by"]) == ("true age", RANGES)
    names = "no_face", "unreadable", "answered_of"
    assert [row[name] for row in (single, many) for name in names] == ["0", "1", "1", "1", "0", "1"]


@pytest.mark.parametrize(
    "words, message",
    [
        (["--report={here}/report"], "--report needs the true values: give --labels CSV"),
        (
            ["--report={here}/report", "--labels={here}/labels.csv", "--out={here}/o", "--resume"],
            "--report goes without --resume: the probabilities of photos that were answered before",
        ),
        (
            ["--report={here}", "--labels={here}/labels.csv", "--overwrite"],
            "--report {here}: holds something other than a report; give a new folder",
        ),
        (
            ["--report={here}/0.png", "--labels={here}/labels.csv"],
            "--report {here}/0.png: holds something other than a report",
        ),
    ],
)
def test_refused_reports(words, message, bare, labelled_photos, tmp_path, capsys):  # noqa: F811
    words = [word.format(here=tmp_path) for word in words]
    before = sorted(tmp_path.iterdir())
    line = refused(predict, capsys, *bare, *labelled_photos, "--crops", *words)
    assert message.format(here=tmp_path) in line and sorted(tmp_path.iterdir()) == before


def test_without_matplotlib(bare, labelled_photos, tmp_path, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setattr(predict.importlib.util, "find_spec", lambda name: None)
    words = [*bare, *labelled_photos, "--labels", tmp_path / "labels.csv", "--crops"]
    line = refused(predict, capsys, *words, "--report", tmp_path / "report")
    assert "--report: matplotlib is not installed: pip install -r requirements-extras.txt" in line


# ---- summarize.py --audit


def test_audits_of_runs(tmp_path, capsys):
    """A page for each epoch of a run, with the MAE of run.json, and the race that the data set
    tells; those of an older report are removed."""
    summarize = load(ROOT / "model-code" / "summarize.py")
    run = write_run(tmp_path / "a<b", dataset="utk", loss="ce", gender=1, valid=True, count=80)
    out = tmp_path / "report"
    summarize.main([str(run), "--out", str(out), "--audit"])
    index = (out / "index.html").read_text(encoding="utf-8")
    best, last = re.split("<h2 id=c2>", index)
    links = [
        re.findall(r'<a href="(audit-\d)/index\.html">audit</a>', part) for part in (best, last)
    ]
    links = list(zip((name for [name] in links), ("best_", ""), strict=True))
    assert links == [("audit-1", "best_"), ("audit-2", "")] and "a&lt;b" in index
    metrics = json.loads((run / "run.json").read_text())["metrics"]
    for name, prefix in links:
        [every, *rows] = read_csv(out / name / "errors.csv")
        assert {row["group"] for row in rows if row["by"] == "race"} > {"White", "Black"}
        assert {row["by"] for row in rows} == {"true age", "true gender", "race"}
        assert float(every["mae"]) == pytest.approx(metrics[f"{prefix}test_mae"], rel=1e-5)
        assert every["photos"] == "80" and 0 < int(every["gender_right_of"]) < 80
        [held, *_] = read_csv(out / name / "coverage.csv")
        assert 0.8 <= float(held["said"]) < 0.95
        page = (out / name / "index.html").read_text(encoding="utf-8")
        assert "Nothing can be said of the limits 13, 16, 18, 21: " in page
    assert metrics["test_mae"] != metrics["best_test_mae"]
    summarize.main([str(run), "--out", str(out), "--overwrite"])
    assert not list(out.glob("audit-*"))
    capsys.readouterr()
    line = refused(summarize, capsys, run, "--audit")
    assert line == "summarize.py: error: --audit writes pages: give --out as well\n"


def test_groups_of_a_csv_of_labels(tmp_path):
    """Two columns of one name are left out, the first of two rows of a photo counts."""
    path = tmp_path / "labels.csv"
    path.write_text("file,race,age,twice,twice,,gender\na.png,W,3,1,2,x,\nA/b.JPG,B,4,1,2,x,male\n")
    keys, table = labels.read_groups(path)
    assert keys == [("a.png",), ("A", "b.jpg")] and table.to_dict("list") == {"race": ["W", "B"]}
