"""How lit runs our tests: FileCheck over the tools in build/bin."""

# ruff: noqa: F821 (lit defines config)
import lit.formats
from lit.llvm import llvm_config

config.name = "PolyMoE"
config.test_format = lit.formats.ShTest(execute_external=False)
config.suffixes = [".mlir", ".test"]
config.excludes = ["Inputs"]
config.test_source_root = config.moe_source_dir + "/test"
config.test_exec_root = config.moe_build_dir + "/test"

# What the build did not make is no failure of the test: a feature for each
# optional tool, asked for by REQUIRES.
if config.moe_torch:
    config.available_features.add("torch")

config.environment["FILECHECK_OPTS"] = "--enable-var-scope --allow-unused-prefixes=false"
llvm_config.with_environment("PATH", [config.moe_tools_dir, config.llvm_tools_dir], append_path=True)
config.substitutions.append(("%python", config.python_executable))
config.substitutions.append(("%moe_source", config.moe_source_dir))
config.substitutions.append(("%moe_build", config.moe_build_dir))
config.substitutions.append(("%mlir_tblgen", config.mlir_tblgen))
config.substitutions.append(("%mlir_include", config.mlir_include_dir))
