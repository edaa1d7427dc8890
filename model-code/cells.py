"""Keep what the training scripts share the same text, and write new ones.

    python model-code/cells.py                 check; a diff and exit code 1 if something differs
    python model-code/cells.py afad-coral      copy that script's cells to its sisters, then check
    python model-code/cells.py --new mine-coral --like faces-coral      a data set of your own
    python model-code/cells.py --new faces-rps --like faces-coral       a loss of your own
    python model-code/cells.py --new afad-corn                          of what the sisters hold
    python model-code/cells.py --new utk-coral-resnet18                 a variant of utk-coral

The scripts are the files named <data set>-<loss>.py or <data set>-<loss>-<variant>.py beside this
one, each part of lower-case letters and digits. Not every data set needs every loss.

A line `# %% Title [scope]` opens a cell, which runs to the next such line; what stands before the
first cell is the script's own. The scope names the scripts that hold the identical cell: `all`,
data sets (`afad, utk`), losses (`coral, ordinal`), scripts with their variants (`afad-coral`) or
variants (`utk-coral-resnet18`). Of the scopes that one title has, the narrowest that names a script
governs there: variant, then script, then data set or loss, then all. A cell `[own]` stands in all
the scripts with a text of each one's own, such as the paths to its data; no copy overwrites it.
Blank lines at the end of a cell don't count.

A new script is a copy of --like, in which the scopes of what is new name it, or is composed of the
cells that govern it in its sisters. A variant begins with all of them shared: where its name stands
as the scope in a cell's first line, that cell is its own. Nothing is overwritten.
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

LOSSES = ("ce", "coral", "corn", "dldl", "l1", "ordinal", "sord")  # those that come along
WORDS = "|".join(("all", "own", *LOSSES))
# A data set named like another word of a scope could not be told from it; nor should a variant.
NAME = re.compile(
    rf"(?!({WORDS})-)[a-z0-9]+-(?!(all|own)(-|$))[a-z0-9]+(-(?!({WORDS})$)[a-z0-9]+)?"
)
FORM = (
    "a training script is named <data set>-<loss>.py, as in mine-coral.py, its data set by"
    f" lower-case letters and digits (none of {WORDS.replace('|', ', ')}), its loss too, as ce,"
    " coral or ordinal, and a variant <data set>-<loss>-<variant>.py, as in utk-coral-resnet18.py"
)
SHARED = re.compile(r"(?m)^# %% .*\[all\]\s*$")  # tells an own loss's script from another tool
MEANT = re.compile(rf"(?i).*[-_ ]({'|'.join(LOSSES)})(?![a-z]).*")  # My-data-coral, mine_coral_2
# How docstrings begin; a full stop within brackets, as in (Niu et al. 2016), does not end it.
SENTENCE = re.compile(
    r'(?<=Age estimation on )([^.]+?)\s+by\s+((?:\([^()]*\)|[^()])+?)(?=\.(?:\s|"""))'
)

# Tail: the blank lines after the body. The first cell of a script holds its docstring, has the
# title None and names no script.
Cell = namedtuple("Cell", "script line title scope body tail")
# The higher rank is the narrower; own: no two texts need be the same.
Scope = namedtuple("Scope", "rank scripts own", defaults=[False])


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


def base_of(script):
    """Of a variant's name that of the script which it varies; any other as it is."""
    return "-".join(script.split("-")[:2])


def parse_scope(text, scripts):
    """The scope that stands in brackets; None if a word is unknown or of another kind.

    The names of ``scripts`` and their data sets are known, so that a misspelt one is not taken for
    one whose files are gone; of losses those that come along, as a data set need not have them all.
    """
    words = {word.strip() for word in text.split(",")}
    datasets, losses = datasets_of(scripts), losses_of(scripts)
    bases = {base_of(script) for script in scripts}
    kinds = (0, ["all"]), (0, ["own"]), (1, datasets), (1, losses), (2, bases)
    for rank, known in *kinds, (3, set(scripts) - bases):
        if words <= set(known):
            named = {s for s in scripts if words & {"all", "own", s, base_of(s), *s.split("-")[:2]}}
            return Scope(rank, frozenset(named), words == {"own"})


