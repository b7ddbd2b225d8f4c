"""Offline DPO by TRL's DPOTrainer: pairs of the start student gathered once, or given.

Rafailov et al. 2023, arXiv:2305.18290; the offline end of the comparison with `online-dpo`. What
gathering judges is what an online run of as many updates judges. What differs from `online-dpo
--refresh-every 0`: every update draws from all pairs instead of its own, and TRL's
log-probabilities are at temperature 1 (a test holds one step of both equal there). TRL's Trainer is
started anew for each update, with our optimizer, schedule and token ids, so that looks,
checkpoints and resumption are those of every method; it writes nothing that is kept.
"""

import contextlib
import hashlib
import json
import math
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from agents.feedback_configs import GATHERED, OfflineDPOConfig
from agents.learner import Learner, epoch_rows, judged
from agents.optim import Diverged
from agents.preference import make_pairs
from agents.student import Student

LONGEST = 256
"""Tokens of prompt and joke that TRL reads; only a foreign file has longer ones."""
PLACEHOLDER = {"prompt": "a", "chosen": " b", "rejected": " c"}
"""Text for TRL to tokenise; token ids of our own take its place."""
MARKS = ("forward", "_original_forward", "_is_accelerate_prepared")
"""What TRL and Accelerate put on a model that they train."""


class TextPair(NamedTuple):
    """Two jokes of one prompt, the better one first."""

    prompt: str
    chosen: str
    rejected: str
    margin: float = math.nan  # in reward units (labels: points); NaN where nobody said
    raw: float = math.nan  # the same by the training critic alone, in its own units


class PairBatch(NamedTuple):
    """The pairs of one update."""

    pairs: list[TextPair]
    told: Mapping[str, float]  # metrics of gathering, where it was done in this update


