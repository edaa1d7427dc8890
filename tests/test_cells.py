"""model-code/cells.py on small made-up folders of scripts, and on the real one."""

import shutil
import subprocess
import sys

import pytest
from conftest import LOSSES, PAPER, ROOT, SCRIPTS, run

resource = pytest.importorskip("resource")  # not on Windows

CELLS = ROOT / "model-code" / "cells.py"
NAMES = [script.stem for script in PAPER]


def cell(head, *lines):
    return "\n".join([f"# %% {head}", *lines]) + "\n"


def make(folder, names=NAMES, **changed):
    """Scripts of four or five cells, in order, that differ only where they should.

    ``changed`` gives whole texts for some scripts, with ``_`` for the hyphen of their names.
    """
    for name in names:
        dataset, loss = name.split("-")[:2]
        parts = [
            f'"""The script {name}."""\n',
            cell("Imports [all]", "import os", "import sys"),
            cell(f"Facts [{dataset}]", f"DATASET = {dataset!r}"),
            "" if loss == "ce" else cell("Weights [coral, ordinal]", "def weights():", "    pass"),
            cell(f"Loss [{loss}]", f"LOSS = {loss!r}"),
            cell("Main [all]", "main()"),
        ]
        text = "\n\n".join(part for part in parts if part)
        (folder / f"{name}.py").write_text(text)
    for name, edit in changed.items():
        path = folder / f"{name.replace('_', '-')}.py"
        path.write_text(edit(path.read_text()))
    return folder


def edit(old, new):
    def replace(text):
        assert text.count(old) == 1
        return text.replace(old, new)

    return replace


def texts(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def cells(folder, *args):
    return run(CELLS, "--folder", folder, *args)


SAME = "12 scripts, 10 cells, all the same where they should be\n"  # 2 + 4 + 3 + 1


def assert_same(folder):
    check = cells(folder)
    assert (check.returncode, check.stdout, check.stderr) == (0, SAME, "")


def assert_refused(folder, script, *parts):
    """Copying stops with exit code 1, says each of ``parts``, and writes nothing."""
    before = texts(folder)
    copy = cells(folder, script)
    assert (copy.returncode, copy.stdout) == (1, "")
    assert copy.stderr.endswith("cells.py: nothing copied\n")
    for part in parts:
        assert part in copy.stderr
    assert texts(folder) == before


def test_the_real_scripts():
    check = run(CELLS)
    assert check.returncode == 0, check.stdout + check.stderr
    assert check.stdout.startswith(f"{len(SCRIPTS)} scripts, ") and len(SCRIPTS) >= 12


# Which files are scripts


def test_scripts_are_found_not_listed(tmp_path):
    """Two more data sets; one of them, and one of the paper's, with fewer losses than the rest."""
    names = [*NAMES, "faces-ce", "faces-coral", "faces-ordinal", "2mine4-coral"]
    make(tmp_path, names)
    (tmp_path / "utk-ce.py").unlink()
    check = cells(tmp_path)
    said = SAME.replace("12 scripts, 10 cells", "15 scripts, 12 cells")
    assert (check.returncode, check.stdout, check.stderr) == (0, said, "")
    path = tmp_path / "2mine4-coral.py"
    path.write_text(path.read_text().replace("    pass", "    return 1"))
    copy = cells(tmp_path, "2mine4-coral")
    targets = sorted(n for n in names if "-ce" not in n and n != "2mine4-coral")
    targets = ", ".join(f"{name}.py" for name in targets)
    assert (copy.returncode, copy.stdout.splitlines()[0]) == (
        0,
        f"copied from 2mine4-coral.py to {targets}",
    )


def test_a_folder_with_one_loss_or_one_script(tmp_path):
    """`[coral, ordinal]` is good without a script for ordinal, `[all]` with a single script."""
    make(tmp_path, ["faces-coral", "mine-coral"])
    assert cells(tmp_path).stdout == SAME.replace("12 scripts, 10", "2 scripts, 6")
    (tmp_path / "faces-coral.py").unlink()
    assert cells(tmp_path).stdout == SAME.replace("12 scripts, 10", "1 scripts, 5")
    assert cells(tmp_path, "mine-coral").stdout.startswith("copied from mine-coral.py to none\n")


@pytest.mark.parametrize("folder", [".", "no/such/folder"])
def test_a_folder_without_scripts(tmp_path, folder):
    (tmp_path / "predict.py").write_text("import os\n")
    for args in [], ["afad-ce"]:
        check = cells(tmp_path / folder, *args)
        assert (check.returncode, check.stdout) == (2, "")
        said = f"cells.py: error: {tmp_path / folder}: no script there is named <data set>-<loss>"
        assert check.stderr.startswith(said) and check.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "name",
    ["my-data-coral", "Mine-coral", "mine-Coral", "mine_coral", "mine-coral (copy)"]
    + ["mäuse-ce", "all-coral", "own-coral", "ce-ordinal", "coral-coral", "-coral"]
    + ["mine-coral-V2", "mine-coral-ce", "mine-coral-own", "mine-coral-2-b", "mine-coral-"],
)
def test_names_that_are_nearly_those_of_scripts(tmp_path, name):
    make(tmp_path)
    (tmp_path / f"{name}.py").write_text("")
    for args in [], ["afad-ce"]:
        check = cells(tmp_path, *args)
        assert (check.returncode, check.stdout, check.stderr.count("\n")) == (1, "", 1)
        assert f"{name}.py: rename it: a training script is named <data set>-" in check.stderr


def test_a_copied_script_under_any_other_name(tmp_path):
    make(tmp_path)
    shutil.copy(tmp_path / "utk-coral.py", tmp_path / "mine.py")
    check = cells(tmp_path)
    assert (check.returncode, check.stdout, check.stderr.count("\n")) == (1, "", 1)
    assert check.stderr.startswith("mine.py: rename it: a training script is named ")


def test_a_loss_of_ones_own(tmp_path):
    """A copied script, of which the check says what to do, and then as good as any other."""
    make(tmp_path)
    focal = tmp_path / "utk-focal.py"
    text = (tmp_path / "utk-coral.py").read_text()
    focal.write_text(text)
    check = cells(tmp_path)
    assert (check.returncode, check.stdout) == (1, "")
    hint = "the scope does not name this script; if this is the cell of the script's own data set,"
    assert check.stderr.count(f"{hint} write [utk], if of its own loss [focal]\n") == 2
    focal.write_text(text.replace("[coral, ordinal]", "[focal]").replace("[coral]", "[focal]"))
    assert cells(tmp_path).returncode == 0
    changed = focal.read_text().replace("def weights():", "def weights(more):")
    focal.write_text(changed)
    assert cells(tmp_path).returncode == 0  # no cell of another loss
    shutil.copy(focal, tmp_path / "focal-ce.py")
    assert "'focal' is a data set and a loss: rename one" in cells(tmp_path).stderr


def test_other_files_are_left_alone(tmp_path):
    """Tools, a notebook of somebody's own, and what an editor keeps beside an open file."""
    make(tmp_path)
    for name in "cells.py", "whole_files.py", "my-tool.py", "my-cells.py", "force.py":
        (tmp_path / name).write_bytes(b"# %% Output [markdown]\n# caf\xe9\n")
    (tmp_path / ".#mine-coral.py").symlink_to("nowhere")
    (tmp_path / "mine-coral.py.bak").write_text("")
    assert_same(tmp_path)


