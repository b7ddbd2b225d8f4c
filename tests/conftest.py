"""Real but tiny weights, made on the spot; session-wide, read only."""

from pathlib import Path

import pytest

WORDS = (
    "the a my cat dog bus soup keys hat mat rain drum gym sock bread lamp "
    "sat ran lost ate late boiled sang slept on in over again and . : Literal Funny"
).split()
"""Vocabulary of the word student, beside <pad>, <eos> and <unk>."""

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 1,
}


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory) -> tuple[Path, Path]:
    """Folders of a 2-layer base (hidden 32, one token a byte) and of an adapter on it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from models.load import quiet_transformers

    folder = tmp_path_factory.mktemp("tiny")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {t: i for i, t in enumerate(["<pad>", "<eos>", *alphabet])}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<eos>", pad_token="<pad>", unk_token="<pad>"
    )
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(vocab), **SHAPE))
    base, start = folder / "base", folder / "start"
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    with quiet_transformers():
        adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(start)
    torch.random.set_rng_state(state)
    return base, start


@pytest.fixture(scope="session")
def word_base(tmp_path_factory) -> Path:
    """Folder of a 2-layer base with a token a word: untrained, it already writes short lines.

    With some 36 tokens the end comes after about 36 words, every word turns up often enough for a
    reward to find it, and the embeddings are long enough for a few words to take over.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("word") / "base"
    vocab = {t: i for i, t in enumerate(["<pad>", "<eos>", "<unk>", *WORDS])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    state = torch.random.get_rng_state()
    torch.manual_seed(1)
    config = LlamaConfig(vocab_size=len(vocab), initializer_range=0.1, **SHAPE)
    model = LlamaForCausalLM(config)
    torch.random.set_rng_state(state)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder
