# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Turn a GGUF file into a Hugging Face folder that moe-translate imports.

Takes a file of llama.cpp with a dense decoder of a family that transformers
reads. Quantised weights are dequantised; nothing can bring back what the
quantisation lost. A model that was split (NAME-00001-of-00003.gguf) is given
by its first file, one that was cut into raw parts by all of them, in order.

The weights are written as --dtype. `auto` is the file's own type where it has
one for all matrices, and bfloat16 where they are quantised: its rounding (at
most 1 in 256) is far below a quantisation step, and training is fastest in it.
float32 keeps the dequantised values exactly.

Writes DIR/config.json, generation_config.json, tokenizer.json,
tokenizer_config.json and model.safetensors, or several files with an index.
DIR appears when it is complete.

examples:
  polymoe import-gguf SmolLM2-135M-Instruct.Q4_1.gguf -o smollm2
  polymoe import-gguf model.gguf.part0 model.gguf.part1 -o model --dtype float32
  moe-translate --import-hf smollm2 -o smollm2.mlir
"""

import collections
import contextlib
import json
import re
import shutil
import tempfile
from pathlib import Path

from polymoe.errors import UserError
from polymoe.files import atomic_folder, save_tensors, write_json
from polymoe.gguf_config import generation_config, model_config
from polymoe.gguf_tokenizer import write_tokenizer
from polymoe.progress import progress, say

_SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_DTYPES = ("auto", "float32", "bfloat16", "float16")
_PLAIN = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def add_arguments(parser):
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a GGUF file, or its raw parts in order")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--dtype", choices=_DTYPES, default="auto", help="element type of the weights (default: auto)")
    parser.add_argument(
        "--pre-tokenizer", metavar="NAME", help="how text is cut into words, where the file names none or one unknown"
    )
    parser.add_argument(
        "--shard-size", default="2GB", metavar="SIZE", help="largest safetensors file, held in memory (default: 2GB)"
    )
    parser.add_argument("--force", action="store_true", help="replace DIR if it is there")


def run(args):
    import_gguf(args.files, args.out, args.dtype, args.pre_tokenizer, args.shard_size, args.force)


def import_gguf(files, out, dtype="auto", pre_tokenizer=None, shard_size="2GB", force=False):
    """Writes the folder."""
    with atomic_folder(out, replace=force) as folder, _whole_file(files, folder.parent) as path:
        say(f"{files[0]}: reading metadata and tokenizer")
        reader = read_gguf(path)
        tensors = _tensors(path, reader)
        types = collections.Counter(tensor.tensor_type.name for tensor in tensors.values())
        dtype = _element_type(tensors) if dtype == "auto" else dtype
        config, taken = model_config(path, reader, tensors)
        write_tokenizer(path, folder, pre_tokenizer)
        weights = {name: tensor for name, tensor in tensors.items() if name not in taken}
        _write_weights(path, reader, weights, config, folder, dtype, shard_size)
        _write_config(config, folder)
        write_json(folder / "generation_config.json", generation_config(reader, config))
    quantised = ", ".join(f"{count} {name}" for name, count in types.items() if name not in _PLAIN)
    if quantised:
        say(f"dequantised to {dtype}: {quantised} tensors; what the quantisation lost stays lost")
    say(f"{out}: {config.model_type}, {len(tensors)} tensors as {dtype}")


@contextlib.contextmanager
def _whole_file(files, folder):
    """Yields the path of one GGUF file; raw parts are put together first."""
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: no such file")
    with open(files[0], "rb") as file:
        if file.read(4) != b"GGUF":
            raise UserError(f"{files[0]}: expected a GGUF file, or its first part, but it does not begin with GGUF")
    if len(files) == 1:
        yield files[0]
        return
    for file in files[1:]:
        with open(file, "rb") as part:
            if part.read(4) == b"GGUF":
                raise UserError(
                    f"{file}: expected a raw part, but it begins a GGUF file; give a split model by its first file"
                )
    with tempfile.TemporaryDirectory(prefix=".parts.", dir=folder) as temporary:
        whole = Path(temporary) / files[0].name
        with open(whole, "wb") as target:
            for file in files:
                with open(file, "rb") as part:
                    shutil.copyfileobj(part, target, 1 << 24)
        try:
            yield whole
        except UserError as error:
            raise UserError(str(error).replace(str(whole), f"{files[0]} with its other parts")) from None


def read_gguf(path):
    """The reader of one file, which holds all that its header says."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:
        raise UserError(f"{path}: expected a whole GGUF file: {str(error) or type(error).__name__}") from None
    return reader


