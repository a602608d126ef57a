"""Make miniature checkpoints with the reference package and record its own outputs beside them.

Runs in an environment of its own, not in the project's:

    python3 -m venv ENV
    ENV/bin/pip install torch==2.13.0 transformers==4.57.6 peft==0.21.2 datasets accelerate pyyaml psutil
    ENV/bin/pip install --no-deps llm2vec-gen==0.1.3
    ENV/bin/python tests/checkpoints/record_reference.py FOLDER        makes the families
    ENV/bin/python tests/checkpoints/record_reference.py --load CHECKPOINT OUTPUT.npz  what it makes of ours

Weights are random, so that a tensor which is not loaded shows up; nothing here is anybody else's text or weight.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from llm2vec_gen.models.modeling_encoder_decoder import EncoderDecoderModel, ProjectionModel
from peft import TrainableTokensConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from llm2vec_gen.models import LLM2VecGenModel, apply_peft

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": 0.3,
}
"""Large weights for so few layers, so that every one of them matters."""
LLAMA_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES = {
    "llama_20": {"config": LlamaConfig, "tokens": 20, "kept": 10, "options": {"rope_scaling": LLAMA_ROPE}},
    "qwen2_5": {"config": Qwen2Config, "tokens": 5, "kept": 5, "teacher": 24, "tied": True, "spare": 13},
    "qwen3_lora": {"config": Qwen3Config, "tokens": 6, "kept": 4, "tied": True, "spare": 40, "lora": (4, 8)},
    "qwen3_bf16": {
        "config": Qwen3Config,
        "tokens": 4,
        "kept": 4,
        "tied": True,
        "spare": 9,
        "dtype": "bfloat16",
        "options": {"initializer_range": 0.1},
    },
    "llama_lora": {"config": LlamaConfig, "tokens": 3, "kept": 3, "tied": True, "lora": (2, 8)},
}
SAMPLE = "the cat sat on the mat and the dog ate the bone while it rained in the town where they all lived happily "
LONG = SAMPLE * 12
TEXTS = ["Where does the cat sit?", "", "  ", "Wo schläft der Hund? 犬はどこ 🐕", LONG, " the dog ate "]
BATCH = [
    ("Where does the cat sit?", "The cat sits on the mat."),
    (" who ate the bone ", " the dog\n"),
    (LONG, LONG + LONG),
]


def main() -> None:
    if sys.argv[1] == "--load":
        record_folder(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    root = Path(sys.argv[1]).absolute()
    for index, (name, family) in enumerate(FAMILIES.items()):
        torch.manual_seed(100 + index)
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        make_backbone(family)
        make_checkpoint(family)
        record(family)
        print(name, sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()), "bytes")


def make_backbone(family: dict) -> None:
    """A random language model with its tokenizer, as transformers 4 saves them."""
    llama = family["config"] is LlamaConfig
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"] if llama else ["<|endoftext|>", "<|im_end|>"]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, special_tokens=[], show_progress=False)
    inner.train_from_iterator([SAMPLE], trainer)
    inner.add_special_tokens(specials)
    if llama:
        byte_level = processors.ByteLevel(trim_offsets=True)
        template = processors.TemplateProcessing(
            single=f"{specials[0]} $A",
            pair=f"{specials[0]} $A {specials[0]}:1 $B:1",
            special_tokens=[(specials[0], inner.token_to_id(specials[0]))],
        )
        inner.post_processor = processors.Sequence([byte_level, template])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=specials[0] if llama else None,
        eos_token=specials[-1],
        pad_token=None if llama else specials[0],
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=llama,
    )
    tokenizer.save_pretrained("backbone")
    config = family["config"](
        vocab_size=len(tokenizer) + family.get("spare", 0),
        tie_word_embeddings=family.get("tied", False),
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        torch_dtype=family.get("dtype", "float32"),
        **(SIZES | family.get("options", {})),
        **({"head_dim": 8} if family["config"] is Qwen3Config else {}),
    )
    lm = AutoModelForCausalLM.from_config(config)
    for name, parameter in lm.named_parameters():
        if parameter.dim() == 1:  # norms and biases too, so that one that is not loaded shows up
            parameter.data = torch.randn_like(parameter) * 0.2 + (1.0 if "norm" in name else 0.0)
    lm.to(getattr(torch, family.get("dtype", "float32"))).save_pretrained("backbone")


def make_checkpoint(family: dict) -> None:
    """A student with random trainables, saved by the package's own code."""
    dtype = getattr(torch, family.get("dtype", "float32"))
    count, kept = family["tokens"], family["kept"]
    tokenizer = AutoTokenizer.from_pretrained("backbone")
    old = len(tokenizer)
    names = [f"<question{i + 1}>" for i in range(count)]
    tokenizer.add_special_tokens({"additional_special_tokens": names})
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer(["a", "b c"], padding=True, truncation=True, max_length=512)
    encoder = AutoModel.from_pretrained("backbone", torch_dtype=dtype)
    rows = encoder.config.vocab_size
    encoder.resize_token_embeddings(len(tokenizer))
    ids = tokenizer.convert_tokens_to_ids(names)
    encoder.config.num_special_tokens = count
    encoder.config.special_tokens = encoder.config.special_tokens_ids = ids
    encoder.config.tokenizer_original_num_tokens = old
    encoder.config.num_tokens = rows + count
    if "lora" in family:
        rank, alpha = family["lora"]
        encoder = apply_peft(encoder, lora_r=rank, lora_alpha=alpha, lora_dropout=0.05, special_tokens_ids=ids)
    else:
        encoder = get_peft_model(encoder, TrainableTokensConfig(target_modules="embed_tokens", token_indices=ids))
    for name, parameter in encoder.named_parameters():
        if "trainable_tokens_delta" in name or "lora_" in name:
            parameter.data = torch.randn_like(parameter) * 0.5
    hidden = SIZES["hidden_size"]
    projections = {
        "reconstruction_mlp": ProjectionModel(hidden, hidden, dtype=dtype),
        "alignment_mlp": ProjectionModel(hidden, family.get("teacher", hidden), dtype=dtype),
    }
    decoder = AutoModelForCausalLM.from_pretrained("backbone", torch_dtype=dtype)
    model = EncoderDecoderModel(encoder, decoder, encoding_mode=f"last_{kept}_tokens", **projections)
    model.save_pretrained("checkpoint")
    tokenizer.save_pretrained("checkpoint")
    run = {
        "model_name_or_path": "backbone",
        "torch_dtype": family.get("dtype", "float32"),
        "special_tokens": names,
        "max_input_length": 512,
        "tokenizer_name": None,
        "encoding_mode": f"last_{kept}_tokens",
        "use_peft_for_encoder": "lora" in family,
        "adam_epsilon": 1e-08,
    }
    Path("checkpoint/run_config.yml").write_text("".join(f"{key}: {value}\n" for key, value in run.items()))
    Path("checkpoint/encoder/README.md").unlink(missing_ok=True)


