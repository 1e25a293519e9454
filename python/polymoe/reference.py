# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Compute with transformers what moe-run computes: the independent side of tests.

With --tokens: the log-probability of every next token, and with --logits all
logits, written as `moe-run score` writes them (`logprobs` [N, S-1] and
`logits` [N, S, V], fp32). With --prompt-tokens: a greedy continuation, printed
as token ids with commas.

Attention is the eager implementation. Loads checkpoints with modelling files
of their own (what moe-translate --export-hf writes): only give it folders that
you trust.

examples:
  polymoe reference odd/qwen3 --tokens t.safetensors --out s.safetensors --logits
  polymoe reference odd/qwen3 --prompt-tokens 5,17,3 --max-tokens 64
"""

from pathlib import Path

from polymoe.errors import UserError
from polymoe.files import atomic_path
from polymoe.progress import progress


def add_arguments(parser):
    parser.add_argument("model", type=Path, help="folder with config.json and safetensors")
    parser.add_argument("--tokens", type=Path, metavar="FILE.safetensors", help="`tokens` [N, S], I32 or I64")
    parser.add_argument("--out", type=Path, metavar="FILE.safetensors", help="where --tokens writes its results")
    parser.add_argument("--logits", action="store_true", help="write the logits too")
    parser.add_argument("--prompt-tokens", metavar="ID,ID,...", help="continue this prompt")
    parser.add_argument("--max-tokens", type=int, default=64, help="tokens to generate (default: 64)")
    parser.add_argument("--no-cache", action="store_true", help="recompute the whole prefix for every token")
    parser.add_argument(
        "--dtype", choices=("fp32", "bf16"), default="fp32", help="weights and arithmetic (default: fp32)"
    )


def run(args):
    if (args.tokens is None) == (args.prompt_tokens is None):
        raise UserError("expected either --tokens or --prompt-tokens")
    if args.tokens is not None and args.out is None:
        raise UserError("--tokens: expected --out with it")
    model = load(args.model, args.dtype)
    if args.tokens is not None:
        write_scores(model, read_tokens(args.tokens), args.out, args.logits)
    else:
        try:
            prompt = [int(item) for item in args.prompt_tokens.split(",")]
        except ValueError:
            raise UserError(f"--prompt-tokens: expected ids with commas, but got '{args.prompt_tokens}'") from None
        print(",".join(map(str, generate(model, prompt, args.max_tokens, not args.no_cache))))


def load(path, dtype="fp32"):
    """A causal language model in evaluation mode, every weight from the folder."""
    import torch
    import transformers

    if not (path / "config.json").is_file():
        raise UserError(f"{path / 'config.json'}: no such file; expected a folder that transformers can load")
    transformers.utils.logging.disable_progress_bar()
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        path,
        dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[dtype],
        attn_implementation="eager",
        # The default takes only widths that are multiples of 16 bytes.
        experts_implementation="eager",
        trust_remote_code=True,
        output_loading_info=True,
    )
    # transformers only warns about these, and draws what is missing at random.
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(problem):
            raise UserError(f"{path}: {problem.replace('_', ' ')}: {sorted(map(str, info[problem]))}")
    return model.eval()


def read_tokens(path):
    """`tokens` [N, S] of a tokens file, as a torch tensor of int64."""
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        tensors = load_file(path)
    except Exception as error:
        raise UserError(f"{path}: expected a safetensors file: {error}") from None
    if "tokens" not in tensors or tensors["tokens"].dim() != 2:
        raise UserError(f"{path}: expected a tensor 'tokens' [N, S], but got {sorted(tensors)}")
    return tensors["tokens"].long()


def score(model, tokens, rows=8):
    """Yields the fp32 logits [n, S, V] of `rows` rows at a time."""
    import torch

    vocabulary = model.config.vocab_size
    if tokens.numel() and not 0 <= tokens.min() <= tokens.max() < vocabulary:
        raise UserError(f"tokens: expected ids below {vocabulary}, but got {tokens.min()} to {tokens.max()}")
    with torch.inference_mode():
        for start in range(0, len(tokens), rows):
            yield model(tokens[start : start + rows], use_cache=False).logits.float()


def logprobs(logits, tokens):
    """[N, S-1] log-probabilities of the next tokens."""
    return logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)


def write_scores(model, tokens, out, with_logits):
    import torch
    from safetensors.torch import save_file

    rows, parts, all_logits = 8, [], []
    with progress("scoring", len(tokens)) as advance:
        for index, logits in enumerate(score(model, tokens, rows)):
            parts.append(logprobs(logits, tokens[index * rows : (index + 1) * rows]))
            if with_logits:
                all_logits.append(logits.clone())
            advance(len(logits))
    tensors = {"logprobs": torch.cat(parts)} | ({"logits": torch.cat(all_logits)} if with_logits else {})
    with atomic_path(out) as temporary:
        save_file(tensors, temporary)


def generate(model, prompt, max_tokens, cache=True):
    """The greedy continuation; of equal logits the lower id wins."""
    import torch

    vocabulary = model.config.vocab_size
    for token in prompt:
        if not 0 <= token < vocabulary:
            raise UserError(f"prompt: expected ids below {vocabulary}, but got {token}")
    ids, past, new = torch.tensor([prompt]), None, []
    with torch.inference_mode():
        while len(new) < max_tokens:
            if cache:
                output = model(ids if past is None else ids[:, -1:], past_key_values=past, use_cache=True)
                past = output.past_key_values
            else:
                output = model(ids, use_cache=False)
            new.append(int(output.logits[0, -1].argmax()))
            ids = torch.cat([ids, torch.tensor([[new[-1]]])], 1)
    return new