# Data of one's own


def test_data_of_ones_own(tmp_path):
    """A copied script, of which the check says what to do, and then as good as any other."""
    make(tmp_path, [*NAMES, "faces-ce", "faces-coral", "faces-ordinal"])
    mine = tmp_path / "mine-coral.py"
    mine.write_text((tmp_path / "faces-coral.py").read_text().replace("'faces'", "'mine'"))
    said = (
        "mine-coral.py:9 '# %% Facts [faces]': the scope does not name this script;"
        " if this is the cell of the script's own data set, write [mine]\n"
    )
    for args in [], ["mine-coral"], ["faces-coral"]:
        check = cells(tmp_path, *args)
        assert (check.returncode, check.stdout, check.stderr) == (1, "", said)

    own = cell("Own [mine]", "A = 1") + "\n\n" + cell("Own exception [mine-coral]", "B = 2")
    mine.write_text(mine.read_text().replace("Facts [faces]", "Facts [mine]") + "\n\n" + own)
    check = cells(tmp_path)
    said = SAME.replace("12 scripts, 10 cells", "16 scripts, 14 cells")  # 2 + 6 + 3 + 1 + 2
    assert (check.returncode, check.stdout, check.stderr) == (0, said, "")

    faces = tmp_path / "faces-coral.py"
    facts = [path.read_text().split("# %% ")[2] for path in (faces, mine)]
    assert facts[0] == "Facts [faces]\nDATASET = 'faces'\n\n\n"
    assert facts[1] == "Facts [mine]\nDATASET = 'mine'\n\n\n"
    for source, target, old, new in (
        (mine, faces, "LOSS = 'coral'", "LOSS = 'mended'"),
        (faces, mine, "import sys", "import re"),
    ):
        source.write_text(source.read_text().replace(old, new))
        copy = cells(tmp_path, source.stem)
        assert (copy.returncode, target.name in copy.stdout) == (0, True)
        assert new in target.read_text() and old not in target.read_text()
        assert [path.read_text().split("# %% ")[2] for path in (faces, mine)] == facts
    assert mine.read_text().endswith(own) and "Own" not in faces.read_text()


def test_data_of_ones_own_beside_the_real_scripts(tmp_path):
    for script in SCRIPTS:
        shutil.copy(script, tmp_path)
    text = (tmp_path / "utk-coral.py").read_text()
    heads = [line for line in text.splitlines() if line.startswith("# %%") and "[utk" in line]
    (tmp_path / "strangers-coral.py").write_text(text)
    check = cells(tmp_path)
    assert (check.returncode, check.stdout, check.stderr.count("\n")) == (1, "", len(heads))
    assert check.stderr.count("write [strangers]") == len(heads)
    (tmp_path / "strangers-coral.py").write_text(text.replace("[utk]", "[strangers]"))
    check = cells(tmp_path)
    assert (check.returncode, check.stdout.split(",")[0]) == (0, f"{len(SCRIPTS) + 1} scripts")
    for source in "strangers-coral", "utk-coral":
        assert cells(tmp_path, source).stdout.startswith(f"copied from {source}.py to none\n")


@pytest.mark.parametrize("scope", ["faces", "faces, mine", "faces-coral"])
def test_scopes_of_a_data_set_whose_files_are_gone(tmp_path, scope):
    make(tmp_path, ["mine-ce", "mine-coral"])
    path = tmp_path / "mine-coral.py"
    path.write_text(path.read_text().replace("Facts [mine]", f"Facts [{scope}]"))
    check = cells(tmp_path)
    assert (check.returncode, check.stdout, check.stderr.count("\n")) == (1, "", 1)
    said = (
        f"mine-coral.py:9 '# %% Facts [{scope}]': a scope is all, or data sets that have a script"
    )
    assert check.stderr.startswith(f"{said} here (mine), or losses ({', '.join(LOSSES)}), or ")
    assert check.stderr.endswith("write [mine]\n")


# Check


def test_same(tmp_path):
    assert_same(make(tmp_path))


def test_docstrings_and_blank_lines_at_the_end_of_a_cell_do_not_count(tmp_path):
    def change(text):
        text = text.replace("The script", "Another text").replace(
            "import sys\n", "import sys\n\n\n"
        )
        return text.rstrip("\n")

    assert_same(make(tmp_path, utk_ce=change))


def test_diff_against_the_majority(tmp_path):
    make(tmp_path, afad_ce=edit("import sys", "import re"))
    check = cells(tmp_path)
    others = ", ".join(f"{name}.py:4" for name in NAMES[1:])
    diff = f"--- {others}\n+++ afad-ce.py:4\n"
    diff += "@@ -1,3 +1,3 @@\n # %% Imports [all]\n import os\n-import sys\n+import re\n"
    assert (check.returncode, check.stdout) == (1, diff)


def test_diff_against_the_first_holder_of_two(tmp_path):
    def narrow(text):
        return text.replace("# %% Main [all]\nmain()", "# %% Main [utk-ce, utk-coral]\nmain(1)")

    make(tmp_path, utk_ce=narrow, utk_coral=lambda text: narrow(text).replace("(1)", "(2)"))
    check = cells(tmp_path)
    diff = "--- utk-ce.py:17\n+++ utk-coral.py:22\n"
    diff += "@@ -1,2 +1,2 @@\n # %% Main [utk-ce, utk-coral]\n-main(1)\n+main(2)\n"
    assert (check.returncode, check.stdout) == (1, diff)


def test_every_other_text_has_a_diff(tmp_path):
    change = edit("import sys", "import re")
    make(tmp_path, afad_ce=change, cacd_ce=change, utk_ce=edit("import sys", "import io"))
    check = cells(tmp_path)
    assert check.stdout.count("+++ ") == 2
    assert "+++ afad-ce.py:4, cacd-ce.py:4\n" in check.stdout
    assert "+++ utk-ce.py:4\n" in check.stdout


def test_a_blank_line_inside_a_cell_counts(tmp_path):
    check = cells(make(tmp_path, utk_ce=edit("import os\n", "import os\n\n")))
    assert (check.returncode, check.stdout.count("\n+\n")) == (1, 1)


def test_missing_cell(tmp_path):
    make(
        tmp_path, utk_coral=edit(cell("Weights [coral, ordinal]", "def weights():", "    pass"), "")
    )
    check = cells(tmp_path)
    said = "utk-coral.py lacks afad-coral.py:13 '# %% Weights [coral, ordinal]'\n"
    assert (check.returncode, check.stdout) == (1, said)


def test_narrower_scopes_override_wider_ones(tmp_path):
    make(
        tmp_path,
        afad_ce=edit("Main [all]\nmain()", "Main [afad]\nmain(2)"),
        afad_coral=edit("Main [all]\nmain()", "Main [afad]\nmain(2)"),
        afad_ordinal=edit("Main [all]\nmain()", "Main [afad-ordinal]\nmain(3)"),
        utk_coral=edit("Main [all]\nmain()", "Main [utk-coral]\nmain(4)"),
    )
    check = cells(tmp_path)
    assert (check.returncode, check.stdout) == (0, SAME.replace("10 cells", "13 cells"))


