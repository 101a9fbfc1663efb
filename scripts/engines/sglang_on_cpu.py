"""One run of the unmodified SGLang engine on a CPU: prompts in, greedy tokens and their log-probabilities out, as JSON.

python -m scripts.engines.sglang_on_cpu --model FOLDER --out FILE

The engine finds the attention backend through the entry point. It decodes in a process of its own, which imports this
module again; the hook below counts and checks the calls there and leaves the counts in a file.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import json
import os
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

# Before the stubs: transformers asks which of these are installed.
import transformers  # noqa: F401

COUNTS_VARIABLE, MUTANT_VARIABLE = "BLACKWELL_MLA_COUNTS", "BLACKWELL_MLA_MUTANT"
# SGLang imports these for models of images and sound. PyPI's builds do not go with a CPU build of torch.
STUBBED = ("torchvision", "torchvision.transforms", "torchvision.transforms.v2", "torchvision.io")
STUBBED += ("torchvision.transforms.functional", "torchvision.transforms.v2.functional")
STUBBED += ("torchaudio", "torchaudio.functional", "torchaudio.transforms")


class Stub(types.ModuleType):
    """A module with any attribute, for code that only imports it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Stub(name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self


for _name in STUBBED:
    sys.modules[_name] = Stub(_name)
    sys.modules[_name].__spec__ = importlib.machinery.ModuleSpec(_name, None)
    sys.modules[_name].__path__ = []

from scripts.engines.checked_calls import CheckedCalls
from scripts.engines.model import prompts
from wrappers.engines import sglang as engine


def check_decoding(counts: Path, mutant: bool) -> None:
    """Has every decode checked, token by token through SGLang's table of slots, which knows no pages."""
    make, checked = engine.cpu_backend, CheckedCalls()

    def made() -> type:
        class Checked(make()):
            def forward_decode(
                self, q: Any, k: Any, v: Any, layer: Any, forward_batch: Any, save_kv_cache: bool = True
            ) -> Any:
                import torch

                if not checked.calls:
                    checked.count_launches()
                lengths = forward_batch.seq_lens.clone()
                forward_batch.seq_lens.sub_(int(mutant))
                out = super().forward_decode(q, k, v, layer, forward_batch, save_kv_cache)
                forward_batch.seq_lens.copy_(lengths)
                query = q.reshape(-1, layer.tp_q_head_num, layer.qk_head_dim)
                slots = self.req_to_token_pool.req_to_token[forward_batch.req_pool_indices]
                checked.check(
                    query, torch.arange(len(query) + 1), out.view(*query.shape[:2], -1),
                    self.token_to_kv_pool.get_key_buffer(layer.layer_id), slots, lengths, softmax_scale=layer.scaling,
                )  # fmt: skip
                counts.write_text(json.dumps(checked.summary()))
                return out

        return Checked

    engine.cpu_backend = made


if COUNTS_VARIABLE in os.environ:
    check_decoding(Path(os.environ[COUNTS_VARIABLE]), os.environ.get(MUTANT_VARIABLE) == "1")


def run(options: argparse.Namespace, counts: Path) -> dict[str, Any]:
    import sglang

    llm = sglang.Engine(
        model_path=str(options.model), skip_tokenizer_init=True, device="cpu", attention_backend="blackwell_mla",
        page_size=16, dtype="bfloat16", disable_radix_cache=True, disable_cuda_graph=True, max_total_tokens=2048,
        max_running_requests=4, log_level="error", mem_fraction_static=0.3, disable_overlap_schedule=True,
        sampling_backend="pytorch", grammar_backend="none",
    )  # fmt: skip
    try:
        outputs = llm.generate(
            input_ids=prompts(), return_logprob=True,
            sampling_params={"temperature": 0.0, "max_new_tokens": options.tokens, "ignore_eos": True},
        )  # fmt: skip
    finally:
        llm.shutdown()
    return {
        "engine": f"sglang {sglang.__version__}", "tokens": [each["output_ids"] for each in outputs],
        "logprobs": [[step[0] for step in each["meta_info"]["output_token_logprobs"]] for each in outputs],
        **json.loads(counts.read_text()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.engines.sglang_on_cpu")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--mutant", action="store_true", help="decode reads one key too few: must fail")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder) / "counts.json"
        os.environ |= {COUNTS_VARIABLE: str(counts), MUTANT_VARIABLE: str(int(options.mutant))}
        options.out.write_text(json.dumps(run(options, counts)))


if __name__ == "__main__":
    main()