def parse_script(script, text, names, problems):
    """The cells of a script; what is wrong with their first lines goes to ``problems``."""
    cells, line = [], 1
    dataset, loss = script.split("-")[:2]
    hint = f"if this is the cell of the script's own data set, write [{dataset}]"
    hint += f", if of its own loss [{loss}]" if loss not in LOSSES else ""
    losses = ", ".join(losses_of(names))
    for chunk in re.split(r"(?m)^(?=#[ \t]*%%)", text):
        body, tail = re.fullmatch(r"(?s)(.*\S[^\n]*|)(\s*)", chunk).groups()
        cell = Cell(script, line, None, Scope(0, frozenset()), body, tail)
        line += chunk.count("\n")
        if cells:
            head = re.match(r"# %% +(\S.*?) +\[([^][\n]*)\]\s*(\n|$)", body)
            scope = head and parse_scope(head[2], names)
            if not head:
                problems.append(f"{place(cell)}: not of the form '# %% Title [scope]'")
            elif not scope:
                problems.append(
                    f"{place(cell)}: a scope is all, or data sets that have a script here"
                    f" ({', '.join(datasets_of(names))}), or losses ({losses}), or"
                    f" scripts ({script}, ...), of one kind, or own; {hint}"
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
    paths = folder.glob("[!.]*.py")  # editors leave hidden files
    for path in sorted(paths, key=lambda path: path.stem):  # a script before its variants
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
            problems.append(f"{path.name}: rename it: {FORM}")
    for name in set(datasets_of(texts)) & set(losses_of(texts)):
        problems.append(f"{name!r} is a data set and a loss: rename one, or no scope can tell them")
    return texts


def read_folder(folder, planned=()):
    """({script: its cells}, line ending); exit code 1 where the cells are not told apart.

    Scopes name the ``planned`` scripts as well, which have no file yet.
    """
    problems = []
    texts = read_texts(folder, problems)
    if not texts and not problems:
        fail(f"{folder}: no script there is named <data set>-<loss>.py, such as afad-coral.py")
    crlf = all(text.count("\n") == text.count("\r\n") for text in texts.values())
    mixed = [f"{script}.py" for script in texts if "\r" in texts[script] and not crlf]
    if mixed:
        problems.append(f"{', '.join(mixed)}: lines end in CRLF, elsewhere in LF; save all in one")
    texts = {script: text.replace("\r\n", "\n") for script, text in texts.items()}
    names = [*texts, *planned]
    scripts = {script: parse_script(script, texts[script], names, problems) for script in texts}
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


def compare(scripts):
    """(what differs between the scripts, how many cells they hold)."""
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
    for (_, scope), group in groups.items():
        findings += [] if scope.own else differences(group)
    for (a, b), few in orders.items():
        many = orders.get((b, a), [])
        if (len(few), many) < (len(many), few):  # of two equal groups the first one is right
            text = f"{', '.join(few)}: {a!r} stands before {b!r}, but after it in {', '.join(many)}"
            displaced.setdefault(tuple(few), text)  # one, though a cell may have passed several
    return [*findings, *displaced.values()], len(groups)


def check(folder):
    """Print what differs between the scripts in ``folder``; the exit code."""
    scripts, _ = read_folder(folder)
    findings, count = compare(scripts)
    summary = f"{len(scripts)} scripts, {count} cells, all the same where they should be"
    print("\n".join(findings) or summary)
    return 1 if findings else 0


def write(folder, texts, ending, source=None):
    """Write {script: text}, all or none; a new file gets the mode of ``source``."""
    try:
        for script, text in texts.items():
            with open(folder / f"{script}.tmp", "wb") as file:
                file.write(text.replace("\n", ending).encode())
                file.flush()
                os.fsync(file.fileno())
            shutil.copymode(folder / f"{source or script}.py", folder / f"{script}.tmp")
    except OSError as error:
        for written in texts:
            (folder / f"{written}.tmp").unlink(missing_ok=True)
        fail(f"{script}.py can't be written in {folder}: {error.strerror}; nothing copied")
    for script in texts:
        os.replace(folder / f"{script}.tmp", folder / f"{script}.py")


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
            and not (cell.scope.own and cell.title in [old.title for old in own])
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
    bodies = {s: "".join(cell.body + cell.tail for cell in sisters[s]) for s in changed}
    write(folder, bodies, ending)
    print(f"copied from {source}.py to {', '.join(f'{s}.py' for s in changed) or 'none'}")


def renamed(text, swaps):
    """The text with new scopes: by a pair (old, new) of ``swaps`` [new] for one that holds old."""

    def swapped(match):
        words = {word.strip() for word in match[1].split(",")}
        fitting = [word for old, word in swaps if old in words and word not in words]
        return f"[{fitting[0]}]" if fitting else match[0]

    return re.sub(r"\[([^][\n]*)\]", swapped, text)


def docstring(scripts, name, source, swaps):
    """What stands before the first cell of a new script: that of ``source`` by other names."""
    sentences = {script: SENTENCE.search(cells[0].body) for script, cells in scripts.items()}

    def said(part, word):
        """What docstrings call a data set (part 0) or loss (1); by its word if none has it."""
        for script in sentences:
            if script.split("-")[part] == word and sentences[script]:
                return sentences[script][part + 1]
        return word

    dataset, loss, *variant = name.split("-")
    sentence = f"{said(0, dataset)} by {re.sub(', variant .*', '', said(1, loss))}"
    sentence += "".join(f", variant {word}" for word in variant)
    text = SENTENCE.sub(lambda match: sentence, scripts[source][0].body, count=1)
    text = re.sub(r'(?s)\n\s*\nResult: .*?(?=\n\s*\n|\n*""")', "", text)  # of the source's runs
    text = re.sub(rf"(?<![\w-]){source}(?=\.py\b)", name, text)
    text = renamed(text, swaps)
    return re.sub(r"(\[[^]]+\]) and \1", r"\1", text)  # was [coral, ordinal] and [coral]


def compose(scripts, name, source, swaps):
    """The cells of a new script: of each title the one that governs it, ordered as in its sisters.

    Where ``swaps`` changes the scope of a cell of ``source`` that does not name the new script,
    the changed cell. Of [own] cells, whose texts differ, the first one in ``scripts``.
    """
    cells = []
    for cell in scripts[source][1:]:
        due = governing(scripts, cell.title, name)
        head, *rest = cell.body.split("\n")
        own_head = head if name in cell.scope.scripts else renamed(head, swaps)
        if own_head != head:
            text = "\n".join([own_head, *rest])
            for constant, word in zip(("DATASET", "LOSS"), name.split("-"), strict=False):
                text = re.sub(rf"(?m)^({constant} = [\"'])[a-z0-9]+", rf"\g<1>{word}", text)
            only = cell.scope._replace(scripts=frozenset([name]))
            cells.append(cell._replace(scope=only, body=text))
        elif due:
            cells.append(due)
    for sister in scripts.values():
        i = 0
        for title in (cell.title for cell in sister[1:]):
            due, titles = governing(scripts, title, name), [cell.title for cell in cells]
            if title in titles:
                i = titles.index(title) + 1
            elif due:
                cells.insert(i, due)
                i += 1
    return cells


def source_of(scripts, name, like):
    """(the script that a new one begins as, which of its data set and loss are new here)."""
    base = base_of(name)
    dataset, loss = base.split("-")
    both = {dataset, *datasets_of(scripts)} & {loss, *losses_of(scripts)}
    fresh = {dataset, loss}.difference(*(script.split("-")[:2] for script in scripts))
    if both:
        fail(f"{name}: {min(both)!r} would be a data set and a loss: choose another name")
    if like and like not in scripts:
        fail(f"no script is named {like!r}; choose from: {', '.join(scripts)}")
    if name != base and base not in scripts:
        bases = ", ".join(script for script in scripts if script == base_of(script))
        fail(f"{name} is a variant of {base}, which is not there; choose a base from: {bases}")
    if fresh and not like:
        what = " and ".join(map(repr, sorted(fresh)))
        kin = ", ".join(s for s in scripts if {dataset, loss} - fresh <= {*s.split("-")})
        fail(f"{name}: no script has {what} yet: say with --like which it begins as: {kin}")
    worth = {s: (s == base, s.split("-")[1] == loss) for s in scripts}
    return like or max(scripts, key=worth.get), fresh


def new(folder, name, like):
    """Write a new script, a copy of ``like`` or of the cells that govern it in its sisters."""
    if not NAME.fullmatch(name):
        fail(f"{name!r} is no name of a script: {FORM}")
    if os.path.lexists(folder / f"{name}.py"):
        fail(f"{name}.py is there already: choose another name, or remove it first")
    source, fresh = source_of(read_folder(folder)[0], name, like)
    scripts, ending = read_folder(folder, [name])
    findings, _ = compare(scripts)
    if findings:
        sys.exit("\n".join([*findings, f"cells.py: {name}.py not written"]))

    names = name.split("-")[:2]
    near = {s: (s.split("-")[0] == names[0], s == base_of(name), s == source) for s in scripts}
    scripts = {s: scripts[s] for s in sorted(scripts, key=near.get, reverse=True)}
    swaps = [*zip(source.split("-"), names, strict=False)]
    swaps += [(base_of(source), name), (source, name)] if like else []
    text, edits = docstring(scripts, name, source, swaps) + scripts[source][0].tail, []
    swaps = [(old, word) for old, word in swaps if word in {name, *fresh}]
    for cell in compose(scripts, name, source, swaps):
        if cell.scope.scripts == {name} or cell.scope.own and names[0] in fresh:
            edits.append(place(cell._replace(script=name, line=text.count("\n") + 1)))
        text += cell.body + (cell.tail if cell.tail.count("\n") > 1 else "\n\n\n")
    write(folder, {name: text.rstrip() + "\n"}, ending, source)
    print(f"wrote {name}.py{'; edit next: ' if edits else ''}{', '.join(edits)}")
    if name != base_of(name):
        print(f"write [{name}] as the scope of each cell that you change; all others stay shared")


def main(argv=None):
    parser = argparse.ArgumentParser(description="Check or copy what the scripts share.")
    parser.error = fail
    what = parser.add_mutually_exclusive_group()
    what.add_argument("script", nargs="?", help="copy its cells to its sisters, then check")
    what.add_argument("--new", metavar="NAME", help="write a script of that name, then check")
    parser.add_argument("--like", metavar="SCRIPT", help="the one that the new script begins as")
    parser.add_argument("--folder", type=Path, default=Path(__file__).resolve().parent)
    args = parser.parse_args(argv)
    if args.like and args.new is None:
        fail("--like goes with --new: what it is to be like that script")
    if args.new is not None:
        new(args.folder, args.new.removesuffix(".py"), (args.like or "").removesuffix(".py"))
    elif args.script:
        copy(args.folder, args.script.removesuffix(".py"))
    return check(args.folder)


if __name__ == "__main__":
    sys.exit(main())
