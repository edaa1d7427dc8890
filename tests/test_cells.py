"""model-code/cells.py on small made-up folders of scripts, and on the real one."""

import shutil
import subprocess
import sys

import pytest
from conftest import PAPER, ROOT, SCRIPTS, run

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
        dataset, loss = name.split("-")
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
    ["my-data-coral", "Mine-coral", "mine-Coral", "mine_coral", "mine-coral-2", "mine-coral (copy)"]
    + ["mäuse-ce", "all-coral", "ce-ordinal", "coral-coral", "-coral"],
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
    assert check.stderr.startswith(f"{said} here (mine), or losses (ce, coral, ordinal), or ")
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


@pytest.mark.parametrize("args", [["afad-corals"], ["../afad-coral"], ["--fix"], ["a", "b"]])
def test_wrong_calls(tmp_path, args):
    before = texts(make(tmp_path))
    call = cells(tmp_path, *args)
    assert (call.returncode, call.stdout) == (2, "")
    assert call.stderr.startswith("cells.py: error: ") and call.stderr.count("\n") == 1
    assert texts(tmp_path) == before
