"""Keep what the training scripts share the same text.

    python model-code/cells.py                 check; a diff and exit code 1 if something differs
    python model-code/cells.py afad-coral      copy that script's cells to its sisters, then check

The scripts are the files named <data set>-<loss>.py beside this one: a data set's name is of
lower-case letters and digits, and so is a loss's. Not every data set needs every loss.

A line `# %% Title [scope]` opens a cell, which runs to the next such line; what stands before the
first cell is the script's own. The scope names the scripts that hold the identical cell: `all`,
data sets (`afad, utk`), losses (`coral, ordinal`) or scripts (`afad-coral`). Of the scopes that
one title has, the narrowest that names a script governs there: script, then data set or loss,
then all. Blank lines at the end of a cell don't count.

Data of your own: copy faces-coral.py to mine-coral.py and let its data-set cell say [mine]. A loss
of your own: copy faces-coral.py to faces-corn.py and let the cells of its loss say [corn].
"""

import argparse
import difflib
import os
import re
import shutil
import sys
from collections import defaultdict, namedtuple
from itertools import chain, combinations, pairwise
from pathlib import Path

LOSSES = ("ce", "coral", "ordinal")  # the paper's
# A data set named like another word of a scope could not be told from it.
NAME = re.compile(rf"(?!(all|{'|'.join(LOSSES)})-)[a-z0-9]+-(?!all$)[a-z0-9]+")
SHARED = re.compile(r"(?m)^# %% .*\[all\]\s*$")  # tells an own loss's script from another tool
MEANT = re.compile(rf"(?i).*[-_ ]({'|'.join(LOSSES)})(?![a-z]).*")  # My-data-coral, mine_coral_2

# Tail: the blank lines after the body. The first cell of a script holds its docstring, has the
# title None and names no script.
Cell = namedtuple("Cell", "script line title scope body tail")
Scope = namedtuple("Scope", "rank scripts")  # the higher rank is the narrower


def fail(message):
    """Stop because of a wrong call: one line, exit code 2."""
    print(f"cells.py: error: {message}", file=sys.stderr)
    sys.exit(2)


def place(cell):
    """How messages name a cell, such as ``afad-ce.py:12 '# %% Imports [all]'``."""
    return f"{cell.script}.py:{cell.line} {cell.body.splitlines()[0]!r}"


def datasets_of(scripts):
    return list(dict.fromkeys(script.split("-")[0] for script in scripts))


def losses_of(scripts):
    return list(dict.fromkeys([*LOSSES, *(script.split("-")[1] for script in scripts)]))


def parse_scope(text, scripts):
    """The scope that stands in brackets; None if a word is unknown or of another kind.

    The names of ``scripts`` and their data sets are known, so that a misspelt one is not taken for
    one whose files are gone; of losses the paper's too, since a data set need not have them all.
    """
    words = {word.strip() for word in text.split(",")}
    datasets, losses = datasets_of(scripts), losses_of(scripts)
    for rank, known in (0, {"all"}), (1, datasets), (1, losses), (2, scripts):
        if words <= set(known):
            named = {script for script in scripts if words & {"all", script, *script.split("-")}}
            return Scope(rank, frozenset(named))


def parse_script(script, texts, problems):
    """The cells of a script; what is wrong with their first lines goes to ``problems``."""
    cells, line = [], 1
    dataset, loss = script.split("-")
    hint = f"if this is the cell of the script's own data set, write [{dataset}]"
    hint += f", if of its own loss [{loss}]" if loss not in LOSSES else ""
    losses = ", ".join(losses_of(texts))
    for chunk in re.split(r"(?m)^(?=#[ \t]*%%)", texts[script]):
        body, tail = re.fullmatch(r"(?s)(.*\S[^\n]*|)(\s*)", chunk).groups()
        cell = Cell(script, line, None, Scope(0, frozenset()), body, tail)
        line += chunk.count("\n")
        if cells:
            head = re.match(r"# %% +(\S.*?) +\[([^][\n]*)\]\s*(\n|$)", body)
            scope = head and parse_scope(head[2], texts)
            if not head:
                problems.append(f"{place(cell)}: not of the form '# %% Title [scope]'")
            elif not scope:
                problems.append(
                    f"{place(cell)}: a scope is all, or data sets that have a script here"
                    f" ({', '.join(datasets_of(texts))}), or losses ({losses}), or"
                    f" scripts ({script}, ...), of one kind; {hint}"
                )
            elif script not in scope.scripts:
                problems.append(f"{place(cell)}: the scope does not name this script; {hint}")
            elif head[1] in [earlier.title for earlier in cells]:
                problems.append(f"{place(cell)}: the second cell of that title in this script")
            else:
                cell = cell._replace(title=head[1], scope=scope)
        cells.append(cell)
    if len(cells) == 1:
        problems.append(f"{script}.py: holds no cell, that is no line '# %% Title [scope]'")
    return cells