def test_a_wider_cell_where_a_narrower_governs(tmp_path):
    check = cells(make(tmp_path, afad_ce=edit("Main [all]", "Main [afad]")))
    said = "".join(
        f"{script}.py lacks afad-ce.py:17 '# %% Main [afad]';"
        f" holds the wider {script}.py:22 '# %% Main [all]'\n"
        for script in ("afad-coral", "afad-ordinal")
    )
    assert (check.returncode, check.stdout) == (1, said)


def test_order(tmp_path):
    imports = cell("Imports [all]", "import os", "import sys")
    make(tmp_path, cacd_ce=lambda text: text.replace(imports, "") + "\n\n" + imports)
    check = cells(tmp_path)
    rest = ", ".join(f"{name}.py" for name in NAMES if name != "cacd-ce")
    # moved behind three cells, said once
    said = f"cacd-ce.py: 'Facts' stands before 'Imports', but after it in {rest}\n"
    assert (check.returncode, check.stdout) == (1, said)


def test_scope_without_blanks_and_in_another_order_is_the_same_scope_but_another_text(tmp_path):
    check = cells(make(tmp_path, utk_coral=edit("[coral, ordinal]", "[ordinal,coral]")))
    assert check.returncode == 1
    assert "-# %% Weights [coral, ordinal]\n+# %% Weights [ordinal,coral]\n" in check.stdout
    assert "lacks" not in check.stdout


# First lines that can't be read


@pytest.mark.parametrize(
    "head, said",
    [
        ("# %% Main []", "a scope is all, or"),
        ("# %% Main [afda]", "a scope is all, or"),
        ("# %% Main [all, coral]", "a scope is all, or"),
        ("# %% Main [utk, ce]", "a scope is all, or"),
        ("# %% Main [ce, utk-ce]", "a scope is all, or"),
        ("# %% Main [ce coral]", "a scope is all, or"),
        ("# %% Main", "not of the form"),
        ("# %% [all]", "not of the form"),
        ("# %%", "not of the form"),
        ("#%% Main [all]", "not of the form"),
        ("# %% Main [all] and more", "not of the form"),
        ("# %% Main [afad]", "the scope does not name this script"),
        ("# %% Imports [all]", "the second cell of that title"),
    ],
)
def test_first_lines_that_are_wrong(tmp_path, head, said):
    make(tmp_path, utk_ce=edit("# %% Main [all]", head))
    before = texts(tmp_path)
    for args in [], ["afad-ce"]:
        check = cells(tmp_path, *args)
        assert (check.returncode, check.stdout) == (1, "")
        assert check.stderr.startswith(f"utk-ce.py:17 '{head}': {said}")
        assert check.stderr.count("\n") == 1
    assert texts(tmp_path) == before


def test_all_wrong_first_lines_are_said(tmp_path):
    make(tmp_path, utk_ce=edit("Main [all]", "Main"), afad_ce=edit("Main [all]", "[all]"))
    assert cells(tmp_path).stderr.count("not of the form") == 2


@pytest.mark.parametrize(
    "one, first, other, second, claimed",
    [
        ("utk-coral", "utk", "cacd-ce", "ce", "utk-ce"),  # which holds neither
        ("utk-ce", "ce", "cacd-coral", "ce, coral", "afad-ce"),
        ("utk-ce", "utk-ce", "utk-coral", "utk-ce, utk-coral", "utk-ce"),
    ],
)
def test_two_scopes_of_one_rank_claim_one_script(tmp_path, one, first, other, second, claimed):
    make(
        tmp_path,
        **{
            one.replace("-", "_"): edit("Main [all]", f"Main [{first}]"),
            other.replace("-", "_"): edit("Main [all]", f"Main [{second}]"),
        },
    )
    check = cells(tmp_path)
    assert (check.returncode, check.stdout, check.stderr.count("\n")) == (1, "", 1)
    assert f"[{first}]'" in check.stderr and f"[{second}]'" in check.stderr
    assert f"both claim {claimed}, and neither is the narrower" in check.stderr
    assert check.stderr.endswith(f"an exception says [{claimed}]\n")


def test_a_script_without_cells(tmp_path):
    check = cells(make(tmp_path, utk_ce=lambda text: "import os\n"))
    assert (check.returncode, check.stderr[:25]) == (1, "utk-ce.py: holds no cell,")


def test_line_endings(tmp_path):
    make(tmp_path)
    path = tmp_path / "utk-ce.py"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    check = cells(tmp_path)
    assert (check.returncode, check.stderr[:28]) == (1, "utk-ce.py: lines end in CRLF")
    for name in NAMES[:-1]:
        if name != "utk-ce":
            other = tmp_path / f"{name}.py"
            other.write_bytes(other.read_bytes().replace(b"\n", b"\r\n"))
    assert cells(tmp_path).returncode == 1  # one is still in LF
    path = tmp_path / "utk-ordinal.py"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert_same(tmp_path)  # as git checks out on Windows


def test_text_that_is_not_utf8(tmp_path):
    (make(tmp_path) / "utk-ce.py").write_bytes(b"# %% Imports [all]\n# \xff\n")
    check = cells(tmp_path)
    assert check.returncode == 1
    assert check.stderr.startswith("utk-ce.py: not readable as UTF-8 text: ")
    assert check.stderr.count("\n") == 1


# Copy


@pytest.mark.parametrize("name", ["afad-coral", "afad-coral.py"])
def test_copy_a_changed_cell(tmp_path, name):
    before = texts(make(tmp_path))
    source = tmp_path / "afad-coral.py"
    source.write_text(source.read_text().replace("import sys", "import re").replace("The", "My"))
    copy = cells(tmp_path, name)
    sisters = [f"{name}.py" for name in NAMES if name != "afad-coral"]
    said = f"copied from afad-coral.py to {', '.join(sisters)}\n{SAME}"
    assert (copy.returncode, copy.stdout, copy.stderr) == (0, said, "")
    after = texts(tmp_path)
    assert list(after) == list(before)  # no temporary file is left
    for sister in sisters:
        assert after[sister] == before[sister].replace(b"import sys", b"import re")


def test_copy_only_where_the_scope_says(tmp_path):
    before = texts(make(tmp_path, utk_coral=edit("    pass", "    return 1")))
    copy = cells(tmp_path, "utk-coral")
    assert (copy.returncode, copy.stdout.splitlines()[1]) == (0, SAME.strip())
    after = texts(tmp_path)
    for name in NAMES:
        same = name.endswith("-ce") or name == "utk-coral"
        assert (after[f"{name}.py"] == before[f"{name}.py"]) == same


def test_copy_keeps_the_blank_lines_and_line_ends_of_the_sister(tmp_path):
    def odd(text):
        return text.replace("import sys\n\n\n", "import sys\n\n").rstrip("\n")

    make(tmp_path, afad_ce=edit("import sys", "import re"), utk_ce=odd)
    for name in NAMES:
        path = tmp_path / f"{name}.py"
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    before = texts(tmp_path)
    assert cells(tmp_path, "afad-ce").returncode == 0
    for name, text in texts(tmp_path).items():
        assert text == before[name].replace(b"import sys\r\n", b"import re\r\n")