def _tensors(path, reader):
    """{name: tensor} of a file and of those that it was split into."""
    split = {key: reader.get_field(f"split.{key}") for key in ("no", "count", "tensors.count")}
    count = int(split["count"].contents()) if split["count"] else 1
    readers = [(path, reader)]
    if count > 1:
        match = _SPLIT.fullmatch(path.name)
        if not match or int(match[2]) != 1 or int(match[3]) != count:
            raise UserError(f"{path}: expected the first of {count} files, named NAME-00001-of-{count:05}.gguf")
        for number in range(2, count + 1):
            other = path.with_name(f"{match[1]}-{number:05}-of-{count:05}.gguf")
            readers.append((other, read_gguf(other)))
            no = readers[-1][1].get_field("split.no")
            if no is None or int(no.contents()) != number - 1:
                raise UserError(f"{other}: expected split.no {number - 1}, but got {no and no.contents()}")
    tensors = {}
    for file, reader in readers:
        for tensor in reader.tensors:
            if tensor.name in tensors:
                raise UserError(f"{file}: expected each tensor once, but got '{tensor.name}' again")
            tensors[tensor.name] = tensor
    expected = split["tensors.count"]
    if expected and int(expected.contents()) != len(tensors):
        raise UserError(f"{path}: expected {int(expected.contents())} tensors in {count} files, but got {len(tensors)}")
    return tensors


def _element_type(tensors):
    """The type of the matrices, where they have one that is no quantisation."""
    types = {tensor.tensor_type.name for tensor in tensors.values() if len(tensor.shape) > 1}
    return _PLAIN.get(types.pop(), "bfloat16") if len(types) == 1 else "bfloat16"


def _write_config(config, folder):
    """Without what transformers keeps for itself, such as _name_or_path."""
    values = json.loads(config.to_json_string())
    write_json(folder / "config.json", {key: value for key, value in values.items() if not key.startswith("_")})


def _write_weights(path, reader, tensors, config, folder, dtype, shard_size):
    """Dequantises tensor by tensor; at most one file's weights are in memory."""
    import numpy
    import torch
    from huggingface_hub import split_torch_state_dict_into_shards
    from transformers import AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    dtype = getattr(torch, dtype)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    config.dtype = dtype
    config.architectures = [type(model).__name__]
    architecture = reader.get_field("general.architecture").contents()
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=config.to_dict())
    names = get_gguf_hf_weights_map(model, processor)
    names = {name: names[name] for name in tensors if name in names}
    _check_names(path, tensors, names, model)

    parameters = model.state_dict()
    source = {key: name for name, key in names.items()}
    shards = split_torch_state_dict_into_shards({key: parameters[key] for key in source}, max_shard_size=shard_size)
    with progress("writing tensors", len(source)) as advance:
        for file, keys in shards.filename_to_tensors.items():
            values = {}
            for key in keys:
                tensor = tensors[source[key]]
                value = processor.process(weights=_dequantise(path, tensor), name=tensor.name).weights
                if tuple(value.shape) != tuple(parameters[key].shape):
                    raise UserError(
                        f"{path}: expected the shape {list(parameters[key].shape)} of '{tensor.name}', as the metadata say,"
                        f" but got {list(value.shape)}"
                    )
                # Tensors that are not quantised are views of the file, which nobody may write to.
                values[key] = torch.from_numpy(numpy.require(value, requirements=["C", "W"])).to(dtype)
                if not values[key].isfinite().all():
                    raise UserError(f"{path}: expected finite numbers in '{tensor.name}' as {dtype}, but got others")
                advance()
            save_tensors(values, folder / file, framework="torch")
    if shards.is_sharded:
        write_json(
            folder / "model.safetensors.index.json",
            {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename},
        )


def _check_names(path, tensors, names, model):
    """Every tensor has its parameter, and every parameter its tensor."""
    unknown = sorted(set(tensors) - set(names))
    if unknown:
        raise UserError(f"{path}: expected tensors of {type(model).__name__}, but got {_some(unknown)} too")
    tied = set(model.all_tied_weights_keys) if model.config.tie_word_embeddings else set()
    missing = sorted(set(dict(model.named_parameters(remove_duplicate=False))) - set(names.values()) - tied)
    if missing:
        raise UserError(f"{path}: expected tensors for {_some(missing)}, but they are not there")


def _some(names, limit=3):
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(f"'{name}'" for name in names[:limit]) + more


def _dequantise(path, tensor):
    from gguf import dequantize

    try:
        return dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError:
        raise UserError(
            f"{path}: expected a type that gguf dequantises, but '{tensor.name}' is {tensor.tensor_type.name}"
        ) from None
