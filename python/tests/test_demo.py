# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The main job: its order, its resumption and its report."""

import csv
import json
import os
import sys

import pytest

from polymoe import cli
from polymoe.files import write_documents
from polymoe.report import findings, gain_share, read_losses, table

ROUNDS = {"en": 0, "es": 0, "zh": 0, "el": 1, "hu": 1, "tr": 1}
# A measured run: base, continued, stage 1, stage 2.
MEASURED = {
    "el": (1.482, 1.325, 1.447, 1.458),
    "hu": (2.368, 2.160, 2.311, 2.332),
    "tr": (2.404, 2.200, 2.346, 2.365),
    "es": (2.197, 2.402, 2.303, 2.205),
    "zh": (2.260, 2.440, 2.320, 2.256),
    "en": (2.108, 2.048, 2.084, 2.094),
}

# Stands in for the three tools: writes down how it was called, and what they
# would leave behind. $FAIL names a call that fails.
STAND_IN = """
import json, os, pathlib, sys
here = pathlib.Path(sys.argv[0])
arguments = sys.argv[1:]
call = " ".join([here.name, *arguments])
with open(here.parent / "calls", "a") as file:
    print(call, file=file)
if os.environ.get("FAIL") and os.environ["FAIL"] in call:
    sys.exit(3)
def after(flag):
    return pathlib.Path(arguments[arguments.index(flag) + 1])
if "eval" in arguments:
    new, old = (1.0, 2.0) if "random" not in call else (0, 0)
    column = after("--json").stem
    change = {"base": (0, 0), "continued": (-0.2, 0.2), "stage1": (-0.15, 0.1), "stage2": (-0.14, 0.01)}[column]
    figures = {"en": 2.0 + change[1], "el": 1.0 + change[0]}
    languages = [{"language": code, "bits_per_byte": value} for code, value in figures.items()]
    after("--json").write_text(json.dumps({"languages": languages}))
elif "train" in arguments:
    run = after("--out") if "--out" in arguments else pathlib.Path(arguments[1])
    run.mkdir(exist_ok=True)
    with open(run / "metrics.jsonl", "a") as file:
        for step in range(3):
            print(json.dumps({"step": step, "loss": 6.0 - step}), file=file)
elif "generate" in arguments:
    print("και κάτι ακόμη")
elif "-o" in arguments:
    after("-o").write_text("module {}") if after("-o").suffix == ".mlir" else after("-o").mkdir(exist_ok="--force" in arguments)
"""


def columns(measured):
    names = ("base", "continued", "stage 1", "stage 2")
    return {name: {code: values[index] for code, values in measured.items()} for index, name in enumerate(names)}


def test_the_share_of_the_gain():
    share = gain_share(columns(MEASURED), ["el", "hu", "tr"])
    assert share == pytest.approx((0.024 + 0.036 + 0.039) / (0.157 + 0.208 + 0.204))


def test_findings_compare_only_what_was_harmed():
    found = findings(columns(MEASURED), ROUNDS)
    assert [holds for holds, _ in found] == [True, True, True, True]
    assert "es, zh:" in found[2][1]
    assert "17%" in found[3][1]


@pytest.mark.parametrize(
    ("language", "values", "fails"),
    [
        ("tr", (2.404, 2.200, 2.346, 2.405), 0),
        ("es", (2.197, 2.402, 2.303, 2.221), 1),
        ("zh", (2.260, 2.270, 2.265, 2.266), 2),
    ],
)
def test_a_broken_promise_is_reported(language, values, fails):
    found = findings(columns(MEASURED | {language: values, **({"es": (2.0, 1.9, 2, 2)} if fails == 2 else {})}), ROUNDS)
    assert [holds for holds, _ in found][:3] == [index != fails for index in range(3)]


def test_the_table_shows_changes():
    lines = table(columns(MEASURED), ROUNDS)
    assert len(lines) == 7 and len({len(line) for line in lines}) == 1
    assert "1.4580  -1.62%" in lines[4]


def test_losses_are_read_over_phases(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 3}\n{"step": 1, "valid_loss": 9}\n{"step": 1, "loss": 2.5}\n')
    assert read_losses(path) == [3.0, 2.5]


@pytest.fixture
def stand_ins(tmp_path, documents, monkeypatch):
    """(options of a demo with stand-ins for the tools, the calls so far)"""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("moe-translate", "moe-opt", "moe-run"):
        (folder / name).write_text(f"#!{sys.executable}\n{STAND_IN}")
        (folder / name).chmod(0o755)
    for language, group in documents.items():
        # Enough documents that each split gets some.
        many = [dict(group[i % 5], id=f"page-{i}") for i in range(300)]
        write_documents(tmp_path / "text" / f"{language}.jsonl", many)
    options = [
        "demo",
        "--bin",
        folder,
        "--text",
        tmp_path / "text",
        "--out",
        tmp_path / "out",
        "--quick",
        "--rounds",
        "en=0,el=1",
    ]

    def calls():
        path = folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    return [str(option) for option in options], calls


