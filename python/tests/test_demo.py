# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The main job: its order, its resumption and its report."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from polymoe import cli
from polymoe.files import write_documents
from polymoe.recipe import Goals
from polymoe.report import findings, gain_share, read_losses, table

KINDS = {"en": "old", "el": "new", "hu": "new", "tr": "new", "en-manual": "other", "en-code": "other"}
# A measured run: base, continued, stage 1, stage 2.
MEASURED = {
    "en": (0.892, 0.853, 0.842, 0.839),
    "el": (1.610, 0.835, 0.885, 0.864),
    "hu": (2.374, 1.586, 1.699, 1.664),
    "tr": (2.082, 1.504, 1.592, 1.561),
    "en-manual": (0.998, 1.025, 0.990, 0.986),
    "en-code": (0.712, 0.760, 0.715, 0.713),
}
GOALS = Goals("stage 2", "continued", new_gain=15, old_loss=0, domain_loss=0.5, kept_gain=85, forgotten=1)

# A small experiment: one old language, one new one, a domain, and every key
# that a recipe may leave out somewhere.
RECIPE = """
seed = 0
dtype = "fp32"

[base]
{base}

[languages]
en = 0
el = 1

[[run]]
name = "continued"
[[run.phase]]
name = "continued"
stage = "dense"
mix = {{ el = 1 }}
steps = 10
batch = 2
sequence = 32
lr = 1e-3

[[run]]
name = "moe"
[run.expansion]
experts = 3
top_k = 2
first_layer = 1
[[run.phase]]
name = "stage 1"
stage = "1"
mix = {{ el = 1 }}
steps = 10
batch = 2
sequence = 32
lr = 1e-3
warmup = 0.1
balance = 0.02
[[run.phase]]
name = "stage 2"
stage = "2"
mix = {{ en = 1, el = 2 }}
steps = 5
batch = 2
sequence = 32
lr = 5e-3

[evaluation]
sequence = 32
domains = ["en-code"]

[samples]
tokens = 4
prompts = {{ en = "Insert" }}

[goals]
method = "stage 2"
rival = "continued"
new_gain = 5
old_loss = 1
domain_loss = 0.5
kept_gain = 50
forgotten = 1

[quick]
steps = 2
documents = 1
"""
NEW_BASE = """
[base.new]
family = "llama"
vocabulary = 300
hidden = 32
intermediate = 64
layers = 2
heads = 2
[base.new.phase]
name = "base"
stage = "dense"
mix = { en = 1, el = 0.1 }
steps = 20
batch = 2
sequence = 32
lr = 2e-3
"""

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
    column = after("--json").stem
    change = {"base": (0, 0), "continued": (-0.2, 0.2), "stage1": (-0.15, 0.1), "stage2": (-0.14, 0.01)}[column]
    figures = {"en": 2.0 + change[1], "el": 1.0 + change[0], "en-code": 1.0 + change[1] / 10}
    languages = [{"language": code, "bits_per_byte": value} for code, value in figures.items()]
    after("--json").write_text(json.dumps({"languages": languages}))
elif "train" in arguments:
    run = after("--out") if "--out" in arguments else pathlib.Path(arguments[1])
    run.mkdir(exist_ok=True, parents=True)
    with open(run / "metrics.jsonl", "a") as file:
        for step in range(3):
            print(json.dumps({"step": step, "loss": 6.0 - step}), file=file)
elif "generate" in arguments:
    for line in after("--prompts").read_text().splitlines():
        print(json.dumps({"text": " και κάτι " + ("πριν" if ".mlir" in arguments[1] else "μετά")}))
elif "-o" in arguments:
    if after("-o").suffix == ".mlir":
        after("-o").write_text("module {}")
    else:
        after("-o").mkdir(exist_ok="--force" in arguments)
        (after("-o") / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 2}')
