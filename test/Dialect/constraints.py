"""Checks that every numbered constraint has a test that violates it, and nothing else.

    constraints.py INCLUDE_FOLDER INVALID.mlir...

A test begins with the constraint that it violates, expects an error at the op,
and ends with what mends it, one replacement a line:

    // moe.router (C1)
    func.func @f(%x: tensor<?x?x64xf32>, %w: tensor<6x32xf32>) {
      // expected-error@below {{expected an input width of 32, but got 64}}
      %l = moe.router %x, %w : (tensor<?x?x64xf32>, tensor<6x32xf32>) -> tensor<?x?x6xf32>
      return
    }
    // mended: tensor<?x?x64xf32> => tensor<?x?x32xf32>

A test of a type or of a discardable attribute, whose rules have no numbers,
begins with no constraint, and expects its error wherever it is.

That the error appears is for `moe-opt --verify-diagnostics` to say, which the
file itself runs. Here moe-opt has to accept every test as mended.
"""

import pathlib
import re
import subprocess
import sys

from examples import OP, definitions

SEPARATOR = "\n// -----\n"
CONSTRAINT = re.compile(r"^// (moe\.\w+) (\(C\d+\))$", re.MULTILINE)
MEND = re.compile(r"^// mended: (.+) => (.+)$", re.MULTILINE)
# The op at which an error is expected, if it is one of the dialect.
BLAMED = re.compile(r"// expected-error@below .*\n(?:\s*%.* =)?\s*\"?(moe\.\w+)[\" ]")


def documented(folder):
    """All constraints of the dialect, as (op, number)."""
    for path in pathlib.Path(folder).glob("*.td"):
        for mnemonic, body in definitions(path.read_text(encoding="utf-8"), OP):
            numbers = re.findall(r"- (\(C\d+\))", body)
            if numbers != [f"(C{i + 1})" for i in range(len(numbers))]:
                raise ValueError(f"{path}: expected constraints of moe.{mnemonic} from (C1) on, but got {numbers}")
            yield from ((f"moe.{mnemonic}", number) for number in numbers)


def mended(test):
    """The constraints that `test` violates, and the test without the violation."""
    constraints, mends, blamed = CONSTRAINT.findall(test), MEND.findall(test), BLAMED.findall(test)
    if not mends:
        raise ValueError("expected what mends the test (`// mended: OLD => NEW`)")
    if test.count("// expected-error") != 1 or blamed != [op for op, _ in constraints]:
        raise ValueError(f"expected one error, and a constraint (`// moe.OP (Cn)`) of its op, but got {blamed}")
    code = re.sub(r"//.*", "", test)
    for old, new in mends:
        if old not in code:
            raise ValueError(f"expected `{old}` in the test that it mends")
        code = code.replace(old, new)
    return constraints, code


def main(folder, *files):
    tested, errors = set(), []
    for file in files:
        line, accepted = 1, []
        for test in pathlib.Path(file).read_text(encoding="utf-8").split(SEPARATOR):
            try:
                constraints, code = mended(test)
                tested.update(constraints)
                accepted.append(code)
            except ValueError as error:
                errors.append(f"{file}:{line}: {error}")
                accepted.append("\n" * test.count("\n"))
            line += test.count("\n") + SEPARATOR.count("\n")
        # A test keeps its lines, so that errors name those of the file.
        run = ["moe-opt", "--split-input-file", "-o", "/dev/null"]
        if subprocess.run(run, input=SEPARATOR.join(accepted), text=True, check=False).returncode:
            errors.append(f"{file} (<stdin>): expected moe-opt to accept all tests as mended")
    numbered = set(documented(folder))
    errors += [f"expected a test that violates {op} {number}" for op, number in sorted(numbered - tested)]
    errors += [f"expected {op} {number} to be documented" for op, number in sorted(tested - numbered)]
    sys.exit("\n".join(errors) or 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
