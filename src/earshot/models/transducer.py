"""The transducer: encoder, predictor, joiner, and CTC heads beside them, over pieces and phones.

Gives the training loss and describes itself as the graphs `encoder`, `predictor`, `joiner`,
`ctc` and `phones` of a `.ear` file. Knows nothing of data, optimisers or files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from earshot.core.errors import ConfigError
from earshot.data.pronunciation import PHONES
from earshot.models.biasing import BiasConfig, PhraseBatch, PhraseBias
from earshot.models.encoder import EncoderConfig, LstmEncoder
from earshot.models.graph import GraphBuilder, GraphTensor
from earshot.models.loss import merged_transducer_loss
from earshot.models.predictor import LstmPredictor, PredictorConfig, StatelessPredictor
from earshot.models.rival_loss import RivalBatch, RivalLossConfig, rival_loss
from earshot.models.second_pass import SecondPass, SecondPassConfig

BLANK_ID = 0
UNK_ID = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TransducerConfig:
    """Shape of the whole network and weights of its losses."""

    vocab_size: int = 384
    joiner_width: int = 192
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    ctc_weight: float = 0.3
    phones: bool = False  # a second CTC head over phones, for grammars
    phone_weight: float = 1.0
    one_symbol_per_frame: bool = True  # the loss allows what the search allows
    fastemit_lambda: float = 0.0
    bias: BiasConfig = field(default_factory=BiasConfig)
    guide_weight: float = 0.3  # of the biasing attention's guide, see `models.biasing`
    second_pass: SecondPassConfig = field(default_factory=SecondPassConfig)
    rivals: RivalLossConfig = field(default_factory=RivalLossConfig)

    def __post_init__(self) -> None:
        if self.bias.phones and not self.phones:
            raise ConfigError(
                f"model.bias.phones is {self.bias.phones}, but the model hears no phones. "
                "Set model.phones = true, or model.bias.phones = 0."
            )
        if self.second_pass.layers and not self.phones:
            raise ConfigError(
                f"model.second_pass.layers is {self.second_pass.layers}, but the model hears no "
                "phones. Set model.phones = true, or model.second_pass.layers = 0."
            )


@dataclass(frozen=True, slots=True)
class Losses:
    """Losses of one batch in nats per piece, of `phones` per phone; `total` is minimised."""

    total: Tensor
    transducer: Tensor
    ctc: Tensor
    phones: Tensor  # 0 without the head
    guide: Tensor  # per guided place; 0 without phrases
    second_pass: Tensor  # as `phones`
    rivals: Tensor  # per clip that has any; 0 without


class Transducer(nn.Module):
    """Streaming transducer (RNN-T) with an auxiliary CTC head on the encoder.

    Source:
        Graves, "Sequence transduction with recurrent neural networks", 2012.
    """

    def __init__(self, config: TransducerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = LstmEncoder(config.encoder)
        self.encoder_out = nn.Linear(config.encoder.hidden, config.joiner_width)
        kind = StatelessPredictor if config.predictor.type == "stateless" else LstmPredictor
        self.predictor = kind(
            config.predictor, vocab_size=config.vocab_size, joiner_width=config.joiner_width
        )
        self.joiner = nn.Linear(config.joiner_width, config.vocab_size)
        self.ctc = nn.Linear(config.encoder.hidden, config.vocab_size)
        self.phones = nn.Linear(config.encoder.hidden, len(PHONES) + 1) if config.phones else None
        self.second_pass: SecondPass | None = None
        if config.second_pass.layers:
            self.second_pass = SecondPass(
                config.second_pass, hidden=config.encoder.hidden, outputs=len(PHONES) + 1
            )
        self.bias: PhraseBias | None = None
        if config.bias.query != "none":
            self.bias = PhraseBias(
                config.bias,
                vocab_size=config.vocab_size,
                encoder_width=config.encoder.hidden,
                joiner_width=config.joiner_width,
            )

    def forward(
        self,
        features: Tensor,
        feature_lengths: Tensor,
        labels: Tensor,
        label_lengths: Tensor,
        *,
        phones: Tensor,
        phone_lengths: Tensor,
        with_transducer: bool = True,
        phrases: PhraseBatch | None = None,
        rivals: RivalBatch | None = None,
    ) -> Losses:
        """Losses of a padded batch.

        Args:
            features: (B, T, num_bins) log-mel, padded by repeating each one's last frame.
            feature_lengths: (B,) frames of 10 ms.
            labels: (B, U) piece ids, int64, padded with anything.
            label_lengths: (B,).
            phones: (B, P) phone ids, int64, padded with anything; unused without the head.
            phone_lengths: (B,).
            with_transducer: Whether to compute the transducer's loss, about half of a step's time;
                it is 0 without.
            phrases: The list that all clips of the batch are heard with; None: no list.
            rivals: What could have been said instead, for a network with phones; None: no such
                loss.

        Returns:
            Losses, each summed over the batch and divided by the number of its labels; of rivals
            the mean over the clips that have any.
        """
        hidden = self.encoder(features)
        stack = self.config.encoder.stack
        frames = (feature_lengths + stack - 1) // stack
        transducer = guide = torch.zeros((), device=hidden.device)
        if with_transducer:
            encoded, predicted = self.encoder_out(hidden), self.predictor(labels)
            if self.bias is not None and phrases is not None:
                encoded, predicted, guide = self.bias(hidden, encoded, predicted, labels, phrases)
            loss = merged_transducer_loss(
                encoded,
                predicted,
                self.joiner.weight,
                self.joiner.bias,
                labels,
                frames,
                label_lengths,
                one_symbol_per_frame=self.config.one_symbol_per_frame,
                fastemit_lambda=self.config.fastemit_lambda,
            )
            transducer = loss / label_lengths.sum().clamp_min(1)
        ctc = _ctc_loss(self.ctc(hidden), frames, labels, label_lengths)
        total = transducer + self.config.ctc_weight * ctc + self.config.guide_weight * guide
        phone = second = rival = torch.zeros((), device=hidden.device)
        if self.phones is not None:
            logits = self.phones(hidden)
            phone = _ctc_loss(logits, frames, phones, phone_lengths)
            total = total + self.config.phone_weight * phone
            if self.second_pass is not None:
                again = self.second_pass(hidden, frames)
                second = _ctc_loss(again, frames, phones, phone_lengths)
                total = total + self.config.second_pass.weight * second
                # As the search for commands mixes them.
                logits = (logits.float() + again.float()) / 2
            if rivals is not None:
                rival = rival_loss(
                    logits,
                    frames,
                    phones,
                    phone_lengths,
                    rivals,
                    blank=BLANK_ID,
                    config=self.config.rivals,
                )
                total = total + self.config.rivals.weight * rival
        return Losses(
            total,
            transducer.detach(),
            ctc.detach(),
            phone.detach(),
            guide.detach(),
            second.detach(),
            rival.detach(),
        )

    @torch.no_grad()
    def greedy_search(
        self, features: Tensor, *, max_symbols_per_frame: int = 1
    ) -> tuple[list[int], list[int]]:
        """Decode one utterance piece by piece, for validation and as the engine's oracle.

        Args:
            features: (T, num_bins) log-mel.
            max_symbols_per_frame: Cap on pieces per 40 ms frame.

        Returns:
            Piece ids and the encoder frame each was emitted at.
        """
        encoded = self.encoder_out(self.encoder(features[None]))[0]
        tokens: list[int] = []
        emitted: list[int] = []
        predicted = self._predict_after(tokens)
        for frame, vector in enumerate(encoded):
            for _ in range(max_symbols_per_frame):
                logits = self.joiner(torch.tanh(vector + predicted))
                logits[UNK_ID] = -torch.inf
                best = int(logits.argmax())
                if best == BLANK_ID:
                    break
                tokens.append(best)
                emitted.append(frame)
                predicted = self._predict_after(tokens)
        return tokens, emitted

    def _predict_after(self, tokens: list[int]) -> Tensor:
        context = self.config.predictor.context_size
        # A stateless predictor needs its context only; the first rows of a truncated history
        # would see zeros instead of pieces, but only the last row is read.
        history = tokens[-context:] if self.config.predictor.type == "stateless" else tokens
        labels = torch.tensor([history], dtype=torch.int64, device=self.joiner.weight.device)
        return self.predictor(labels)[0, -1]

    def graphs(self) -> tuple[dict[str, Any], dict[str, GraphTensor]]:
        """Describe the network as `.ear` graphs.

        Returns:
            Graph name to its JSON form, and tensor name to tensor, for all graphs.
        """
        encoder = GraphBuilder("encoder", ["x"])
        hidden = self.encoder.describe(encoder)
        encoder.linear(hidden, self.encoder_out, out="encoder_out")
        predictor = GraphBuilder("predictor", ["y"])
        self.predictor.describe(predictor)
        joiner = GraphBuilder("joiner", ["encoder_out", "predictor_out"])
        total = joiner.node("add", ["encoder_out", "predictor_out"])
        joiner.linear(joiner.node("tanh", [total]), self.joiner, out="logits")
        ctc = GraphBuilder("ctc", ["hidden"])
        ctc.node("log_softmax", [ctc.linear("hidden", self.ctc)], out="log_probs")
        builders = [encoder, predictor, joiner, ctc]
        if self.phones is not None:
            phones = GraphBuilder("phones", ["hidden"])
            phones.node("log_softmax", [phones.linear("hidden", self.phones)], out="log_probs")
            builders.append(phones)
        if self.second_pass is not None:
            second = GraphBuilder("second_pass", ["hidden"])
            self.second_pass.describe(second)
            builders.append(second)
        outputs = {
            "encoder": ["encoder_out", "hidden"],
            "predictor": ["predictor_out"],
            "joiner": ["logits"],
            "ctc": ["log_probs"],
            "phones": ["log_probs"],
            "second_pass": ["log_probs"],
        }
        if self.bias is not None:
            for builder, made in self.bias.describe():
                builders.append(builder)
                outputs[builder.name] = made
        graphs = {b.name: b.as_json(outputs[b.name]) for b in builders}
        tensors = {name: t for b in builders for name, t in b.tensors.items()}
        return graphs, tensors


def _ctc_loss(logits: Tensor, frames: Tensor, labels: Tensor, label_lengths: Tensor) -> Tensor:
    """CTC loss in nats per label.

    Args:
        logits: (B, T, V).
        frames: (B,).
        labels: (B, U).
        label_lengths: (B,).
    """
    loss = functional.ctc_loss(
        functional.log_softmax(logits.float(), dim=-1).transpose(0, 1),
        labels,
        frames,
        label_lengths,
        blank=BLANK_ID,
        reduction="sum",
        zero_infinity=True,
    )
    return loss / label_lengths.sum().clamp_min(1)
