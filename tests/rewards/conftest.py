"""A real but tiny base and start adapter, made on the spot; session-wide, read only."""

import json
from pathlib import Path

import pytest

PROMPTS = [
    "The cat slept on the laptop.",
    "I lost my keys again.",
    "The bus was late this morning.",
    "My neighbour bought a drum kit.",
    "The soup boiled over.",
    "Grandma learned to text.",
    "The gym was full on Monday.",
    "Our printer jammed twice.",
    "The dog ate a sock.",
    "It rained on the picnic.",
]


def _jokes(prompt: str) -> list[tuple[str, str, int]]:
    body = prompt.rstrip(".")
    return [
        (f"{body}, and now it wants a raise.", "student2-t0.7", 5),
        (f"{body}, so we called it a hobby.", "student2-t0.7", 4),
        (f"{body}.", "student2-t0.7", 2),
        ("Blue of the seven and under a lamp.", "student2-t0.7", 0),
        (f"Nobody saw that {body.lower()}.", "rl1-40-t0.7", 3),
        ("A polished joke by another hand.", "teacher", 8),
    ]


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory) -> tuple[Path, Path]:
    """Folders of a 2-layer base (hidden 32, one token a byte) and of an adapter on it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {t: i for i, t in enumerate(["<pad>", "<eos>", *alphabet])}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<eos>", pad_token="<pad>", unk_token="<pad>"
    )
    config = LlamaConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=1,
    )
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    base, start = folder / "base", folder / "start"
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(start)
    torch.random.set_rng_state(state)
    return base, start


@pytest.fixture(scope="session")
def tiny_labels(tmp_path_factory) -> Path:
    """A file of judgments of ten prompts."""
    file = tmp_path_factory.mktemp("labels") / "judgments.jsonl"
    records = [
        {
            "id": f"p-{i}",
            "text": prompt,
            "candidates": [
                {
                    "text": joke,
                    "source": source,
                    "evaluations": [
                        {"rating": rating, "fact_kept": rating >= 2, "comment": "as it is"}
                    ],
                }
                for joke, source, rating in _jokes(prompt)
            ],
        }
        for i, prompt in enumerate(PROMPTS)
    ]
    file.write_text("".join(json.dumps(r) + "\n" for r in records))
    return file