"""


def columns(measured):
    names = ("base", "continued", "stage 1", "stage 2")
    return {name: {code: values[index] for code, values in measured.items()} for index, name in enumerate(names)}


def test_the_share_of_the_gain():
    share = gain_share(columns(MEASURED), ["el", "hu", "tr"], GOALS)
    assert share == pytest.approx((0.746 + 0.710 + 0.521) / (0.775 + 0.788 + 0.578))
    assert gain_share(columns(MEASURED | {"el": (1, 1, 1, 1)}), ["el"], GOALS) is None


def test_findings_of_a_run_that_keeps_its_promises():
    found = findings(columns(MEASURED), KINDS, GOALS)
    assert [holds for holds, _ in found] == [True] * 5
    assert "(least: tr -25.02%)" in found[0][1]
    assert "en-code +0.14%" in found[2][1]
    assert "of other domains (+4.39% against -0.64%)" in found[3][1]
    assert "(92%: el 96%, hu 90%, tr 90%)" in found[4][1]


@pytest.mark.parametrize(
    ("changed", "fails"),
    [
        ({"tr": (2.082, 1.804, 1.9, 1.790)}, {0}),
        ({"en": (0.892, 0.853, 0.842, 0.893)}, {1}),
        ({"en-code": (0.712, 0.760, 0.715, 0.740)}, {2}),
        ({"en-manual": (0.998, 0.950, 0.990, 0.986)}, {3}),
        ({"el": (1.610, 0.635, 0.885, 1.064)}, {4}),
    ],
)
def test_a_broken_promise_is_reported(changed, fails):
    found = findings(columns(MEASURED | changed), KINDS, GOALS)
    assert {index for index, (holds, _) in enumerate(found) if not holds} == fails


def test_without_domains_old_languages_show_what_is_forgotten():
    kinds = {"en": "old", "es": "old", "el": "new"}
    measured = {"en": (2.0, 2.1, 2.0, 2.0), "es": (2.0, 2.3, 2.2, 2.02), "el": (1.6, 0.8, 0.9, 0.9)}
    found = findings(columns(measured), kinds, dataclasses.replace(GOALS, domain_loss=None))
    assert len(found) == 4
    assert found[2] == (
        True,
        "continued forgets at least 1 percentage points more of old languages (+10.00% against +0.50%)",
    )


def test_the_table_shows_changes_and_means():
    lines = table(columns(MEASURED), KINDS)
    assert len(lines) == 9 and len({len(line) for line in lines}) == 1
    assert lines[2].startswith("el          new") and "0.8640 -46.34%" in lines[2]
    assert lines[5].startswith("mean        new") and lines[8].startswith("mean        other")
    assert "0.8925  +4.39%" in lines[8]


def test_losses_are_read_over_phases(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 3}\n{"step": 1, "valid_loss": 9}\n{"step": 1, "loss": 2.5}\n')
    assert read_losses(path) == [3.0, 2.5]


@pytest.fixture
def base_checkpoint(tmp_path, documents):
    """A tiny random checkpoint that stands in for a real one."""
    from polymoe.new_model import new_model
    from polymoe.train_tokenizer import train, write

    path = tmp_path / "tokenizer.jsonl"
    write_documents(path, [dict(document, id=f"page-{i}") for i in range(40) for document in documents["en"]])
    write(train([path], 300), tmp_path / "tokenizer")
    sizes = {"hidden": 32, "intermediate": 64, "layers": 2, "heads": 2}
    new_model("llama", tmp_path / "checkpoint", tokenizer=tmp_path / "tokenizer", **sizes)
    return tmp_path / "checkpoint"


@pytest.fixture
def stand_ins(tmp_path, documents, base_checkpoint):
    """(options of a demo with stand-ins for the tools, the calls so far)"""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("moe-translate", "moe-opt", "moe-run"):
        (folder / name).write_text(f"#!{sys.executable}\n{STAND_IN}")
        (folder / name).chmod(0o755)
    for language, group in (documents | {"en-code": documents["en"]}).items():
        # Enough documents that each split gets some.
        many = [dict(group[i % 5], id=f"page-{i}", language=language) for i in range(300)]
        write_documents(tmp_path / "text" / f"{language}.jsonl", many)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(base=f'model = "{base_checkpoint}"'))
    options = ["--bin", folder, "--text", tmp_path / "text", "--out", tmp_path / "out", "--recipe", recipe]

    def calls():
        path = folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    return ["demo", *map(str, options)], calls


def read_mix(line):
    return {code: float(share) for code, share in (item.split("=") for item in option(line, "mix").split(","))}


def option(line, name):
    return line.split(f" --{name}=")[1].split()[0]


def read_tokens(corpus):
    shards = json.loads((corpus / "corpus.json").read_text())["shards"]
    return {(shard["language"], shard["split"]): shard["tokens"] for shard in shards}


def test_the_demo_in_order(stand_ins, tmp_path, capsys):
    options, calls = stand_ins
    assert cli.main(options) == 0
    made = calls()
    training = [line for line in made if " train " in line]
    assert [option(line, "stage") for line in training] == ["dense", "1", "2"]
    # By share of the tokens, of which the languages have different numbers.
    tokens = read_tokens(tmp_path / "out" / "corpus")
    drawn = [
        {language: share * tokens[language, "train"] for language, share in read_mix(line).items()} for line in training
    ]
    assert drawn[0] == {"en": 0, "el": tokens["el", "train"]} == drawn[1]
    assert drawn[2]["el"] == pytest.approx(2 * drawn[2]["en"], rel=1e-3)
    # Continued pre-training and stage 1 read the same tokens.
    for name in ("steps", "batch", "sequence", "seed", "mix"):
        assert option(training[0], name) == option(training[1], name)
    assert "--balance=0.02" in training[1] and "--balance" not in training[0] + training[2]
    assert "--steps=5" in training[2] and "--out" not in training[2]
    assert "--moe-upcycle=counts=1,3 top-k=2 seed=0" in next(line for line in made if line.startswith("moe-opt"))
    assert all("--split=test" in line and "--max-documents=0" in line for line in made if " eval " in line)

    printed = capsys.readouterr().out
    assert "bits per byte" in printed and "yes every new language improves" in printed
    assert "en-code     source of Python's library" in printed
    out = tmp_path / "out"
    rows = list(csv.DictReader(open(out / "table.csv")))
    assert [row["language"] for row in rows] == ["en", "el", "en-code"]
    assert float(rows[1]["stage_2"]) == pytest.approx(0.86)
    assert all((out / name).read_bytes()[:4] == b"\x89PNG" for name in ("languages.png", "losses.png"))
    assert "[en] Insert\n  before ▸ και κάτι πριν\n  after  ▸ και κάτι μετά" in (out / "samples.txt").read_text()


def test_a_domain_is_never_trained_on(stand_ins, tmp_path):
    options, calls = stand_ins
    assert cli.main(options) == 0
    assert not any("en-code" in line for line in calls())
    splits = {split for language, split in read_tokens(tmp_path / "out" / "corpus") if language == "en-code"}
    assert splits == {"valid", "test"}


def test_a_base_that_is_made_here(stand_ins, tmp_path):
    options, calls = stand_ins
    (tmp_path / "recipe.toml").write_text(RECIPE.format(base=NEW_BASE))
    assert cli.main(options) == 0
    made = calls()
    assert [line.split()[0] for line in made[:3]] == ["moe-translate", "moe-run", "moe-translate"]
    training = [line for line in made if " train " in line]
    assert [option(line, "stage") for line in training] == ["dense", "dense", "1", "2"]
    tokens = read_tokens(tmp_path / "out" / "corpus")
    mix = read_mix(training[0])
    assert mix["el"] * tokens["el", "train"] == pytest.approx(0.1 * mix["en"] * tokens["en", "train"], rel=1e-3)


def test_quick_cuts_steps_and_documents(stand_ins):
    options, calls = stand_ins
    assert cli.main([*options, "--quick"]) == 0
    made = calls()
    assert all("--steps=2" in line for line in made if " train " in line)
    assert all("--max-documents=1" in line for line in made if " eval " in line)


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


def test_a_kill_after_an_export_is_gone_over(stand_ins, tmp_path):
    options, calls = stand_ins
    assert cli.main(options) == 0
    calls()
    # The export is there, but not yet noted.
    path = tmp_path / "out" / "demo.json"
    state = json.loads(path.read_text())
    del state["seconds"]["export"]
    path.write_text(json.dumps(state))
    assert cli.main(options) == 0
    assert "--export-hf" in calls()[0]


def test_another_recipe_is_refused(stand_ins, tmp_path, capsys):
    options, _ = stand_ins
    assert cli.main(options) == 0
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("5e-3", "0.5"))
    assert cli.main(options) == 1
    assert "begun with run.1.phase.1.lr = 0.005, but now it is 0.5" in capsys.readouterr().err
    assert cli.main([*options, "--seed", "1"]) == 1
    assert "begun with seed = 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("experts = 3", "experts = [1, 3, 3]", "expected experts in some of the base's 2 layers"),
        ("first_layer = 1", "first_layer = 2", "expected experts in some of the base's 2 layers"),
        ("top_k = 2", "top_k = 4", "run.1.expansion.top_k: expected no more than experts, but got 4"),
        ("model = ", 'model = "nowhere" # ', "base.model: expected one of gemma3, smollm2, or a folder"),
    ],
)
def test_a_recipe_that_does_not_fit_the_base_is_refused(old, new, message, stand_ins, tmp_path, capsys):
    options, calls = stand_ins
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(recipe.read_text().replace(old, new))
    assert cli.main(options) == 1
    assert message in capsys.readouterr().err
    assert not any("moe-opt" in line or " train " in line for line in calls())


def test_the_layers_of_a_model_of_text_and_images_are_those_of_its_text(stand_ins, base_checkpoint):
    options, calls = stand_ins
    path = base_checkpoint / "config.json"
    path.write_text(
        json.dumps({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "num_hidden_layers": 2}})
    )
    assert cli.main(options) == 0
    assert any("counts=1,3 " in line for line in calls())


INTERRUPTED = """
import pathlib, signal, sys, time
here = pathlib.Path(sys.argv[0]).parent
signal.signal(signal.SIGINT, lambda *_: open(here / "interrupts", "a").write("x"))
(here / "ready").touch()
time.sleep(2)
"""


def test_ctrl_c_reaches_a_tool_once(tmp_path):
    for name in ("moe-translate", "moe-opt", "moe-run"):
        (tmp_path / name).write_text(f"#!{sys.executable}\n{INTERRUPTED}")
        (tmp_path / name).chmod(0o755)
    program = f"from polymoe.tools import Tools; Tools({str(tmp_path)!r}).import_hf('a', 'b')"
    process = subprocess.Popen([sys.executable, "-c", program], start_new_session=True, stderr=subprocess.DEVNULL)
    while not (tmp_path / "ready").exists():
        assert process.poll() is None
        time.sleep(0.05)
    # As a terminal does it: to the whole process group.
    os.killpg(process.pid, signal.SIGINT)
    process.wait()
    assert (tmp_path / "interrupts").read_text() == "x"


def test_missing_tools_are_named(stand_ins, capsys):
    options, _ = stand_ins
    assert cli.main([*options, "--bin", "nowhere"]) == 1
    assert "nowhere/moe-translate: no such program" in capsys.readouterr().err


@pytest.mark.tools
@pytest.mark.parametrize("base", ["checkpoint", "new"])
def test_the_demo_with_the_real_tools(base, stand_ins, tmp_path, capsys):
    options, _ = stand_ins
    if base == "new":
        (tmp_path / "recipe.toml").write_text(RECIPE.format(base=NEW_BASE))
    folder = os.environ.get("POLYMOE_BIN", "build/bin")
    assert cli.main([*options, "--bin", folder]) == 0
    assert "bits per byte" in capsys.readouterr().out
    assert (tmp_path / "out" / "hf" / "config.json").is_file()
