"""What the pages of reports have in common: colours in light and dark, style, pictures and files.

A page is one HTML file that needs no other; each picture lies beside it as SVG, each table as CSV.
"""

import html
import io
import re

import numpy as np

from coral_age.errors import InputError, printable
from coral_age.files import atomic_write

# what tells apart the pages that --overwrite may replace
AUDITS = '<meta name="generator" content="coral_age audit">'
SUMMARIES = '<meta name="generator" content="summarize.py">'
# (in light, in dark): what the pictures are drawn with stands in them and in the page by its name
COLOURS = {
    "page": ("#ffffff", "#14181c"),
    "ink": ("#1b232b", "#e6ebef"),
    "quiet": ("#57636e", "#9aa7b2"),
    "line": ("#ccd3da", "#39434c"),
    "blue": ("#0072b2", "#56b4e9"),
    "orange": ("#c75300", "#f0a050"),
    "shade0": ("#08306b", "#d3e7f7"),
    "shade1": ("#2171b5", "#8fc4ea"),
    "shade2": ("#4a98c9", "#62a4d6"),
    "shade3": ("#7db3d8", "#3f7db5"),
    "other0": ("#8c564b", "#c49c94"),  # of losses, with those above; see groups.py
    "other1": ("#7f7f7f", "#a9a9a9"),
    "other2": ("#6a51a3", "#a991e0"),
    "other3": ("#a6761d", "#d9a84a"),
    "ce": ("#d55e00", "#ff9248"),
    "coral": ("#009e73", "#2fcfa0"),
    "corn": ("#cc79a7", "#e79ac6"),
    "dldl": ("#e69f00", "#f2c94c"),
    "sord": ("#56b4e9", "#b0e0ff"),
}
LIGHT = {name: light for name, (light, _) in COLOURS.items()}
INK, QUIET, LINE, BLUE = (LIGHT[name] for name in ("ink", "quiet", "line", "blue"))
DRAWN = {
    "svg.fonttype": "none",
    "svg.hashsalt": "coral_age",  # the same figures give the same file
    "text.parse_math": False,  # a $ is a $
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}
WIDE = 4.4  # inches of a picture, which a telephone shows as wide as it is
PERCENT = "\N{NO-BREAK SPACE}%"


# %% Style
def themes(text):
    """The colours that a ``text`` has by their names as CSS, in light and in dark."""
    used = {name: both for name, both in COLOURS.items() if f"var(--{name})" in text}
    light, dark = (" ".join(f"--{name}: {c[i]};" for name, c in used.items()) for i in (0, 1))
    in_dark = f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"
    return f":root {{ {light} }} {in_dark}"


STYLE = """
:root { color-scheme: light dark; --card: #f4f6f8 }
@media screen and (prefers-color-scheme: dark) { :root { --card: #1e242a } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem; max-width: 66rem; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
h1 { margin: 0 0 .75rem; font-size: 1.6rem; line-height: 1.25; overflow-wrap: anywhere }
h2 { margin: 2.5rem 0 .5rem; padding-top: .5rem; border-top: 1px solid var(--line);
  font-size: 1.25rem }
h3 { margin: 1.5rem 0 .25rem; font-size: 1rem }
h4 { margin: 1rem 0 0; font-size: .875rem }
p, ul, dl { max-width: 46rem; margin: .5rem 0 }
a { color: var(--blue) }
.card { max-width: 50rem; margin: 1rem 0; padding: .75rem 1rem; border-radius: .5rem;
  background: var(--card) }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem }
dt, .quiet, figcaption, small { color: var(--quiet) }
dd { margin: 0; overflow-wrap: anywhere }
.quiet, figcaption, dl { font-size: .875rem }
.pictures { display: grid; gap: 1rem 1.5rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)) }
.many { gap: .5rem; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)) }
.many figure { max-width: 20rem }
figure { margin: 0; max-width: 32rem; break-inside: avoid }
svg { display: block; width: 100%; height: auto }
svg text { font-family: system-ui, sans-serif !important }
.scroll { margin: .75rem 0; overflow-x: auto }
.tables { display: flex; flex-wrap: wrap; gap: 0 1.5rem }
.tables > div { min-width: 0; max-width: 100% }
.tables > .one { flex: 0 1 32rem }
.tables > .wide { flex: 1 1 22rem }
table { border-collapse: collapse; font-size: .875rem; line-height: 1.3;
  font-variant-numeric: tabular-nums }
th, td { padding: .25rem .35rem; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; white-space: nowrap }
thead th { vertical-align: bottom; white-space: normal }
th:first-child { position: sticky; left: 0; padding-left: 0; background: var(--page);
  text-align: left; font-weight: normal }
thead th, .by th, th[scope=rowgroup] { font-weight: 600 }
.by th { padding-top: .75rem; text-align: left }
td small, th small { display: block; font-size: .86em }
summary { margin: .75rem 0; cursor: pointer }
.few { font-style: italic; color: var(--quiet) }
@media print { body { max-width: none; padding: 0; font-size: 10pt } a { color: inherit }
  .quiet, figcaption, dl { font-size: 8pt } .scroll { overflow: visible }
  table { font-size: 7.5pt } th, td { padding: .15rem .35rem }
  tr { break-inside: avoid } h2, h3 { break-after: avoid }
  .pictures { grid-template-columns: 1fr 1fr } }
"""


