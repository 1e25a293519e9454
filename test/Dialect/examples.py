"""Turns the examples in the dialect's documentation into one module.

    examples.py INCLUDE_FOLDER > module.mlir

Every op, type and attribute that a .td file of the folder defines has to have
an example. An example of an op uses values that it does not define: they
become arguments of a function, with the types that the example states. After
the CHECK lines in the output, FileCheck finds every op again.
"""

import pathlib
import re
import sys

OP = re.compile(r'def MoE_\w+Op\s*:\s*MoE_\w+<"(\w+)"')
ATTRIBUTE = re.compile(r'def MoE_\w+\s*:\s*MoE_Attr<"\w+", "(\w+)"')


def definitions(text, pattern):
    """Yields the mnemonic and the body of every definition."""
    starts = list(pattern.finditer(text))
    for start in starts:
        end = re.search(r"^}", text[start.end() :], re.MULTILINE)
        yield start.group(1), text[start.end() : start.end() + end.end()]


def split_types(text):
    """Splits at commas outside of brackets."""
    types, depth, begin = [], 0, 0
    for i, character in enumerate(text):
        depth += (character in "<([{") - (character in ">)]}")
        if character == "," and depth == 0:
            types.append(text[begin:i])
            begin = i + 1
    return [t.strip() for t in types + [text[begin:]] if t.strip()]


def operands_of(statement):
    """The names and types of the operands of one op in assembly."""
    head = re.sub(r"^[^=]*= (?=moe\.)", "", statement)
    body, _, signature = head.partition(" : ")
    while body.count("{") != body.count("}"):
        more, _, signature = signature.partition(" : ")
        body += " : " + more
    names = re.findall(r"%\w+", re.sub(r"{.*}", "", body))
    inputs = signature.split("->")[0].strip()
    if inputs.startswith("("):
        inputs = inputs[1:-1]
    types = split_types(inputs)
    if len(types) == 1:  # that of all operands
        types *= len(names)
    return list(zip(names, types, strict=True)) if names else []


def symbols_of(mnemonic, statement):
    """Declares the symbols that an example refers to."""
    name = re.search(r"@\w+", statement)
    if mnemonic in ("get_parameter", "accumulate_gradient"):
        type_ = statement.rsplit(" : ", 1)[1]
        yield (f"moe.parameter trainable backbone {name[0]} : {type_} from #moe.init<zeros, seed = 0>")
    if mnemonic == "dispatch":
        types = ["index", *(type_ for _, type_ in operands_of(statement))]
        yield f"moe.kernel {name[0]}({', '.join(f'%{i}: {t}' for i, t in enumerate(types))}) {{}}"


def statements_of(example):
    """Joins the lines of a statement, which continue indented; a kernel is one."""
    if example.startswith("moe.kernel "):
        return [example]
    return re.sub(r"\n\s+", " ", example).strip().split("\n")


def main(folder):
    number = 0
    for path in sorted(pathlib.Path(folder).glob("*.td")):
        text = path.read_text(encoding="utf-8")
        for mnemonic, body in definitions(text, OP):
            found = re.search(r"Example:\n\s*```mlir\n(.*?)```", body, re.DOTALL)
            if not found:
                sys.exit(f"{path}: expected an example of moe.{mnemonic}")
            example = re.sub(r"^    ", "", found.group(1), flags=re.MULTILINE)
            if f"moe.{mnemonic} " not in example:
                sys.exit(f"{path}: expected the example to use moe.{mnemonic}")
            for statement in statements_of(example):
                number += 1
                print("module {")
                for symbol in symbols_of(mnemonic, statement):
                    print(f"  {symbol}")
                print(f"  // CHECK: moe.{mnemonic} ")
                if statement.startswith(("moe.parameter ", "moe.kernel ")):
                    print(f"  {statement}")
                else:
                    arguments = ", ".join(f"{name}: {type_}" for name, type_ in dict(operands_of(statement)).items())
                    print(f"  func.func @example_{number}({arguments}) {{")
                    print(f"    {statement}")
                    print("    return\n  }")
                print("}")
        for mnemonic, body in definitions(text, ATTRIBUTE):
            found = re.findall(rf"`(#moe\.{mnemonic}<.*?>)`", body, re.DOTALL)
            if not found:
                sys.exit(f"{path}: expected an example of #moe.{mnemonic}")
            for attribute in found:
                number += 1
                print(f"// CHECK: #moe.{mnemonic}<")
                print(f"func.func private @example_{number}() attributes {{example = {attribute}}}")


if __name__ == "__main__":
    main(sys.argv[1])
