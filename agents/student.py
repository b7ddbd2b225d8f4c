"""The student: base weights, frozen start adapter, trained adapter, and what PPO asks of them."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from agents.sampling import Sampled, sample
from models.adapters import (
    CONFIG_FILE,
    Merged,
    adapter_manifest,
    adapter_parameters,
    adapter_state,
    add_adapter,
    only_trains,
    read_adapter,
    save_adapter,
    set_adapter_values,
)
from models.format import Format
from models.load import Base, base_format, fingerprint, load_base
from models.packed import chunks, pack
from models.reader import Reader

START = Path(__file__).parent.parent / "data" / "start"
STUDENT, REFERENCE = "student", "start"
SHIPPED = {"start": START}
"""Names of `--student` that are adapters of this repository."""

MICRO_TOKENS = 1024
"""Padded tokens of a training micro-batch; memory, not results, depends on it (up to rounding)."""


class Completions(NamedTuple):
    """B jokes for their prompts; T is the longest joke in tokens."""

    prompts: list[str]  # B, equal ones stand together
    jokes: list[str]  # B, text without the end token
    prompt_ids: list[list[int]]  # B
    joke_ids: list[list[int]]  # B, the end token included where finished
    finished: list[bool]  # B
    logps: Tensor  # (B, T) of the sampler, nats at `temperature`; 0 where there is no token
    mask: Tensor  # (B, T) bool, True for joke tokens, the end token included
    temperature: float  # what the logits were divided by; log-probabilities are of this


class TokenStats(NamedTuple):
    """What the policy says now about given jokes."""

    logps: Tensor  # (B, T) nats; 0 where there is no token; carries gradient where enabled
    entropy: Tensor  # (B, T) nats; detached unless asked for with gradient
    values: Tensor | None  # (B, T) V of the state before each token; None without a value head


class Student:
    """A small causal LM with adapters: `start` is frozen, `student` is the one that learns."""

    def __init__(self, base: Base, fmt: Format, *, name: str, adapter: Path | None) -> None:
        """Use `Student.load`; this wires loaded parts.

        Raises:
            ValueError: the adapter does not fit (see `models.adapters.read_adapter`).
        """
        from peft import LoraConfig

        self.base, self.format, self.name = base, fmt, name
        if adapter is not None:
            config, tensors = read_adapter(adapter, base)
        else:
            config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
            tensors = None  # PEFT starts B at zero: the student starts as the bare base
        self.start_sha256 = "" if adapter is None else fingerprint(adapter)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # only a fresh adapter draws from it: the same one every time
            self.model = add_adapter(base.model, REFERENCE, config, tensors)
        state = adapter_state(self.model, REFERENCE)
        self.model = add_adapter(self.model, STUDENT, config, state)
        self.model.set_adapter(STUDENT)
        self.tuned_temperature = 0.0 if adapter is None else _tuned(adapter)
        self.value_head: nn.Linear | None = None
        self._sampler: Merged | None = None
        self._stale = True

    @classmethod
    def load(
        cls,
        name: str,
        adapter: Path | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        download: bool = True,
    ) -> "Student":
        """Load a student: a shipped name, an adapter folder, or any base `models` can resolve.

        Args:
            name: `start`, a folder with a PEFT adapter, or a base (alias, folder, GGUF, hub id).
            adapter: an adapter for the base `name`; overrides a shipped one.
            device: where it computes.
            dtype: of the base weights; None picks bf16 where the processor has it, else fp32.
            download: whether an alias may be fetched.

        Raises:
            ValueError: no such student, or an adapter of another base.
            WeightsError: weights could not be had; the message has the command.
        """
        folder = SHIPPED.get(name, Path(name).expanduser())
        if adapter is None and (folder / CONFIG_FILE).exists():
            adapter = folder
            name_of_base = adapter_manifest(folder).get("base") or _peft_base(folder)
        else:
            name_of_base = name
        base = load_base(name_of_base, device=device, dtype=dtype, download=download)
        kind = None if adapter is None else adapter_manifest(adapter).get("format")
        return cls(base, base_format(base, kind), name=Path(name).name, adapter=adapter)

    # ---- sampling

    def generate(
        self,
        prompts: Sequence[str],
        k: int,
        *,
        temperature: float,
        max_tokens: int,
        generator: torch.Generator | None = None,
        start: bool = False,
    ) -> Completions:
        """Write `k` jokes for every prompt.

        Args:
            prompts: literal sentences.
            k: jokes a prompt; 1 for greedy decoding (`temperature` 0).
            temperature: > 0; 0 is greedy.
            max_tokens: of a joke, the end token included.
            generator: source of all randomness; the same state gives the same jokes.
            start: let the frozen start student write instead.

        Raises:
            ValueError: sampling without a generator, or sizes that do not fit.
        """
        if temperature > 0 and generator is None:
            raise ValueError("generate samples only from a generator that is passed in")
        uniforms = None
        if temperature > 0:
            uniforms = torch.rand((len(prompts) * k, max_tokens), generator=generator)
        ids = [self.format.encode_prompt(p) for p in prompts]
        with self.reference() if start else contextlib.nullcontext():
            sampled = sample(
                self._merged(start),
                ids,
                k,
                temperature=temperature,
                max_tokens=max_tokens,
                eos=self.format.eos,
                pad=self.format.pad,
                uniforms=uniforms,
            )
        return self._completions(
            [p for p in prompts for _ in range(k)],
            [i for i in ids for _ in range(k)],
            sampled,
            temperature or 1.0,
        )

    def changed(self) -> None:
        """Say that adapter values moved, so that the sampler merges them again."""
        self._stale = True

    def _merged(self, start: bool) -> Any:
        if start:
            return self.start_reader().model
        if self._sampler is None:
            self._sampler = Merged(self.model, STUDENT)
        elif self._stale:
            self._sampler.refresh()
        self._stale = False
        return self._sampler.model

    def _completions(
        self,
        prompts: list[str],
        prompt_ids: list[list[int]],
        sampled: Sequence[Sampled],
        temperature: float,
    ) -> Completions:
        longest = max(len(s.ids) for s in sampled)
        logps = torch.zeros(len(sampled), longest)
        mask = torch.zeros(len(sampled), longest, dtype=torch.bool)
        for i, s in enumerate(sampled):
            logps[i, : len(s.ids)] = torch.tensor(s.logps)
            mask[i, : len(s.ids)] = True
        return Completions(
            prompts,
            [self.format.decode_joke(s.ids) for s in sampled],
            prompt_ids,
            [s.ids for s in sampled],
            [s.finished for s in sampled],
            logps,
            mask,
            temperature,
        )

    # ---- log-probabilities and values

    def micro_batches(self, completions: Completions, rows: Sequence[int]) -> list[list[int]]:
        """Split `rows` into micro-batches that keep groups together and pad little."""
        parts = chunks(
            [completions.prompt_ids[i] for i in rows],
            [completions.joke_ids[i] for i in rows],
            tokens=MICRO_TOKENS,
        )
        return [[rows[i] for i in part] for part in parts]

    def token_stats(
        self, completions: Completions, rows: Sequence[int], *, entropy_gradient: bool = False
    ) -> TokenStats:
        """Log-probabilities at the sampling temperature, entropies and values of some rows.

        The logits exist only at joke positions: (tokens, V), never (B, T, V).

        Args:
            completions: the jokes.
            rows: of them.
            entropy_gradient: let entropies carry gradient, at the memory of one more (tokens, V).

        Returns:
            Tensors of shape (len(rows), T) with T of `completions`.
        """
        batch = pack(
            [completions.prompt_ids[i] for i in rows],
            [completions.joke_ids[i] for i in rows],
            pad=self.format.pad,
        )
        hidden = self._joke_hidden(batch.ids, batch.positions, batch.mask)
        hidden = hidden.flatten(0, 1)[batch.predictors.to(hidden.device)]  # (N, H)
        bare = self.model.get_base_model()
        logits = bare.get_output_embeddings()(hidden).float() / completions.temperature
        targets = batch.targets.to(logits.device)
        normaliser = logits.logsumexp(-1)
        logps = logits.gather(1, targets[:, None])[:, 0] - normaliser
        with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
            entropy = normaliser - (logits.softmax(-1) * logits).sum(-1)
        where = (batch.jokes, batch.offsets)
        shape = (len(rows), completions.mask.shape[1])
        values = None
        if self.value_head is not None:
            # the head reads, it does not steer: no gradient into the student
            flat = self.value_head(hidden.detach().float())[:, 0]
            values = _scatter(flat, where, shape)
        return TokenStats(_scatter(logps, where, shape), _scatter(entropy, where, shape), values)

    def token_logps(self, completions: Completions) -> Tensor:
        """(B, T) nats of all jokes at the sampling temperature, without gradient."""
        out = torch.zeros(completions.mask.shape)
        rows = list(range(len(completions.jokes)))
        with torch.no_grad():
            for part in self.micro_batches(completions, rows):
                out[part] = self.token_stats(completions, part).logps.cpu()
        return out

    def reference_logps(self, completions: Completions) -> Tensor:
        """(B, T) nats of all jokes under the frozen start student, at the same temperature."""
        reader = self.start_reader(temperature=completions.temperature)
        at = reader.temperatures.index(completions.temperature)
        readings = reader.read(completions.prompt_ids, completions.joke_ids)
        out = torch.zeros(completions.mask.shape)
        for i, reading in enumerate(readings):
            out[i, : reading.logps.shape[1]] = reading.logps[at]
        return out

    def _joke_hidden(self, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Last hidden states (R, L, H); the one place an encoder-decoder student would differ."""
        bare = self.model.get_base_model()
        device = bare.get_input_embeddings().weight.device
        amp = bare.dtype if bare.dtype != torch.float32 else None
        with torch.autocast(device.type, dtype=amp or torch.bfloat16, enabled=amp is not None):
            out = bare.get_decoder()(
                input_ids=ids.to(device),
                position_ids=positions.to(device),
                attention_mask=mask.to(device),
                use_cache=False,
            )
        hidden: Tensor = out.last_hidden_state
        return hidden

    # ---- frozen models beside it

    def start_reader(
        self, *, layers: Sequence[int] | None = None, temperature: float | None = None
    ) -> Reader:
        """The frozen start student as a `Reader`, shared by reference and critics.

        Asking for layers or a temperature it does not serve yet widens it and forgets its answers.
        """
        if not hasattr(self, "_reader"):
            self._reader = Reader(Merged(self.model, REFERENCE).model, pad=self.format.pad)
        self._reader.serve(layers or (), () if temperature is None else (temperature,))
        return self._reader

    def base_reader(self, *, layers: Sequence[int]) -> Reader:
        """The bare base as a `Reader`; its weights are shared, not copied."""
        return Reader(Merged(self.model, None).model, layers=layers, pad=self.format.pad)

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """Within, the frozen start student answers `token_stats`."""
        self.model.set_adapter(REFERENCE)
        try:
            yield
        finally:
            self.model.set_adapter(STUDENT)

    # ---- training, saving

    def trainable(self, *, last_layers: int | None = None) -> dict[str, nn.Parameter]:
        """The parameters of the student adapter by name (those of the last layers if asked)."""
        return adapter_parameters(self.model, STUDENT, last_layers=last_layers)

    def adapter_values(self) -> dict[str, Tensor]:
        """A copy of the student adapter's values by parameter name."""
        return {name: p.detach().clone() for name, p in self.trainable().items()}

    @contextlib.contextmanager
    def with_values(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """Within, the student adapter holds `values`; afterwards its own again."""
        parameters, own = self.trainable(), self.adapter_values()
        if all(torch.equal(own[name], values[name]) for name in own):
            yield  # the sampler's merged copy may stand
            return
        self._set_values(parameters, values)
        try:
            yield
        finally:
            self._set_values(parameters, own)

    def _set_values(
        self, parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]
    ) -> None:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(values[name])
        self.changed()

    def training(
        self, parameters: dict[str, nn.Parameter]
    ) -> contextlib.AbstractContextManager[None]:
        """Within, exactly `parameters` require gradients."""
        return only_trains(self.model, parameters)

    def add_value_head(self) -> nn.Linear:
        """A zero head (the first values are 0, not noise), outside PEFT."""
        hidden = int(self.model.config.hidden_size)
        device = self.model.get_base_model().get_input_embeddings().weight.device
        self.value_head = nn.Linear(hidden, 1).to(device)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        return self.value_head

    def save(self, folder: Path) -> None:
        """Write the student adapter as a PEFT folder with the hash of its base."""
        save_adapter(self.model, STUDENT, folder, base=self.base, format_kind=self.format.kind)

    def load_adapter(self, folder: Path) -> None:
        """Replace the student adapter's values by those of a folder.

        Raises:
            ValueError: another base, truncated, or other shapes.
        """
        _, tensors = read_adapter(folder, self.base)
        set_adapter_values(self.model, STUDENT, tensors)
        self.changed()

    def export(self, folder: Path) -> None:
        """Write a merged Hugging Face folder that plain `transformers` loads."""
        import copy

        merged = copy.deepcopy(Merged(self.model, STUDENT).model)
        merged.save_pretrained(folder)
        self.base.tokenizer.save_pretrained(folder)


def _scatter(flat: Tensor, where: tuple[Tensor, Tensor], shape: tuple[int, int]) -> Tensor:
    at = tuple(w.to(flat.device) for w in where)
    return flat.new_zeros(shape).index_put(at, flat)


def _tuned(adapter: Path) -> float:
    """The start's best decoding temperature as its manifest says; greedy where it says nothing."""
    return float(adapter_manifest(adapter).get("tuned_temperature", 0.0))


def _peft_base(folder: Path) -> str:
    import json

    return str(json.loads((folder / CONFIG_FILE).read_text())["base_model_name_or_path"])
