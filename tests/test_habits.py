"""What is said a second time, for other tools: requirements, Python versions, the paper."""

import ast
import re

import pytest
from conftest import ROOT, SCRIPTS

CI = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
# the expression that PEP 723 gives
BLOCK = r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$"


def script_metadata(script):
    """{key: value} of the block, whose TOML of texts and lists of texts is Python as well."""
    [block] = re.finditer(BLOCK, script.read_text())
    assert block["type"] == "script"
    lines = [line[2:] for line in block["content"].splitlines()]
    module = ast.parse("\n".join(lines).replace("requires-python", "requires_python"))
    return {node.targets[0].id: ast.literal_eval(node.value) for node in module.body}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_script_metadata_is_the_requirements(script):
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    required = [line for line in lines if not line.startswith("#")]
    said = script_metadata(script)
    assert set(said) == {"requires_python", "dependencies"}
    assert said["dependencies"] == required and len(required) == 6


def test_the_workflow_runs_on_the_lowest_and_highest_python():
    python = script_metadata(SCRIPTS[0])["requires_python"]
    lowest, beyond = map(int, re.fullmatch(r">=3\.(\d+),<3\.(\d+)", python).groups())
    assert re.search(r"python: (\[.*\])", CI)[1] == f'["3.{lowest}", "3.{beyond - 1}"]'
    assert f'target-version = "py3{lowest}"' in (ROOT / "pyproject.toml").read_text()
    assert re.search(r"- run: (.*)", CI)[1] == ".ci/run"
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_the_citation_is_the_readmes():
    citation = (ROOT / "CITATION.cff").read_text().split("preferred-citation:")[1]
    citation = dict(re.findall(r"^  ([a-z]+): (.+)", citation, re.M)) | {
        "author": " and ".join(
            map(", ".join, re.findall(r"family-names: (.*)\n +given-names: (.*)", citation))
        )
    }
    readme = (ROOT / "README.md").read_text()
    entry = dict(re.findall(r"^  (\w+) += \{(.*)\}", readme, re.M))
    assert citation["type"] == "article" and "@article" in readme
    assert entry.pop("pages") == f"{citation['start']}--{citation['end']}"
    assert len(entry) == 5 and entry == {name: citation[name] for name in entry}
    assert citation["url"] in readme
