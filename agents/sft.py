"""Imitation of the teacher's and the simple jokes, by TRL's SFTTrainer: the start of all methods.

Small But Funny (Ravi et al. 2024, arXiv:2402.18113), section 3.1, with plain short jokes added:
they are what a 135M student can learn to write well.
"""

from collections.abc import Sequence
from pathlib import Path

from agents.configs import SFTConfig
from models.format import COMPACT, Format
from models.load import Base

LONGEST = 128
"""Tokens of an example; none of the corpus is longer."""
UNLABELLED = -100
"""What PyTorch's cross entropy leaves out."""


def examples(fmt: Format, pairs: Sequence[tuple[str, str]]) -> list[dict[str, list[int]]]:
    """(prompt, joke) pairs as token ids, labelled on the joke and its end token alone.

    Raises:
        ValueError: no pairs.
    """
    if not pairs:
        raise ValueError("imitation got no (prompt, joke) pairs")
    out = []
    for prompt, joke in pairs:
        asked, said = fmt.encode_prompt(prompt), fmt.encode_joke(joke)
        ids = [*asked, *said][:LONGEST]
        labels = [*[UNLABELLED] * len(asked), *said][:LONGEST]
        out.append({"input_ids": ids, "labels": labels})
    return out


def train_sft(
    config: SFTConfig, base: Base, pairs: Sequence[tuple[str, str]], folder: Path, *, seed: int
) -> dict[str, float]:
    """Fit a LoRA adapter on the base and write it to `folder/adapter`.

    Args:
        config: the recipe.
        base: bare base weights; gains an adapter.
        pairs: (prompt, joke).
        folder: of the run; TRL's own files go below it and are not kept.
        seed: of order, dropout and the fresh adapter.

    Returns:
        Mean training loss (nats a token) and optimizer steps.
    """
    import torch
    import trl
    from datasets import Dataset
    from peft import LoraConfig

    from models.adapters import save_adapter

    torch.manual_seed(seed)  # the fresh adapter's values
    fmt = Format(COMPACT, base.tokenizer, int(base.tokenizer.eos_token_id), base.pad)
    arguments = trl.SFTConfig(
        output_dir=str(folder / "trl"),
        num_train_epochs=config.epochs,
        max_steps=config.max_steps,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=config.warmup_steps,
        weight_decay=0.0,
        max_grad_norm=1.0,
        max_length=LONGEST,
        dataset_kwargs={"skip_prepare_dataset": True},
        save_strategy="no",  # TRL's checkpoints hold pickles
        report_to=[],
        logging_steps=10,
        seed=seed,
        use_cpu=base.model.device.type == "cpu",
        bf16=base.model.dtype == torch.bfloat16,
        gradient_checkpointing=False,
    )
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=2 * config.lora_rank,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    base.tokenizer.pad_token_id = base.pad
    trainer = trl.SFTTrainer(
        model=base.model,
        args=arguments,
        train_dataset=Dataset.from_list(examples(fmt, pairs)),
        processing_class=base.tokenizer,
        peft_config=lora,
    )
    result = trainer.train()
    save_adapter(trainer.model, "default", folder / "adapter", base=base, format_kind=COMPACT)
    return {"loss": float(result.training_loss), "steps": float(result.global_step)}