class OfflineDPO:
    """The agent; see PPO's contract.

    Args:
        config: sizes and rates.
        student: what learns; the reference is its frozen start.
        seed: of sampling and of the order of pairs.
        pairs: given ones; none: they are gathered when the first update collects.
    """

    def __init__(
        self,
        config: OfflineDPOConfig,
        student: Student,
        *,
        seed: int,
        pairs: Sequence[TextPair] = (),
    ) -> None:
        self.config, self.student = config, student
        self.learner = Learner(config, student, seed=seed, writes=False)
        self.pairs = list(pairs)
        self.last_pairs: list[tuple[str, str, str, float]] = []
        """(prompt, chosen, rejected, margin by the training critic) of the last update."""

    @property
    def asks_once(self) -> bool:
        """Whether every verdict is asked for in the first update."""
        return self.config.pairs == GATHERED

    @property
    def step(self) -> int:
        """Updates done."""
        return self.learner.step

    # ---- collect

    def collect(self, env: Any) -> PairBatch:
        """The next pairs of a shuffled epoch; the first call gathers all of them if none are given.

        Args:
            env: the vector environment; gathering takes `updates` steps of it.
        """
        told: dict[str, float] = {}
        if self.config.pairs == GATHERED and self.step == 0:
            told = self._gather(env)
        if not self.pairs:
            return PairBatch([], told)
        size = self.config.minibatches * self.config.batch_size
        rows = epoch_rows(len(self.pairs), size, batch=self.step, seed=self.learner.seed)
        return PairBatch([self.pairs[i] for i in rows], told)

    def _gather(self, env: Any) -> dict[str, float]:
        """K jokes of the start student for the prompts of all updates, judged and paired."""
        config = self.config
        self.pairs, rewards, unscored = [], [], 0
        for _ in range(config.updates):
            self.student.start_reader().forget()  # readings of 64 jokes at a time, not of all
            prompts = list(env.shown[:: config.group_size])
            completions = self.student.generate(
                prompts, config.group_size, temperature=config.temperature,
                max_tokens=config.max_tokens, generator=self.learner.generator, start=True,
            )  # fmt: skip
            mine = judged(env, completions, len(prompts))
            rewards += mine.rewards[mine.scored].tolist()
            unscored += int((~mine.scored).sum())
            raw, jokes = mine.info["raw"], completions.jokes
            self.pairs += [
                TextPair(
                    completions.prompts[p.chosen], jokes[p.chosen], jokes[p.rejected],
                    p.margin, float(raw[p.chosen] - raw[p.rejected]),
                )
                for p in make_pairs(
                    mine.rewards, mine.usable, mine.groups, pairing=config.pairing,
                    min_margin=config.min_margin, generator=self.learner.generator,
                )
            ]  # fmt: skip
        n = config.updates * config.jokes_per_update
        return {
            "gather/jokes": float(n),
            "gather/reward": sum(rewards) / len(rewards) if rewards else math.nan,
            "gather/pairs": float(len(self.pairs)),
            "critic/unscored_rate": unscored / n,
        }

    # ---- update

    def update(self, rollout: PairBatch) -> dict[str, float]:
        """Learn from the batch by TRL; returns the metrics of docs/metrics.md.

        Raises:
            Diverged: a loss or gradient that is not finite, which TRL has already taken.
        """
        logs = self._train(rollout.pairs) if rollout.pairs else []
        if not all(math.isfinite(log["loss"] + log["grad_norm"]) for log in logs):
            raise Diverged("TRL's DPOTrainer met a loss or gradient that is not finite", rollout)
        self.learner.step += 1
        self.last_pairs = [
            (p.prompt, p.chosen, p.rejected, p.raw) for p in rollout.pairs if math.isfinite(p.raw)
        ]
        margins = [p.margin for p in rollout.pairs if math.isfinite(p.margin)]

        def mean(key: str) -> float:
            return sum(log[key] for log in logs) / len(logs) if logs else math.nan

        chosen, rejected = mean("rewards/chosen"), mean("rewards/rejected")
        return dict(rollout.told) | {
            "reward/mean": math.nan,  # judged once, before: gather/reward
            "loss/preference": mean("loss"),
            "pairs/count": float(len(rollout.pairs)),
            "pairs/margin": sum(margins) / len(margins) if margins else math.nan,
            "pairs/chosen_reward": chosen,
            "pairs/rejected_reward": rejected,
            "pairs/accuracy": mean("rewards/accuracies"),
            # at temperature 1, over the jokes of the pairs
            "policy/kl_per_joke": (chosen + rejected) / 2 / self.config.beta,
            "policy/grad_norm": mean("grad_norm"),
            "policy/learning_rate": self.learner.rate,
        }

    def _train(self, pairs: Sequence[TextPair]) -> list[dict[str, float]]:
        """TRL's log of each optimizer step."""
        self.learner.set_rate()
        with (
            self.student.training(self.learner.parameters),
            self.trainer(pairs, batch_size=self.config.batch_size) as trainer,
        ):
            trainer.train()
            logs = [log for log in trainer.state.log_history if "grad_norm" in log]
        self.student.changed()
        return logs

    @contextlib.contextmanager
    def trainer(self, pairs: Sequence[TextPair], *, batch_size: int) -> Iterator[Any]:
        """TRL's trainer of the student on some pairs; within, the models' forwards are TRL's.

        Args:
            pairs: what `train` makes one pass over (`epochs` of them).
            batch_size: pairs an optimizer step.
        """
        import datasets
        import trl
        from transformers import PrinterCallback

        from models.load import quiet_transformers

        config, base = self.config, self.student.base
        reference = self.student.start_reader().model
        rows = preference_rows(self.student, pairs)
        bare = self.student.model.get_base_model()
        cached = bare.config.use_cache
        base.tokenizer.pad_token_id = base.pad
        datasets.disable_progress_bars()
        with (
            tempfile.TemporaryDirectory() as folder,
            left_alone(self.student.model, bare, reference),
            quiet_transformers(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", UserWarning)
            held: Any = torch.optim.lr_scheduler.ConstantLR(
                self.learner.optimizer, factor=1.0, total_iters=1
            )
            trainer = trl.DPOTrainer(
                model=self.student.model,
                ref_model=reference,
                args=trl.DPOConfig(
                    output_dir=folder,
                    loss_type=[config.loss],
                    beta=config.beta,
                    num_train_epochs=config.epochs,
                    per_device_train_batch_size=batch_size,
                    max_grad_norm=config.grad_clip,
                    max_length=LONGEST,
                    save_strategy="no",  # TRL's checkpoints hold pickles
                    report_to=[],
                    logging_steps=1,
                    logging_nan_inf_filter=False,
                    train_sampling_strategy="sequential",  # they come shuffled
                    disable_tqdm=True,
                    dataloader_pin_memory=False,
                    seed=self.learner.seed,
                    use_cpu=bare.device.type == "cpu",
                    bf16=bare.dtype == torch.bfloat16,
                    gradient_checkpointing=False,
                ),
                train_dataset=datasets.Dataset.from_list([PLACEHOLDER]),
                processing_class=base.tokenizer,
                # ours, so that moments live as long as the run; the rate is set by update
                optimizers=(self.learner.optimizer, held),
            )
            trainer.remove_callback(PrinterCallback)
            # TRL would tokenise prompt and joke as one text; ours are apart, as when sampling
            trainer.train_dataset = datasets.Dataset.from_list(rows)
            try:
                yield trainer
            finally:
                self.student.model.eval()
                bare.config.use_cache = cached

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """`tensors` for safetensors and `scalars` for JSON; with the adapter, all of the agent."""
        state = self.learner.state_dict()
        if self.config.pairs == GATHERED:
            state["scalars"]["pairs"] = [_plain(pair) for pair in self.pairs]
        else:
            state["scalars"]["pairs_sha256"] = _fingerprint(self.pairs)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo of `state_dict`; the student's adapter is loaded by the caller.

        Raises:
            ValueError: the given pairs are not those that the run began with.
        """
        self.learner.load_state_dict(state)
        if self.config.pairs == GATHERED:
            self.pairs = [
                TextPair(*texts, *(math.nan if x is None else float(x) for x in margins))
                for *texts, margins in state["scalars"]["pairs"]
            ]
        elif state["scalars"]["pairs_sha256"] != _fingerprint(self.pairs):
            raise ValueError(f"--pairs {self.config.pairs} has changed since the run began")


def preference_rows(student: Student, pairs: Sequence[TextPair]) -> list[dict[str, list[int]]]:
    """Token ids as TRL's collator reads them; jokes with their end token."""
    fmt = student.format
    return [
        {
            "prompt_ids": fmt.encode_prompt(pair.prompt),
            "chosen_ids": fmt.encode_joke(pair.chosen),
            "rejected_ids": fmt.encode_joke(pair.rejected),
        }
        for pair in pairs
    ]


@contextlib.contextmanager
def left_alone(*models: Any) -> Iterator[None]:
    """Within, TRL and Accelerate may put forwards and marks on the models; afterwards none is left.

    With TRL's forward, a copy made later (`models.adapters.Merged`) would call the model that it
    was copied from; with Accelerate's mark, the next update would go without autocast in bf16.
    """
    before = [{name: vars(m)[name] for name in MARKS if name in vars(m)} for m in models]
    try:
        yield
    finally:
        for model, known in zip(models, before, strict=True):
            for name in MARKS:
                vars(model).pop(name, None)
            vars(model).update(known)


def _fingerprint(pairs: Sequence[TextPair]) -> str:
    return hashlib.sha256(json.dumps([pair[:3] for pair in pairs]).encode()).hexdigest()


def _plain(pair: TextPair) -> list[Any]:
    """For JSON, which has no NaN: texts and margins."""
    margins = [x if math.isfinite(x) else None for x in (pair.margin, pair.raw)]
    return [pair.prompt, pair.chosen, pair.rejected, margins]