def train_tokens(corpus):
    shards = json.loads((corpus / "corpus.json").read_text())["shards"]
    return {shard["language"]: shard["tokens"] for shard in shards if shard["split"] == "train"}


def test_the_demo_in_order(stand_ins, tmp_path, capsys):
    options, calls = stand_ins
    assert cli.main(options) == 0
    made = calls()
    verbs = [" ".join(line.split()[:2]) for line in made]
    assert [verb.split()[0] for verb in verbs[:3]] == ["moe-translate", "moe-run", "moe-translate"]
    training = [line for line in made if " train " in line]
    assert [line.split("--stage=")[1].split()[0] for line in training] == ["dense", "dense", "1", "2"]
    # By share of the tokens, of which the languages have different numbers.
    mixes = [dict(item.split("=") for item in line.split("--mix=")[1].split()[0].split(",")) for line in training]
    tokens = train_tokens(tmp_path / "out" / "corpus")
    drawn = [{language: float(mix[language]) * tokens[language] for language in tokens} for mix in mixes]
    assert drawn[0]["el"] == pytest.approx(0.1 * drawn[0]["en"], rel=1e-3)
    assert drawn[1] == {"en": 0, "el": tokens["el"]} == drawn[2]
    assert drawn[3]["el"] == pytest.approx(2 * drawn[3]["en"], rel=1e-3)
    # Continued pre-training and stage 1 read the same tokens.
    assert all("--mix=en=0,el=1 --steps=10" in line and "--seed=0" in line for line in training[1:3])
    assert "--steps=5" in training[3] and "--out" not in training[3]
    assert "--moe-upcycle=counts=1,3 top-k=2 seed=0" in next(line for line in made if line.startswith("moe-opt"))

    printed = capsys.readouterr().out
    assert "bits per byte" in printed and "yes every new language improves" in printed
    out = tmp_path / "out"
    rows = list(csv.DictReader(open(out / "table.csv")))
    assert [row["language"] for row in rows] == ["en", "el"]
    assert float(rows[1]["stage_2"]) == pytest.approx(0.86)
    assert all((out / name).read_bytes()[:4] == b"\x89PNG" for name in ("languages.png", "losses.png"))
    assert "[el] " in (out / "samples.txt").read_text()


def test_a_finished_demo_only_reports(stand_ins, capsys):
    options, calls = stand_ins
    assert cli.main(options) == 0
    calls()
    first = capsys.readouterr().out
    assert cli.main(options) == 0
    assert calls() == []
    assert capsys.readouterr().out == first


def test_an_interrupted_demo_goes_on(stand_ins, monkeypatch, capsys):
    options, calls = stand_ins
    monkeypatch.setenv("FAIL", "--stage=2")
    assert cli.main(options) == 1
    assert "exit code 3" in capsys.readouterr().err
    calls()
    monkeypatch.delenv("FAIL")
    assert cli.main(options) == 0
    made = calls()
    assert "--stage=2" in made[0] and "--resume" in made[0]
    assert sum(" train " in line for line in made) == 1


@pytest.mark.parametrize("step", ["base-hf", "export"])
def test_a_kill_after_an_export_is_gone_over(step, stand_ins, tmp_path):
    options, calls = stand_ins
    assert cli.main(options) == 0
    calls()
    # The export is there, but not yet noted.
    path = tmp_path / "out" / "demo.json"
    state = json.loads(path.read_text())
    del state["seconds"][step]
    path.write_text(json.dumps(state))
    assert cli.main(options) == 0
    assert "--export-hf" in calls()[0]


def test_other_options_are_refused(stand_ins, capsys):
    options, _ = stand_ins
    assert cli.main(options) == 0
    assert cli.main([*options, "--base-lr", "0.5"]) == 1
    assert "base_lr" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--rounds", "en=0"], "expected old languages"),
        (["--base-steps", "0"], "--base-steps: expected a positive number"),
        (["--experts", "6,6,6"], "--experts: expected a number of experts, or one for each of the 2 layers"),
        (["--experts", "1,0"], "--experts: expected"),
        (["--bin", "nowhere"], "nowhere/moe-translate: no such program"),
    ],
)
def test_bad_options_are_refused(option, message, stand_ins, capsys):
    options, calls = stand_ins
    assert cli.main([*options, *option]) == 1
    assert message in capsys.readouterr().err
    assert calls() == []


@pytest.mark.tools
def test_the_demo_with_the_real_tools(stand_ins, tmp_path, capsys):
    options, _ = stand_ins
    folder = os.environ.get("POLYMOE_BIN", "build/bin")
    assert cli.main([*options, "--bin", folder]) == 0
    assert "bits per byte" in capsys.readouterr().out
    state = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert "export" in state["seconds"]