def test_nothing_to_copy(tmp_path):
    before = texts(make(tmp_path))
    copy = cells(tmp_path, "utk-ce")
    assert (copy.returncode, copy.stdout) == (0, f"copied from utk-ce.py to none\n{SAME}")
    assert texts(tmp_path) == before


def test_copy_new_cells_to_their_places(tmp_path):
    """First, between, after a cell that a sister lacks, two in a row, and last."""
    make(tmp_path)
    path = tmp_path / "afad-coral.py"
    text = path.read_text()
    for title in "Imports", "Loss":
        text = text.replace(
            f"# %% {title}", cell(f"Before {title} [all]", "A = 1") + f"\n\n# %% {title}"
        )
    text += "\n\n" + cell("Last [all]", "B = 2") + "\n\n" + cell("Very last [afad]", "C = 3")
    path.write_text(text)
    copy = cells(tmp_path, "afad-coral")
    assert copy.returncode == 0
    assert copy.stdout.endswith(SAME.replace("10 cells", "14 cells"))

    def expected(name, weights, last):
        dataset, loss = name.split("-")
        parts = [
            f'"""The script {name}."""\n',
            cell("Before Imports [all]", "A = 1"),
            cell("Imports [all]", "import os", "import sys"),
            cell(f"Facts [{dataset}]", f"DATASET = {dataset!r}"),
            *weights,
            cell("Before Loss [all]", "A = 1"),
            cell(f"Loss [{loss}]", f"LOSS = {loss!r}"),
            cell("Main [all]", "main()"),
            cell("Last [all]", "B = 2"),
            *last,
        ]
        return "\n\n".join(parts)

    weights = [cell("Weights [coral, ordinal]", "def weights():", "    pass")]
    last = [cell("Very last [afad]", "C = 3")]
    assert (tmp_path / "utk-coral.py").read_text() == expected("utk-coral", weights, [])
    assert (tmp_path / "afad-ce.py").read_text() == expected("afad-ce", [], last)
    assert path.read_text() == expected("afad-coral", weights, last)


def test_copy_of_a_new_cell_last_leaves_the_end_of_the_sister(tmp_path):
    make(
        tmp_path,
        afad_ce=lambda text: text + "\n\n" + cell("Last [all]", "B = 2"),
        utk_ce=lambda text: text.rstrip("\n"),
    )
    assert cells(tmp_path, "afad-ce").returncode == 0
    assert (tmp_path / "utk-ce.py").read_text().endswith("main()\n\n\n# %% Last [all]\nB = 2")


def test_copy_a_narrowed_scope(tmp_path):
    before = texts(make(tmp_path, afad_ce=edit("Main [all]\nmain()", "Main [afad]\nmain(2)")))
    copy = cells(tmp_path, "afad-ce")
    assert copy.stdout.splitlines() == [
        "copied from afad-ce.py to afad-coral.py, afad-ordinal.py",
        SAME.strip().replace("10 cells", "11 cells"),
    ]
    for name, text in texts(tmp_path).items():
        if name in ("afad-coral.py", "afad-ordinal.py"):
            assert text == before[name].replace(b"Main [all]\nmain()", b"Main [afad]\nmain(2)")
        else:
            assert text == before[name]


def test_a_narrowed_scope_may_not_drop_an_edit_of_the_wider_cell(tmp_path):
    """Also not one that stands in a sister that is not written to."""
    make(
        tmp_path,
        afad_ce=edit("Main [all]\nmain()", "Main [afad]\nmain(2)"),
        utk_ce=edit("main()", "main(3)"),
    )
    assert_refused(tmp_path, "afad-ce", "the sisters of afad-ce.py disagree:", "+main(3)")


def test_copy_leaves_a_narrower_exception_alone(tmp_path):
    make(
        tmp_path,
        afad_ce=edit("main()", "main(2)"),
        utk_ce=edit("Main [all]\nmain()", "Main [utk-ce]\nmain(9)"),
    )
    assert cells(tmp_path, "afad-ce").returncode == 0
    assert (tmp_path / "utk-ce.py").read_text().endswith("# %% Main [utk-ce]\nmain(9)\n")
    assert (tmp_path / "utk-coral.py").read_text().endswith("# %% Main [all]\nmain(2)\n")


def test_copy_from_a_script_with_an_exception_of_its_own(tmp_path):
    """The wider cell, which it does not hold, is left alone."""
    before = texts(make(tmp_path, utk_ce=edit("Main [all]\nmain()", "Main [utk-ce]\nmain(9)")))
    copy = cells(tmp_path, "utk-ce")
    assert (copy.returncode, copy.stdout.splitlines()[0]) == (0, "copied from utk-ce.py to none")
    assert texts(tmp_path) == before


def test_sisters_that_disagree(tmp_path):
    make(tmp_path, afad_ce=edit("import sys", "import re"), utk_ce=edit("import sys", "import io"))
    diff = "+++ utk-ce.py:4\n@@ -1,3 +1,3 @@\n # %% Imports [all]\n"
    diff += " import os\n-import sys\n+import io\n"
    assert_refused(tmp_path, "afad-ce", "the sisters of afad-ce.py disagree:\n", diff)


def test_a_single_edit_in_a_sister_is_not_dropped(tmp_path):
    make(tmp_path, utk_ce=edit("import sys", "import io"))
    assert_refused(tmp_path, "afad-ce", "the sisters of afad-ce.py disagree:\n", "+import io\n")


def test_a_cell_that_the_source_lacks(tmp_path):
    make(tmp_path, afad_coral=edit(cell("Main [all]", "main()"), ""))
    said = "afad-coral.py lacks afad-ce.py:17 '# %% Main [all]', whose scope names it\n"
    assert_refused(tmp_path, "afad-coral", said)


def test_a_cell_that_only_one_sister_has(tmp_path):
    new = cell("New [coral]", "N = 1")
    make(tmp_path, utk_coral=lambda text: text + "\n\n" + new)
    said = "afad-coral.py lacks utk-coral.py:26 '# %% New [coral]', whose scope names it\n"
    assert_refused(tmp_path, "afad-coral", said)
    assert cells(tmp_path, "afad-ce").returncode == 1  # the check says it; ce has no part in it
    assert cells(tmp_path, "utk-coral").returncode == 0


def test_a_new_title(tmp_path):
    make(tmp_path, afad_ce=edit("Main [all]", "Run [all]"))
    assert_refused(tmp_path, "afad-ce", "afad-ce.py lacks afad-coral.py:22 '# %% Main [all]'")


def test_a_widened_scope(tmp_path):
    """The narrower cell in the sisters may hold what the source has dropped."""
    make(tmp_path, afad_ce=edit("Facts [afad]", "Facts [all]"))
    assert_refused(tmp_path, "afad-ce", "afad-ce.py lacks afad-coral.py:9 '# %% Facts [afad]'")


def test_after_copying_the_check_decides(tmp_path):
    """The order of the cells is not copied."""
    make(
        tmp_path,
        utk_ce=lambda text: text.replace("main()\n", "main()\n\n\n", 1) + cell("X [ce]", "X"),
    )
    loss, main = cell("Loss [ce]", "LOSS = 'ce'"), cell("Main [all]", "main()")
    path = tmp_path / "utk-ce.py"
    path.write_text(path.read_text().replace(loss, "").replace(main, main + "\n\n" + loss))
    copy = cells(tmp_path, "utk-ce")
    assert copy.returncode == 1
    assert "copied from utk-ce.py to afad-ce.py, cacd-ce.py, morph2-ce.py\n" in copy.stdout
    assert "utk-ce.py: 'Main' stands before 'Loss', but after it in afad-ce.py" in copy.stdout