# %% Parts
def escaped(text):
    """A text, which may be of a file, fit for the page."""
    return html.escape(printable(str(text)))


def number(value, form):
    """A number in the page; form: as of format(), with % at the end for a share as %."""
    if form.endswith("%"):
        value, form = 100 * value, form[:-1] + "f"
    return format(value, form).replace("-", "\N{MINUS SIGN}")


def picture(figure, caption):
    """A figure as SVG, for a page that has the colours, and its caption."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    used = set(re.findall(r"#([\w-]+)", text))  # other names would stand in the page several times
    text = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", text)
    for name, (light, _) in COLOURS.items():
        text = text.replace(light, f"var(--{name})")
    return text.replace("<svg ", f'<svg role="img" aria-label="{escaped(caption)}" ', 1), caption


def alone(svg):
    """The same for a file of its own."""
    return svg.replace(">", f"><style>{themes(svg)}</style>", 1)


def drawn(pictures, kind="pictures"):
    """The {name: picture()} in the page; kind: its class."""
    parts = [
        f"<figure>{svg}<figcaption>{escaped(text)} "
        f'<a href="{name}.svg">SVG</a></figcaption></figure>'
        for name, (svg, text) in pictures.items()
    ]
    return f"<div class='{kind}'>{''.join(parts)}</div>" if parts else ""


def shown(text, length=40):
    """A name from a file, fit to be drawn: printable, and not too long."""
    text = printable(text)
    return text if len(text) <= length else text[: length - 1] + "…"


def sides(value, low, high):
    """The lengths of an error bar, (2, n)."""
    return np.maximum([value - low, high - value], 0)


def whole(title, generator, body):
    """The page of a ``body``."""
    body = body.replace(" %", PERCENT)
    text = f"""<!doctype html>
<html lang="en"><meta charset="utf-8">{generator}
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><link rel="icon" href="data:,">
<style>{STYLE}</style>
<h1>{title}</h1>
{body}
</html>
"""
    return text.replace("<style>", f"<style>{themes(text)}", 1)


# %% Files
def check_folder(option, folder, overwrite, generator):
    """InputError where the ``folder`` that an ``option`` names must be kept; ``generator`` stands
    in reports that may be replaced."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    index = folder / "index.html"
    if not index.is_file() or generator not in index.read_text(encoding="utf-8", errors="replace"):
        what = "holds something other than a report"
        raise InputError(f"{option} {folder}: {what}; give a new folder")
    if not overwrite:
        what = "holds a report already"
        raise InputError(f"{option} {folder}: {what}; give a new folder, or --overwrite")


def write(folder, files):
    """Write ``files``, {name: text}, index.html last, and remove those that were of an older report
    alone."""
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / "index.html"
    old = index.read_text(encoding="utf-8", errors="replace") if index.exists() else ""
    for name, text in files.items():
        with atomic_write(folder / name, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    for name in set(re.findall(r'(?:href|src)="([\w-]+\.(?:csv|svg|png))"', old)) - files.keys():
        (folder / name).unlink(missing_ok=True)