def record(family: dict) -> None:
    """Load the folder as a user would, and write down what comes out."""
    model = LLM2VecGenModel.from_pretrained("checkpoint")
    model.model.eval()
    model.tokenizer.padding_side = "left"
    names = model.tokenizer.additional_special_tokens
    quirks = ["".join(names) + LONG, names[0] + " the cat", "the " + names[-1], LONG[:500] + names[1] + LONG]
    arrays: dict[str, np.ndarray] = {}
    with torch.no_grad():
        embedding, soft = model.encode(TEXTS, get_recon_hidden_states=True)
        arrays["embeddings"], arrays["soft_prompts"] = plain(embedding), plain(soft)
        arrays["embeddings_max_length_32"] = plain(model.encode(TEXTS, max_length=32))
        arrays["quirk_embeddings"] = plain(torch.cat([model.encode([text]) for text in quirks]))
        for index in range(3):
            ids, margins = greedy(model.model, soft[index : index + 1])
            arrays[f"greedy_ids_{index}"], arrays[f"greedy_margins_{index}"] = ids, margins
        arrays["losses"] = losses(model)
    expected = {"texts": TEXTS, "quirk_texts": quirks, "batch": BATCH, "dtype": family.get("dtype", "float32")}
    Path("expected.json").write_text(json.dumps(expected, ensure_ascii=False, indent=1))
    np.savez_compressed("expected.npz", **arrays)


def losses(model: LLM2VecGenModel) -> np.ndarray:
    """[cross entropy, mean of squares of the embeddings]: the second is the alignment loss against zeros."""
    tokenizer, names = model.tokenizer, model.tokenizer.additional_special_tokens
    queries = tokenizer(
        [query.strip() + "".join(names) for query, _ in BATCH],
        padding=True,
        truncation=True,
        max_length=512,
        return_tensors="pt",
    )
    wanted = torch.tensor(tokenizer.convert_tokens_to_ids(names))
    ids = LLM2VecGenModel._add_special_tokens_if_needed(queries["input_ids"], wanted)
    answers = tokenizer(
        [answer.strip() + "<|end_of_text|>" for _, answer in BATCH],
        padding=True,
        truncation=True,
        max_length=512,
        return_tensors="pt",
    )
    labels = answers["input_ids"].masked_fill(answers["input_ids"] == tokenizer.pad_token_id, -100)
    aligned, out = model.model(
        query_input_ids=ids,
        query_attention_mask=queries["attention_mask"],
        answer_input_ids=answers["input_ids"],
        answer_attention_mask=answers["attention_mask"],
        labels=labels,
    )
    return np.array([out.loss.item(), aligned.mean(1).float().square().mean().item()])


def greedy(model: EncoderDecoderModel, prompts: torch.Tensor, steps: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Token ids one by one, with the gap between the best and the second best logit; no stopping."""
    ids, margins, inputs = [], [], prompts
    for _ in range(steps):
        logits = model.decoder_model(inputs_embeds=inputs).logits[0, -1].float()
        best = logits.topk(2)
        ids.append(int(best.indices[0]))
        margins.append(float(best.values[0] - best.values[1]))
        step = model.decoder_model.get_input_embeddings()(best.indices[:1])[None]
        inputs = torch.cat([inputs, step], dim=1)
    return np.array(ids), np.array(margins)


def record_folder(checkpoint: Path, output: Path) -> None:
    """Embeddings and soft prompts of a folder that we wrote, run from the working directory."""
    model = LLM2VecGenModel.from_pretrained(str(checkpoint))
    model.model.eval()
    with torch.no_grad():
        embedding, soft = model.encode(TEXTS, get_recon_hidden_states=True)
        one_by_one = torch.cat([model.encode([text]) for text in TEXTS])
    np.savez(output, embeddings=plain(embedding), soft_prompts=plain(soft), one_by_one=plain(one_by_one))


def plain(tensor: torch.Tensor) -> np.ndarray:
    return tensor.float().numpy()


if __name__ == "__main__":
    main()