def test_a_write_that_fails(tmp_path):
    """A limit on file sizes stands for the full disk: afad-ce fits, afad-ordinal does not."""
    before = texts(make(tmp_path, afad_coral=edit("import sys", "import re")))
    limit = len(before["afad-ce.py"])
    copy = subprocess.run(
        [sys.executable, CELLS, "--folder", tmp_path, "afad-coral"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert (copy.returncode, copy.stdout, copy.stderr.count("\n")) == (2, "", 1)
    assert copy.stderr.startswith("cells.py: error: afad-ordinal.py can't be written in ")
    assert texts(tmp_path) == before  # nor is a temporary file left


@pytest.mark.parametrize(
    "args",
    [["afad-corals"], ["../afad-coral"], ["--fix"], ["a", "b"], ["--new"], ["--new", "--like"]]
    + [["afad-ce", "--new", "mine-ce"], ["--like", "afad-ce"], ["afad-ce", "--like", "utk-ce"]],
)
def test_wrong_calls(tmp_path, args):
    before = texts(make(tmp_path))
    call = cells(tmp_path, *args)
    assert (call.returncode, call.stdout) == (2, "")
    assert call.stderr.startswith("cells.py: error: ") and call.stderr.count("\n") == 1
    assert texts(tmp_path) == before


# Cells of each script's own


def with_paths(folder, names=NAMES):
    """The scripts of ``make``, and after the imports of each a cell [own] with its own text."""
    make(folder, names)
    for name in names:
        path = folder / f"{name}.py"
        paths = cell("Paths [own]", f"CSV = '/data/{name}.csv'")
        path.write_text(path.read_text().replace("# %% Facts", f"{paths}\n\n# %% Facts"))
    return folder


SAME_OWN = SAME.replace("10 cells", "11 cells")


def test_own_cells_differ(tmp_path):
    check = cells(with_paths(tmp_path))
    assert (check.returncode, check.stdout, check.stderr) == (0, SAME_OWN, "")


def test_an_own_cell_may_not_be_missing(tmp_path):
    path = with_paths(tmp_path) / "utk-coral.py"
    path.write_text(
        path.read_text().replace(cell("Paths [own]", "CSV = '/data/utk-coral.csv'"), "")
    )
    check = cells(tmp_path)
    said = "utk-coral.py lacks afad-ce.py:9 '# %% Paths [own]'\n"
    assert (check.returncode, check.stdout) == (1, said)


def test_copying_leaves_own_cells_alone(tmp_path):
    before = texts(with_paths(tmp_path))
    path = tmp_path / "afad-ce.py"
    text = path.read_text().replace("/data/afad-ce", "/edited").replace("import sys", "import re")
    path.write_text(text)
    copy = cells(tmp_path, "afad-ce")
    assert (copy.returncode, copy.stdout.splitlines()[1]) == (0, SAME_OWN.strip())
    after = texts(tmp_path)
    assert after.pop("afad-ce.py") == text.encode()
    for name, text in after.items():
        assert text == before[name].replace(b"import sys", b"import re")


def test_copying_gives_an_own_cell_to_those_that_have_none(tmp_path):
    path = make(tmp_path) / "afad-ce.py"
    own = [cell("Paths [own]", f"CSV = {n}") for n in (1, 2)]
    path.write_text(path.read_text().replace("# %% Main", f"{own[0]}\n\n# %% Main"))
    utk = tmp_path / "utk-ce.py"
    utk.write_text(utk.read_text().replace("# %% Main", f"{own[1]}\n\n# %% Main"))
    before = utk.read_text()
    copy = cells(tmp_path, "afad-ce")
    assert (copy.returncode, copy.stdout.splitlines()[1]) == (0, SAME_OWN.strip())
    assert utk.read_text() == before
    assert f"{own[0]}\n\n# %% Main" in (tmp_path / "utk-coral.py").read_text()


def test_an_own_cell_has_exceptions_but_no_shared_twin(tmp_path):
    path = with_paths(tmp_path) / "utk-ce.py"
    text = path.read_text()
    path.write_text(text.replace("Paths [own]", "Paths [utk-ce]"))
    assert cells(tmp_path).stdout == SAME.replace("10 cells", "12 cells")
    path.write_text(text.replace("Paths [own]", "Paths [all]"))
    for args in [], ["utk-ce"], ["afad-ce"]:
        check = cells(tmp_path, *args)
        assert (check.returncode, check.stdout, check.stderr.count("\n")) == (1, "", 1)
        said = (
            "'# %% Paths [own]' and utk-ce.py:9 '# %% Paths [all]' both claim afad-ce, and neither"
        )
        assert said in check.stderr
    path.write_text(text.replace("Paths [own]", "Paths [own, utk]"))
    assert "a scope is all, or " in cells(tmp_path).stderr


# Variants


def with_variant(folder, **changed):
    """The twelve scripts and utk-coral-wide.py, whose main cell is its own."""
    make(folder, [*NAMES, "utk-coral-wide"])
    path = folder / "utk-coral-wide.py"
    text = path.read_text().replace("Main [all]\nmain()", "Main [utk-coral-wide]\nmain(50)")
    path.write_text(text)
    for name, change in changed.items():
        path = folder / f"{name.replace('_', '-')}.py"
        path.write_text(change(path.read_text()))
    return folder


SAME_WIDE = SAME.replace("12 scripts, 10 cells", "13 scripts, 11 cells")


def test_a_variant(tmp_path):
    check = cells(with_variant(tmp_path))
    assert (check.returncode, check.stdout, check.stderr) == (0, SAME_WIDE, "")


@pytest.mark.parametrize("source", ["utk-coral", "utk-coral-wide"])
@pytest.mark.parametrize(
    "old, ends",
    [("import sys", ""), ("DATASET = 'utk'", "utk"), ("LOSS = 'coral'", "coral"), ("pass", "al")],
)
def test_what_a_variant_shares(tmp_path, source, old, ends):
    """Cells of all, of its data set, of its loss and of two losses, copied from it and to it."""
    before = texts(with_variant(tmp_path))
    path = tmp_path / f"{source}.py"
    path.write_text(path.read_text().replace(old, "changed()"))
    assert cells(tmp_path).stdout.count("+changed()") + cells(tmp_path).stdout.count("+    ch") == 1
    assert cells(tmp_path, source).returncode == 0
    for name, text in texts(tmp_path).items():
        assert text == before[name].replace(old.encode(), b"changed()")
        assert (text != before[name]) == (old.encode() in before[name])
    assert (tmp_path / "utk-coral-wide.py").read_text().endswith("[utk-coral-wide]\nmain(50)\n")


def test_the_main_cell_of_the_others_is_not_the_variants(tmp_path):
    with_variant(tmp_path, utk_coral=edit("main()", "main(3)"))
    assert cells(tmp_path, "utk-coral").returncode == 0
    wide = tmp_path / "utk-coral-wide.py"
    assert wide.read_text().endswith("[utk-coral-wide]\nmain(50)\n")
    assert (tmp_path / "afad-ce.py").read_text().endswith("[all]\nmain(3)\n")
    wide.write_text(wide.read_text().replace("main(50)", "main(6)"))
    copy = cells(tmp_path, "utk-coral-wide")
    assert (copy.returncode, copy.stdout) == (
        0,
        f"copied from utk-coral-wide.py to none\n{SAME_WIDE}",
    )


def test_a_cell_of_a_script_is_that_of_its_variants_too(tmp_path):
    """[utk-coral] names both, and [utk-coral-wide] is the narrower of the two."""
    with_variant(tmp_path, utk_coral=edit("Main [all]\nmain()", "Main [utk-coral]\nmain(3)"))
    assert cells(tmp_path).stdout == SAME_WIDE.replace("11 cells", "12 cells")
    wide = tmp_path / "utk-coral-wide.py"
    text = wide.read_text()
    wide.write_text(text.replace("[utk-coral-wide]\nmain(50)", "[all]\nmain()"))
    said = (
        "utk-coral-wide.py lacks utk-coral.py:22 '# %% Main [utk-coral]';"
        " holds the wider utk-coral-wide.py:22 '# %% Main [all]'\n"
    )
    assert cells(tmp_path).stdout == said
    assert cells(tmp_path, "utk-coral").returncode == 0
    assert wide.read_text() == text.replace("[utk-coral-wide]\nmain(50)", "[utk-coral]\nmain(3)")


def test_a_variant_without_the_script_that_it_varies(tmp_path):
    with_variant(tmp_path, utk_coral_wide=edit("[utk-coral-wide]", "[utk-coral]"))
    (tmp_path / "utk-coral.py").unlink()
    assert cells(tmp_path).stdout == SAME.replace("10 cells", "11 cells")


@pytest.mark.parametrize("scope", ["wide", "utk-wide", "utk-coral, utk-coral-wide", "utk-ce-wide"])
def test_scopes_that_name_no_variant(tmp_path, scope):
    with_variant(tmp_path, utk_coral_wide=edit("[utk-coral-wide]", f"[{scope}]"))
    check = cells(tmp_path)
    assert (check.returncode, check.stdout, check.stderr.count("\n")) == (1, "", 1)
    said = f"utk-coral-wide.py:22 '# %% Main [{scope}]': a scope is all, or data sets that"
    assert check.stderr.startswith(said)


def test_a_variant_of_a_loss_of_ones_own(tmp_path):
    """Recognised by its cells [all]; another tool of such a name is left alone."""
    make(tmp_path, [*NAMES, "utk-focal", "utk-focal-wide"])
    for name in "utk-focal", "utk-focal-wide":
        path = tmp_path / f"{name}.py"
        path.write_text(path.read_text().replace("[coral, ordinal]", "[focal]"))
    (tmp_path / "draw-my-plot.py").write_text("import os\n")
    said = SAME.replace("12 scripts, 10 cells", "14 scripts, 12 cells")
    assert cells(tmp_path).stdout == said


# New scripts

STORY = '''"""Age estimation on {data} by {method}.

    python model-code/{name}.py --outpath run1

{result}Differs from its sisters in [{dataset}] and {losses}.
"""

# %% Imports [all]
import os

# %% Paths [own]
CSV = "{csv}"

# %% Facts [{dataset}]
DATASET = "{dataset}"
NAMES = "{names}"


# %% Loss [{loss}]
LOSS = "{loss}"
KIND = "{kind}"


{weights}# %% Main [all]
main()
'''
DATA = {"afad": "AFAD", "utk": "UTKFace", "faces": "any faces, ages 0-100,"}
METHODS = {
    "ce": "cross-entropy (Cao et al. 2020, v1.2)",
    "coral": "CORAL-CNN (Cao et al. 2020, v1.2)",
    "corn": "CORN, which is new",
}
RESULT = "Result: an MAE of 5 by {name}.py,\nthree runs.\n\n"


def story(name, result="", csv=None, names=None, kind=None, **said):
    """The text of a script; by default the data set's and the loss's own constants tell them."""
    dataset, loss = name.split("-")[:2]
    weights = {"ce": None, "coral": "coral, ordinal"}.get(loss, loss)
    return STORY.format(
        name=name,
        dataset=dataset,
        loss=loss,
        data=said.get("data", DATA.get(dataset)),
        method=said.get("method", METHODS.get(loss)),
        result=result.format(name=name),
        losses=f"[{weights}] and [{loss}]" if loss == "coral" else f"[{loss}]",
        csv=csv or f"/{name}.csv",
        names=names or f"names of {dataset}",
        kind=kind or f"kind of {loss}",
        weights=f"# %% Weights [{weights}]\ndef weights():\n    pass\n\n\n" if weights else "",
    )


STORIES = ["afad-ce", "afad-coral", "faces-ce", "faces-coral", "faces-corn", "utk-coral"]


def stories(folder, names=STORIES):
    for name in names:
        (folder / f"{name}.py").write_text(story(name, result=RESULT))
    return folder


def assert_written(folder, call, text, said):
    """The call writes one file, with that text, leaves all others, and prints ``said``."""
    before = texts(folder)
    done = cells(folder, "--new", *call.split())
    name = call.split()[0].removesuffix(".py")
    count = f"{len(before) + 1} scripts, "
    assert (done.returncode, done.stderr) == (0, "")
    *lines, check = done.stdout.splitlines()
    assert (lines, check[: len(count)]) == (said, count)
    after = texts(folder)
    assert after.pop(f"{name}.py").decode() == text
    assert after == before


def test_new_data_set(tmp_path):
    stories(tmp_path)
    text = '''"""Age estimation on mine by CORAL-CNN (Cao et al. 2020, v1.2).

    python model-code/mine-coral.py --outpath run1

Differs from its sisters in [mine] and [coral, ordinal] and [coral].
"""

# %% Imports [all]
import os

# %% Paths [own]
CSV = "/faces-coral.csv"

# %% Facts [mine]
DATASET = "mine"
NAMES = "names of faces"


# %% Loss [coral]
LOSS = "coral"
KIND = "kind of coral"


# %% Weights [coral, ordinal]
def weights():
    pass


# %% Main [all]
main()
'''
    said = "wrote mine-coral.py; edit next: mine-coral.py:11 '# %% Paths [own]',"
    said += " mine-coral.py:14 '# %% Facts [mine]'"
    assert_written(tmp_path, "mine-coral --like faces-coral", text, [said])


@pytest.mark.parametrize("like", ["", " --like faces-ce", " --like afad-coral.py"])
def test_new_loss_for_a_data_set_of_ones_own(tmp_path, like):
    """Its cells [mine] and its paths are those of mine-coral.py, its loss any sister's."""
    stories(tmp_path)
    mine = story("mine-coral", data="my photos", names="of mine", csv="/edited.csv")
    (tmp_path / "mine-coral.py").write_text(mine)
    text = story("mine-ce", data="my photos", names="of mine", csv="/edited.csv")
    assert_written(tmp_path, "mine-ce" + like, text, ["wrote mine-ce.py"])


def test_new_data_set_with_the_loss_of_another_sister(tmp_path):
    stories(tmp_path)
    text = story("mine-corn", data="mine", names="names of utk", csv="/utk-coral.csv")
    said = "wrote mine-corn.py; edit next: mine-corn.py:11 '# %% Paths [own]',"
    said += " mine-corn.py:14 '# %% Facts [mine]'"
    assert_written(tmp_path, "mine-corn.py --like utk-coral", text, [said])


@pytest.mark.parametrize("like, dataset", [("faces-coral", "faces"), ("utk-coral", "utk")])
def test_new_loss(tmp_path, like, dataset):
    """The data set's cells and paths are its own sister's, whichever script has the loss."""
    stories(tmp_path, [name for name in STORIES if name != "faces-corn"])
    csv = "/faces-coral.csv" if dataset == "faces" else "/faces-ce.csv"
    text = story("faces-corn", method="corn", kind="kind of coral", csv=csv)
    said = "wrote faces-corn.py; edit next: faces-corn.py:19 '# %% Loss [corn]',"
    said += " faces-corn.py:24 '# %% Weights [corn]'"
    assert_written(tmp_path, f"faces-corn --like {like}", text, [said])
    assert '# %% Loss [corn]\nLOSS = "corn"\n' in text


def test_new_data_set_and_new_loss(tmp_path):
    stories(tmp_path, ["utk-ce", "utk-coral"])
    text = story(
        "m1-2c",
        data="m1",
        method="2c",
        csv="/utk-coral.csv",
        names="names of utk",
        kind="kind of coral",
    )
    said = "wrote m1-2c.py; edit next: " + ", ".join(
        f"m1-2c.py:{line} '# %% {head}'"
        for line, head in [
            (11, "Paths [own]"),
            (14, "Facts [m1]"),
            (19, "Loss [2c]"),
            (24, "Weights [2c]"),
        ]
    )
    assert_written(tmp_path, "m1-2c --like utk-coral", text, [said])


@pytest.mark.parametrize(
    "name, csv",
    [("afad-corn", "/afad-ce.csv"), ("utk-ce", "/utk-coral.csv"), ("utk-corn", "/utk-coral.csv")],
)
def test_new_script_of_known_parts(tmp_path, name, csv):
    stories(tmp_path)
    said = [f"wrote {name}.py"]
    assert_written(tmp_path, name, story(name, csv=csv), said)


def test_the_order_of_composed_cells(tmp_path):
    """What the loss's sister does not have is put where the data set's has it."""

    def longer(text, *last):
        for title in "Imports", "Weights":
            text = text.replace(f"# %% {title}", cell(f"Before {title} [utk]") + f"\n# %% {title}")
        return "\n\n".join([text, *last])

    stories(tmp_path)
    utk, corn = tmp_path / "utk-coral.py", tmp_path / "faces-corn.py"
    last, end = cell("Last [utk]", "A = 1"), cell("End [corn]", "B = 2")
    utk.write_text(longer(utk.read_text(), last))
    corn.write_text("\n\n".join([corn.read_text(), end]))
    text = longer(story("utk-corn", csv="/utk-coral.csv"), last, end)
    assert_written(tmp_path, "utk-corn", text, ["wrote utk-corn.py"])


def test_the_narrowest_cell_and_not_a_sisters_exception(tmp_path):
    """Without --like nothing comes along that is one sister's alone; with it, renamed."""
    stories(tmp_path)
    for name, scope in ("afad-ce", "afad-ce"), ("afad-coral", "afad"), ("faces-corn", "faces-corn"):
        path = tmp_path / f"{name}.py"
        text = path.read_text().replace("Main [all]\nmain()", f"Main [{scope}]\nmain({name!r})")
        path.write_text(text)
    text = story("afad-corn", csv="/afad-ce.csv")
    text = text.replace("Main [all]\nmain()", "Main [afad]\nmain('afad-coral')")
    assert_written(tmp_path, "afad-corn", text, ["wrote afad-corn.py"])
    done = cells(tmp_path, "--new", "mine-corn", "--like", "faces-corn")
    assert (done.returncode, "mine-corn.py:29 '# %% Main [mine-corn]'" in done.stdout) == (0, True)
    assert (
        (tmp_path / "mine-corn.py").read_text().endswith("Main [mine-corn]\nmain('faces-corn')\n")
    )


def test_new_variant(tmp_path):
    """Every cell is shared until its first line says the variant's name; then none else has it."""
    before = texts(stories(tmp_path))
    method = "CORAL-CNN (Cao et al. 2020, v1.2), variant resnet18"
    text = story("utk-coral", method=method).replace("utk-coral.py", "utk-coral-resnet18.py")
    said = [
        "wrote utk-coral-resnet18.py",
        "write [utk-coral-resnet18] as the scope of each cell that you change; "
        "all others stay shared",
    ]
    assert_written(tmp_path, "utk-coral-resnet18", text, said)

    path = tmp_path / "utk-coral-resnet18.py"
    path.write_text(text.replace("Main [all]\nmain()", "Main [utk-coral-resnet18]\nmain(18)"))
    own = path.read_bytes()
    assert cells(tmp_path, "utk-coral-resnet18").returncode == 0
    assert texts(tmp_path) == {**before, path.name: own}
    text = story("faces-coral", method=method).replace("faces-coral.py", "faces-coral-18.py")
    text = text.replace("variant resnet18", "variant 18")
    said = [part.replace("utk-coral-resnet18", "faces-coral-18") for part in said]
    assert_written(tmp_path, "faces-coral-18", text, said)
    text = text.replace("variant 18", "variant resnet18").replace(
        "coral-18.py", "coral-resnet18.py"
    )
    text = text.replace("Main [all]\nmain()", "Main [faces-coral-resnet18]\nmain(18)")
    said = [part.replace("faces-coral-18", "faces-coral-resnet18") for part in said]
    edits = "edit next: faces-coral-resnet18.py:29 '# %% Main [faces-coral-resnet18]'"
    said[0] += f"; {edits}"
    assert_written(tmp_path, "faces-coral-resnet18 --like utk-coral-resnet18", text, said)


def test_what_a_variant_is_like(tmp_path):
    """A cell [utk-coral] stays shared in its variant; a script like a variant is none."""
    path = stories(tmp_path) / "utk-coral.py"
    text = path.read_text().replace("Main [all]\nmain()", "Main [utk-coral]\nmain(3)")
    path.write_text(text)
    assert cells(tmp_path, "--new", "utk-coral-18", "--like", "utk-coral").returncode == 0
    variant = (tmp_path / "utk-coral-18.py").read_text()
    assert variant.split("# %% ")[1:] == text.split("# %% ")[1:]
    assert cells(tmp_path, "--new", "mine-coral", "--like", "utk-coral-18").returncode == 0
    text = story("mine-coral", data="mine", csv="/utk-coral.csv", names="names of utk")
    text = text.replace("Main [all]\nmain()", "Main [mine-coral]\nmain(3)")
    assert (tmp_path / "mine-coral.py").read_text() == text


def test_docstrings_of_another_form(tmp_path):
    """A sentence over two lines, none of that form, and a result at the end."""
    stories(tmp_path, ["utk-ce", "utk-coral"])
    path = tmp_path / "utk-coral.py"
    text = path.read_text()
    path.write_text(text.replace("on UTKFace by CORAL-CNN", "on UTKFace\nby CORAL-CNN"))
    assert cells(tmp_path, "--new", "mine-coral", "--like", "utk-coral").returncode == 0
    said = '"""Age estimation on mine by CORAL-CNN (Cao et al. 2020, v1.2).\n\n'
    assert (tmp_path / "mine-coral.py").read_text().startswith(said)
    other = '"""Mine. See utk-coral.py, not my-utk-coral.py.\n\nResult: 5.\n"""\n\n# %% Imports'
    path.write_text(other + text.split("# %% Imports")[1])
    assert cells(tmp_path, "--new", "its-coral", "--like", "utk-coral").returncode == 0
    said = '"""Mine. See its-coral.py, not my-utk-coral.py.\n"""\n\n# %% Imports [all]\n'
    assert (tmp_path / "its-coral.py").read_text().startswith(said)


def test_a_new_script_has_the_line_ends_and_the_mode_of_its_sister(tmp_path):
    stories(tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    (tmp_path / "utk-coral.py").chmod(0o750)
    assert cells(tmp_path, "--new", "utk-coral-2").returncode == 0
    written = tmp_path / "utk-coral-2.py"
    assert written.read_bytes().count(b"\r\n") == written.read_bytes().count(b"\n") == 30
    assert written.stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize(
    "call, said",
    [
        ("utk_coral", "'utk_coral' is no name of a script: a training script is named <data set>-"),
        ("Mine-coral --like utk-coral", "'Mine-coral' is no name of a script: "),
        ("coral-ce --like utk-ce", "'coral-ce' is no name of a script: "),
        ("own-ce --like utk-ce", "'own-ce' is no name of a script: "),
        ("mine-all --like utk-ce", "'mine-all' is no name of a script: "),
        ("../mine-ce --like utk-ce", "'../mine-ce' is no name of a script: "),
        ("utk-coral-a-b", "'utk-coral-a-b' is no name of a script: "),
        ("utk-coral", "utk-coral.py is there already"),
        ("utk-coral --like faces-coral", "utk-coral.py is there already"),
        ("mine-coral --like mien-coral", "no script is named 'mien-coral'; choose from: afad-ce, "),
        (
            "mine-coral",
            "mine-coral: no script has 'mine' yet: say with --like which it begins as: ",
        ),
        ("utk-focal", "utk-focal: no script has 'focal' yet: say with --like which it begins as: "),
        ("mine-focal", "mine-focal: no script has 'focal' and 'mine' yet: say with --like which "),
        ("corn-ce --like utk-coral", "'corn-ce' is no name of a script: "),
        ("mine-utk --like utk-coral", "mine-utk: 'utk' would be a data set and a loss: choose "),
        ("mine-mine --like utk-coral", "mine-mine: 'mine' would be a data set and a loss: "),
        ("utk-ce-wide", "utk-ce-wide is a variant of utk-ce, which is not there; choose a base "),
        ("mine-ce-2 --like faces-ce", "mine-ce-2 is a variant of mine-ce, which is not there; "),
    ],
)
def test_new_scripts_that_cannot_be(tmp_path, call, said):
    before = texts(stories(tmp_path))
    done = cells(tmp_path, "--new", *call.split())
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"cells.py: error: {said}")
    assert texts(tmp_path) == before


@pytest.mark.parametrize(
    "name, possible",
    [
        ("mine-coral", "afad-coral, faces-coral, utk-coral, utk-coral-wide"),
        ("faces-focal", "faces-ce, faces-coral, faces-corn"),
        ("mine-focal", ", ".join([*STORIES, "utk-coral-wide"])),
        ("utk-ce-2", ", ".join(STORIES)),
    ],
)
def test_what_a_new_script_can_be_like(tmp_path, name, possible):
    stories(tmp_path, [*STORIES, "utk-coral-wide"])
    assert cells(tmp_path, "--new", name).stderr.endswith(f": {possible}\n")


def test_no_new_script_where_its_sisters_disagree(tmp_path):
    path = stories(tmp_path) / "utk-coral.py"
    path.write_text(path.read_text().replace("import os", "import io"))
    before = texts(tmp_path)
    for call in ["utk-ce"], ["utk-coral-2"], ["mine-ce", "--like", "faces-ce"]:
        done = cells(tmp_path, "--new", *call)
        assert (done.returncode, done.stdout) == (1, "")
        assert "-import os\n+import io\n" in done.stderr
        assert done.stderr.endswith(f"cells.py: {call[0]}.py not written\n")
    assert texts(tmp_path) == before


def test_no_new_script_for_which_two_cells_are_due(tmp_path):
    """Neither [utk] nor [ce] is the narrower; no script has had both so far."""
    stories(tmp_path)
    for name, scope in ("utk-coral", "utk"), ("afad-ce", "ce"), ("faces-ce", "ce"):
        path = tmp_path / f"{name}.py"
        path.write_text(path.read_text().replace("Main [all]", f"Main [{scope}]"))
    assert cells(tmp_path).returncode == 0
    before = texts(tmp_path)
    done = cells(tmp_path, "--new", "utk-ce")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "both claim utk-ce, and neither is the narrower" in done.stderr
    assert texts(tmp_path) == before


def test_a_new_script_that_does_not_fit_on_the_disk(tmp_path):
    before = texts(stories(tmp_path))
    done = subprocess.run(
        [sys.executable, CELLS, "--folder", tmp_path, "--new", "utk-ce"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (99, 99)),
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("cells.py: error: utk-ce.py can't be written in ")
    assert texts(tmp_path) == before


def test_new_scripts_beside_the_real_ones(tmp_path):
    """A script that is gone comes back by its sisters' cells, the paths that users edit apart."""
    for script in SCRIPTS:
        shutil.copy(script, tmp_path)

    def shared(text):
        parts = ("\n" + text).split("\n# %% ")[1:]
        return [part.strip() for part in parts if not part.split("\n")[0].endswith("[own]")]

    for name in "utk-ordinal", "faces-ce", "morph2-coral":
        gone = tmp_path / f"{name}.py"
        text = gone.read_text()
        gone.unlink()
        done = cells(tmp_path, "--new", name)
        assert (done.returncode, done.stderr) == (0, "")
        assert shared(gone.read_text()) == shared(text) and len(shared(text)) > 5
    for call in "mine-coral --like faces-coral", "faces-rps --like faces-coral", "mine-rps":
        done = cells(tmp_path, "--new", *call.split())
        assert (done.returncode, done.stderr) == (0, "")
    text = (tmp_path / "mine-rps.py").read_text()
    compile(text, "mine-rps.py", "exec")
    assert text.count('\nDATASET = "mine"\n') == text.count('\nLOSS = "rps"\n') == 1
    assert text.startswith('"""Age estimation on mine by rps')


def test_copies_are_marked_as_generated():
    """A page that shows a change folds those; the one script that stays is the one to read."""
    if not (shutil.which("git") and (ROOT / ".git").exists()):
        pytest.skip("needs a git checkout")
    paths = [str(path.relative_to(ROOT)) for path in (*SCRIPTS, CELLS)]
    said = subprocess.run(
        ["git", "check-attr", "linguist-generated", *paths],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    marks = dict(line.split(": linguist-generated: ") for line in said.stdout.splitlines())
    exceptions = {"model-code/utk-coral.py": "unset", "model-code/cells.py": "unspecified"}
    assert marks == {path: exceptions.get(path, "true") for path in paths}