def read_texts(folder, problems):
    """{script: its text} for the scripts in ``folder``; misnamed ones go to ``problems``."""
    texts = {}
    for path in sorted(folder.glob("[!.]*.py")):  # editors leave hidden files
        named = NAME.fullmatch(path.stem)
        try:
            content = path.read_bytes()
            text = content.decode("utf-8", "replace")
            if named and path.stem.split("-")[1] not in LOSSES:
                named = SHARED.search(text)
            if named:
                text = content.decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            sys.exit(f"{path.name}: not readable as UTF-8 text: {error}")
        if named:
            texts[path.stem] = text
        elif MEANT.fullmatch(path.stem) or SHARED.search(text):
            problems.append(
                f"{path.name}: rename it: a training script is named <data set>-<loss>.py, as in"
                " mine-coral.py, its data set by lower-case letters and digits (none of"
                f" {', '.join(('all', *LOSSES))}), its loss too, as ce, coral or ordinal"
            )
    for name in set(datasets_of(texts)) & set(losses_of(texts)):
        problems.append(f"{name!r} is a data set and a loss: rename one, or no scope can tell them")
    return texts


def read_folder(folder):
    """({script: its cells}, line ending); exit code 1 where the cells are not told apart."""
    problems = []
    texts = read_texts(folder, problems)
    if not texts and not problems:
        fail(f"{folder}: no script there is named <data set>-<loss>.py, such as afad-coral.py")
    crlf = all(text.count("\n") == text.count("\r\n") for text in texts.values())
    mixed = [f"{script}.py" for script in texts if "\r" in texts[script] and not crlf]
    if mixed:
        problems.append(f"{', '.join(mixed)}: lines end in CRLF, elsewhere in LF; save all in one")
    texts = {script: text.replace("\r\n", "\n") for script, text in texts.items()}
    scripts = {script: parse_script(script, texts, problems) for script in texts}
    scopes = {(cell.title, cell.scope): cell for cell in chain(*scripts.values()) if cell.title}
    for a, b in combinations(scopes.values(), 2):
        both = a.scope.scripts & b.scope.scripts
        if a.title == b.title and a.scope.rank == b.scope.rank and both:
            problems.append(
                f"{place(a)} and {place(b)} both claim {min(both)}, and neither is the narrower:"
                f" no cell depends on data set and loss at once; an exception says [{min(both)}]"
            )
    if problems:
        sys.exit("\n".join(problems))
    return scripts, "\r\n" if crlf else "\n"


def governing(scripts, title, script):
    """A cell with the narrowest scope of ``title`` that names ``script``; None if none does."""
    cells = [c for c in chain(*scripts.values()) if c.title == title and script in c.scope.scripts]
    return max(cells, key=lambda cell: cell.scope.rank, default=None)


def differences(cells):
    """Unified diffs of the texts of one cell, each against the most frequent (or first) one."""
    holders = defaultdict(list)
    for cell in cells:
        holders[cell.body].append(f"{cell.script}.py:{cell.line}")
    usual = max(holders, key=lambda body: len(holders[body]), default="")
    diffs = []
    for body in holders:
        names = ", ".join(holders[usual]), ", ".join(holders[body])
        lines = difflib.unified_diff(usual.split("\n"), body.split("\n"), *names, lineterm="")
        diffs.append("\n".join(lines))
    return [diff for diff in diffs if diff]  # that of the usual text with itself is empty


