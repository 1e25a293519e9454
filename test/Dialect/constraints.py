"""Checks that every numbered constraint has a negative test, and the reverse.

    constraints.py INCLUDE_FOLDER TEST_FOLDER

A test names what it violates in a comment of its own: `// moe.linear (C1)`.
"""

import pathlib
import re
import sys

from examples import OP, definitions


def main(include, tests):
    documented, tested = set(), set()
    for path in pathlib.Path(include).glob("*.td"):
        for mnemonic, body in definitions(path.read_text(encoding="utf-8"), OP):
            numbers = re.findall(r"- \((C\d+)\)", body)
            if numbers != [f"C{i + 1}" for i in range(len(numbers))]:
                sys.exit(
                    f"{path}: expected the constraints of moe.{mnemonic} to be numbered from C1, but got {numbers}"
                )
            documented |= {f"moe.{mnemonic} ({number})" for number in numbers}
    for path in pathlib.Path(tests).glob("invalid*.mlir"):
        tested |= set(re.findall(r"^// (moe\.\w+ \(C\d+\))$", path.read_text(encoding="utf-8"), re.MULTILINE))
    for constraint in sorted(documented - tested):
        print(f"expected a negative test of {constraint}")
    for constraint in sorted(tested - documented):
        print(f"expected a documented constraint {constraint}")
    return documented != tested


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
