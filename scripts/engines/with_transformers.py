"""What Hugging Face transformers computes in fp32, greedily: the answer key of the engines' runs.

python -m scripts.engines.with_transformers --model FOLDER --out FILE
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, __version__

from scripts.engines.model import prompts


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.engines.with_transformers")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(
        options.model, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False
    ).eval()
    tokens, logprobs, margins = [], [], []
    with torch.no_grad():
        for prompt in prompts():
            known, chosen, values, gaps = list(prompt), [], [], []
            for _ in range(options.tokens):
                step = torch.log_softmax(model(torch.tensor([known])).logits[0, -1], dim=-1)
                best = step.topk(2)
                chosen.append(int(best.indices[0]))
                values.append(float(best.values[0]))
                gaps.append(float(best.values[0] - best.values[1]))
                known.append(chosen[-1])
            tokens.append(chosen)
            logprobs.append(values)
            margins.append(gaps)
    result = {"engine": f"transformers {__version__}, fp32", "tokens": tokens, "logprobs": logprobs, "margins": margins}
    options.out.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
