"""Layers that change between updates: noise, dropout, spectral normalisation.

`QNetwork` calls `prepare` of each before an update and before acting.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional


class ChangingLayer(nn.Module, ABC):
    """A layer with state besides its parameters."""

    @abstractmethod
    def prepare(self, generator: Generator | None, *, learning: bool) -> None:
        """Draw a new state from `generator`; without a generator, take the deterministic state.
        `learning`: an update follows.
        """


class NoisyLinear(ChangingLayer):
    """y = (μᵂ + σᵂ ⊙ εᵂ) x + μᵇ + σᵇ ⊙ εᵇ with factorised Gaussian noise (Fortunato et al. 2018,
    section 3).

    Parameters are the same on all ranks; each rank has its own noise.
    """

    noise_in: Tensor
    noise_out: Tensor

    def __init__(self, fan_in: int, fan_out: int, *, sigma: float) -> None:
        super().__init__()
        bound = 1 / math.sqrt(fan_in)
        self.weight = nn.Parameter(torch.empty(fan_out, fan_in).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(fan_out).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((fan_out, fan_in), sigma * bound))
        self.bias_sigma = nn.Parameter(torch.full((fan_out,), sigma * bound))
        self.register_buffer("noise_in", torch.zeros(fan_in), persistent=False)
        self.register_buffer("noise_out", torch.zeros(fan_out), persistent=False)

    def prepare(self, generator: Generator | None, *, learning: bool) -> None:
        """Draw noise; without a generator, set it to 0."""
        for noise in (self.noise_in, self.noise_out):
            if generator is None:
                noise.zero_()
            else:
                noise.normal_(generator=generator)
                noise.copy_(noise.sign() * noise.abs().sqrt())  # f(x) = sgn(x)·√|x|

    def forward(self, features: Tensor) -> Tensor:
        """Map features [B, fan_in] to [B, fan_out]."""
        weight = self.weight + self.weight_sigma * torch.outer(self.noise_out, self.noise_in)
        return functional.linear(features, weight, self.bias + self.bias_sigma * self.noise_out)


class Dropout(ChangingLayer):
    """Zeroes each feature with probability `share` in updates and scales up the others (Srivastava
    et al. 2014). Unlike torch's, it draws from the generator that `prepare` gets.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self._keep = 1 - share
        self._generator: Generator | None = None

    def prepare(self, generator: Generator | None, *, learning: bool) -> None:
        """Drop features only if an update follows."""
        self._generator = generator if learning else None

    def forward(self, features: Tensor) -> Tensor:
        """Input and output are [B, F]."""
        if self._generator is None:
            return features
        kept = torch.empty_like(features).bernoulli_(self._keep, generator=self._generator)
        return features * kept / self._keep


class SpectralConv2d(ChangingLayer):
    """A convolution whose kernel, as a matrix [out, in·h·w], is divided by its largest singular
    value (Miyato et al. 2018, algorithm 1), with one step of power iteration per update.
    """

    left: Tensor
    right: Tensor

    def __init__(self, channels_in: int, channels_out: int, kernel_size: int, padding: int) -> None:
        super().__init__()
        convolution = nn.Conv2d(channels_in, channels_out, kernel_size, padding=padding)
        self.weight, self.bias = convolution.weight, convolution.bias
        self._padding = padding
        matrix = self.weight.detach().flatten(1)
        self.register_buffer("left", functional.normalize(torch.randn(matrix.shape[0]), dim=0))
        self.register_buffer("right", functional.normalize(matrix.t() @ self.left, dim=0))
        for _ in range(15):
            self._iterate()

    def prepare(self, generator: Generator | None, *, learning: bool) -> None:
        """Iterate if an update follows; acting and evaluation use the value of the last update."""
        if learning:
            self._iterate()

    @torch.no_grad()
    def _iterate(self) -> None:
        matrix = self.weight.flatten(1)
        self.left.copy_(functional.normalize(matrix @ self.right, dim=0))
        self.right.copy_(functional.normalize(matrix.t() @ self.left, dim=0))

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] to [B, C′, H, W]."""
        largest = self.left @ (self.weight.flatten(1) @ self.right)
        return functional.conv2d(images, self.weight / largest, self.bias, padding=self._padding)
