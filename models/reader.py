"""The frozen start student read once: token log-probabilities and hidden states of given jokes.

The reference of PPO and the embedded critics ask the same model about the same tokens; `Reader`
answers both from one pass and keeps the last answers by content.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.packed import chunks, pack

CHUNK_TOKENS = 1536
"""Padded tokens a forward pass: large enough for full matrices, small enough for caches."""


HEAD_TOKENS = 512
"""Tokens whose logits exist at once: 100 MB of them in fp32 for a vocabulary of 49,152."""


class Reading(NamedTuple):
    """What the frozen model says about one joke of T tokens (its end token included)."""

    logps: Tensor  # (temperatures, T) log p of each token at each temperature, nats
    states: Tensor  # (T, layers, hidden) hidden states at the joke's own tokens


class Reader:
    """A frozen causal LM that is asked about (prompt, joke) token ids.

    Args:
        model: a Hugging Face causal LM, adapters merged; not changed.
        layers: hidden states to return, 1 = after the first layer, the last after the final norm.
        temperatures: softmax temperatures of the log-probabilities.
        pad: token id for padding.
        keep: how many readings are kept for a second question.
    """

    def __init__(
        self,
        model: Any,
        *,
        layers: Sequence[int] = (),
        temperatures: Sequence[float] = (1.0,),
        pad: int = 0,
        keep: int = 512,
    ) -> None:
        self.model = model.eval()
        self.layers = tuple(layers)
        self.temperatures = tuple(temperatures)
        self._pad = pad
        self._keep = keep
        self._readings: OrderedDict[tuple[tuple[int, ...], tuple[int, ...]], Reading] = (
            OrderedDict()
        )

    def serve(self, layers: Sequence[int], temperatures: Sequence[float]) -> None:
        """Return these layers and temperatures too; what was kept without them is forgotten."""
        new_layers = tuple(sorted({*self.layers, *layers}))
        new_temperatures = tuple(sorted({*self.temperatures, *temperatures}))
        if (new_layers, new_temperatures) != (self.layers, self.temperatures):
            self.layers, self.temperatures = new_layers, new_temperatures
            self.forget()

    def forget(self) -> None:
        """Drop all kept readings.

        A trainer calls this at every checkpoint: a resumed run starts without readings, and the
        packing of a pass (hence its last bit) depends on what is kept.
        """
        self._readings.clear()

    def read(
        self, prompts: Sequence[Sequence[int]], jokes: Sequence[Sequence[int]]
    ) -> list[Reading]:
        """Read each joke after its prompt; equal questions are computed once.

        Raises:
            ValueError: lengths differ, or an empty prompt or joke.
        """
        keys = [(tuple(p), tuple(j)) for p, j in zip(prompts, jokes, strict=True)]
        new = [key for key in dict.fromkeys(keys) if key not in self._readings]
        answers = {key: self._readings[key] for key in keys if key in self._readings}
        new_prompts, new_jokes = [key[0] for key in new], [key[1] for key in new]
        for part in chunks(new_prompts, new_jokes, tokens=CHUNK_TOKENS) if new else []:
            read = self._forward([new_prompts[i] for i in part], [new_jokes[i] for i in part])
            answers.update({new[i]: reading for i, reading in zip(part, read, strict=True)})
        for key in keys:
            self._readings[key] = answers[key]
            self._readings.move_to_end(key)
        while len(self._readings) > self._keep:
            self._readings.popitem(last=False)
        return [answers[key] for key in keys]

    @torch.inference_mode()
    def _forward(
        self, prompts: list[tuple[int, ...]], jokes: list[tuple[int, ...]]
    ) -> list[Reading]:
        device = self.model.get_input_embeddings().weight.device
        batch = pack(prompts, jokes, pad=self._pad)
        out = self.model.get_decoder()(
            input_ids=batch.ids.to(device),
            attention_mask=batch.mask.to(device),
            position_ids=batch.positions.to(device),
            output_hidden_states=bool(self.layers),
            use_cache=False,
        )
        last = out.last_hidden_state.flatten(0, 1)
        predictors, targets = batch.predictors.to(device), batch.targets.to(device)
        logps = torch.cat(
            [
                self._logps(last[some], wanted)
                for some, wanted in zip(
                    predictors.split(HEAD_TOKENS), targets.split(HEAD_TOKENS), strict=True
                )
            ],
            dim=1,
        ).cpu()  # (temperatures, N)
        own = batch.own.to(device)
        states = torch.empty(len(batch.own), 0, last.shape[-1])
        if self.layers:
            n_layers = len(out.hidden_states) - 1
            picked = [
                (last if layer == n_layers else out.hidden_states[layer].flatten(0, 1))[own]
                for layer in self.layers
            ]
            states = torch.stack(picked, dim=1).float().cpu()  # (N, layers, hidden)
        parts: list[Reading] = []
        for i in range(len(jokes)):
            at = batch.jokes == i  # in token order: pack writes a joke's tokens one after another
            parts.append(Reading(logps[:, at], states[at]))
        return parts

    def _logps(self, states: Tensor, targets: Tensor) -> Tensor:
        """(temperatures, n) log p of `targets` (n,) after last hidden states (n, hidden)."""
        logits = self.model.get_output_embeddings()(states).float()
        return torch.stack(
            [
                (logits / t).gather(1, targets[:, None])[:, 0] - (logits / t).logsumexp(-1)
                for t in self.temperatures
            ]
        )
