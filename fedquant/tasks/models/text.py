"""A model of texts: int64[n, length] token numbers, 0 for padding, to logits."""

from __future__ import annotations

import torch
from torch import nn


class BiLSTM(nn.Module):
    """Two bidirectional LSTM layers, their states averaged by self-attention, and two dense layers.

    The attention (one hop) of Lin et al., "A structured self-attentive sentence embedding" (arXiv
    1703.03130), which skips padding; the head of "DQSGD: dynamic quantized stochastic gradient descent"
    (submitted to ICLR 2021), appendix F.
    """

    def __init__(
        self, vocabulary: int = 10_000, dimension: int = 100, hidden: int = 64, classes: int = 4
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, dimension, padding_idx=0)
        self.encoder = nn.LSTM(dimension, hidden, num_layers=2, bidirectional=True, batch_first=True)
        self.attention = nn.Sequential(
            nn.Linear(2 * hidden, hidden, bias=False), nn.Tanh(), nn.Linear(hidden, 1, bias=False)
        )
        self.classifier = nn.Sequential(nn.Linear(2 * hidden, 128), nn.ReLU(), nn.Linear(128, classes))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        states, _ = self.encoder(self.embedding(tokens))
        scores = self.attention(states).squeeze(2)
        # The least float instead of minus infinity: a text without words has a mean, not NaN.
        scores = scores.masked_fill(tokens == 0, torch.finfo(scores.dtype).min)
        sentence = (scores.softmax(dim=1).unsqueeze(1) @ states).squeeze(1)
        logits: torch.Tensor = self.classifier(sentence)
        return logits
