"""Real but tiny weights, made on the spot, and what a tiny student is trained with."""

import os
from pathlib import Path

import pytest

# Tiny models are slower on two threads than on one, and many times slower beside another process.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from envs.vector import HumorVectorEnv
from rewards.text import words
from rewards.types import JokeReward

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


PROMPTS = [
    "the cat sat on the mat .",
    "my keys are lost again .",
    "the bus ran late in rain .",
    "a dog ate my sock .",
    "the soup boiled over .",
    "my gym slept .",
]


class Counts:
    """Rewards a joke with how often some letters stand in it; None where `fails(i)` says so."""

    def __init__(self, letters="a", fails=lambda i: False):
        self.letters, self.fails = letters, fails

    def __call__(self, prompts, jokes):
        return [
            JokeReward(
                None if self.fails(i) else float(j.count(self.letters)),
                None, None, {}, "", len(words(j)), 0.0,
            )
            for i, j in enumerate(jokes)
        ]  # fmt: skip


@pytest.fixture
def counts():
    return Counts


@pytest.fixture
def make_env():
    def make(reward, *, prompts=2, group=4, seed=0):
        env = HumorVectorEnv(PROMPTS, reward, num_prompts=prompts, group_size=group, seed=seed)
        env.reset(seed=seed)
        return env

    return make


@pytest.fixture
def word_student(word_base):
    """Untrained, so a fresh adapter on a bare base; another one each call."""

    import torch

    from agents.student import Student

    def make():
        return Student.load(str(word_base), dtype=torch.float32)

    return make


@pytest.fixture
def tiny_student(tiny_weights):
    """A start adapter that differs from its base."""
    import torch

    from agents.student import Student

    base, start = tiny_weights
    return Student.load(str(base), start, dtype=torch.float32)