def check(folder):
    """Print what differs between the scripts in ``folder``; the exit code."""
    scripts, _ = read_folder(folder)
    findings, groups, orders, displaced = [], defaultdict(list), defaultdict(list), {}
    for script, cells in scripts.items():
        for cell in cells[1:]:
            groups[cell.title, cell.scope].append(cell)
        for pair in combinations([cell.title for cell in cells[1:]], 2):
            orders[pair].append(f"{script}.py")

    for title in dict.fromkeys(title for title, _ in groups):
        for script, cells in scripts.items():
            due = governing(scripts, title, script)
            held = [cell for cell in cells if cell.title == title]
            if due and [cell.scope for cell in held] != [due.scope]:
                wider = f"; holds the wider {place(held[0])}" if held else ""
                findings.append(f"{script}.py lacks {place(due)}{wider}")
    for group in groups.values():
        findings += differences(group)
    for (a, b), few in orders.items():
        many = orders.get((b, a), [])
        if (len(few), many) < (len(many), few):  # of two equal groups the first one is right
            text = f"{', '.join(few)}: {a!r} stands before {b!r}, but after it in {', '.join(many)}"
            displaced.setdefault(tuple(few), text)  # one, though a cell may have passed several
    findings += displaced.values()
    summary = f"{len(scripts)} scripts, {len(groups)} cells, all the same where they should be"
    print("\n".join(findings) or summary)
    return 1 if findings else 0


def copy(folder, source):
    """Write the cells of ``source`` into its sisters; exit code 1 where that would lose text."""
    scripts, ending = read_folder(folder)
    if source not in scripts:
        fail(f"no script is named {source!r}; choose from: {', '.join(scripts)}")
    cells = scripts[source]
    sisters = {script: list(own) for script, own in scripts.items() if script != source}
    own_scopes = {cell.title: cell.scope for cell in cells}
    refusals = []
    for title in dict.fromkeys(cell.title for cell in chain(*sisters.values())):
        due = governing(scripts, title, source)
        if due and own_scopes.get(title) != due.scope:
            refusals.append(f"{source}.py lacks {place(due)}, whose scope names it")

    for before, cell in pairwise(cells):
        targets = [
            own
            for script, own in sisters.items()
            if script in cell.scope.scripts
            and governing(scripts, cell.title, script).scope == cell.scope
        ]
        # Where the source has narrowed a scope, the targets still hold the title under the wider
        # one, and an edit of that in any sister may have been meant for the targets too.
        old_scopes = {old.scope for own in targets for old in own if old.title == cell.title}
        same = [old for old in chain(*sisters.values()) if old.title == cell.title]
        for diff in differences([old for old in same if old.scope in old_scopes]):
            refusals.append(f"the sisters of {source}.py disagree:\n{diff}")
        for own in targets:
            titles = [old.title for old in own]
            if cell.title in titles:
                i = titles.index(cell.title)
                own[i] = own[i]._replace(body=cell.body)
            else:
                earlier = [c.title for c in cells[: cells.index(cell)] if c.title in titles]
                i = titles.index(earlier[-1])  # None, the docstring, at least
                own[i : i + 1] = own[i]._replace(tail=before.tail), cell._replace(tail=own[i].tail)
    if refusals:
        sys.exit("\n".join([*refusals, "cells.py: nothing copied"]))

    changed = [script for script, own in sisters.items() if own != scripts[script]]
    try:
        for script in changed:
            text = "".join(cell.body + cell.tail for cell in sisters[script])
            with open(folder / f"{script}.tmp", "wb") as file:
                file.write(text.replace("\n", ending).encode())
                file.flush()
                os.fsync(file.fileno())
            shutil.copymode(folder / f"{script}.py", folder / f"{script}.tmp")
    except OSError as error:
        for written in changed:
            (folder / f"{written}.tmp").unlink(missing_ok=True)
        fail(f"{script}.py can't be written in {folder}: {error.strerror}; nothing copied")
    for script in changed:
        os.replace(folder / f"{script}.tmp", folder / f"{script}.py")
    print(f"copied from {source}.py to {', '.join(f'{s}.py' for s in changed) or 'none'}")


def main(argv=None):
    parser = argparse.ArgumentParser(description="Check or copy what the scripts share.")
    parser.error = fail
    parser.add_argument("script", nargs="?", help="copy its cells to its sisters, then check")
    parser.add_argument("--folder", type=Path, default=Path(__file__).resolve().parent)
    args = parser.parse_args(argv)
    if args.script:
        copy(args.folder, args.script.removesuffix(".py"))
    return check(args.folder)


if __name__ == "__main__":
    sys.exit(main())
