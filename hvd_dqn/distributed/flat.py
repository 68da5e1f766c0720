"""A network as one tensor, and the one buffer that an update travels in."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

# Four pieces of six bits from the top of a 64-bit digest: few enough that N·Σx² is exact in
# float32.
_DIGEST_SHIFTS = (58, 52, 46, 40)
_DIGEST_MASK = 63
_DIGEST_MIXER = -7046029254386353131  # 2⁶⁴ / golden ratio, odd, as a signed integer
_TAIL = 5 + 2 * len(_DIGEST_SHIFTS)


class FlatParameters:
    """All parameters of a module as views into one contiguous float32 tensor, `values` [P]."""

    def __init__(self, module: nn.Module) -> None:
        self._parameters = list(module.parameters())
        self.values = torch.cat([parameter.detach().reshape(-1) for parameter in self._parameters])
        for parameter, view in zip(self._parameters, self._views(self.values), strict=True):
            parameter.data = view

    def put_gradients_into(self, gradients: Tensor) -> None:
        """From now on `backward` adds to `gradients` [P]."""
        for parameter, view in zip(self._parameters, self._views(gradients), strict=True):
            parameter.grad = view

    def _views(self, flat: Tensor) -> list[Tensor]:
        sizes = [parameter.numel() for parameter in self._parameters]
        return [
            part.view_as(parameter)
            for part, parameter in zip(torch.split(flat, sizes), self._parameters, strict=True)
        ]


class Agreement(NamedTuple):
    """What all ranks know after an update's sum: the same values on each of them."""

    loss: float
    abs_td_error: float
    value: float
    nonfinite_ranks: int
    nonfinite_rank_sum: int
    parameters_equal: bool


class UpdateBuffer:
    """Gradients [P] and, behind them, what ranks must agree on: one tensor, one sum, one collective
    an update.

    Summed, not averaged, so that the control values stay exact small integers in float32 (up to
    4,096 ranks).
    """

    name = "update"

    def __init__(self, parameters: FlatParameters, *, rank: int, world_size: int) -> None:
        size = parameters.values.numel()
        self._rank = rank
        self._world_size = world_size
        self._parameters = parameters
        self.tensor = parameters.values.new_zeros(size + _TAIL)
        self.gradients = self.tensor[:size]
        self._tail = self.tensor[size:]
        self._shifts = torch.tensor(_DIGEST_SHIFTS, device=self.tensor.device)
        generator = torch.Generator().manual_seed(size)
        odd = 2 * torch.randint(2**30, (size,), generator=generator, dtype=torch.int32) + 1
        self._multipliers = odd.to(self.tensor.device)
        parameters.put_gradients_into(self.gradients)

    def write_control(self, *, loss: Tensor, abs_td_error: Tensor, value: Tensor) -> None:
        """Fill the tail with this rank's scalars, after backward and before the sum."""
        nonfinite = (~torch.isfinite(loss + self.gradients.sum())).float()
        digest = (self._digest() >> self._shifts) & _DIGEST_MASK
        head = torch.stack((loss, abs_td_error, value, nonfinite, nonfinite * self._rank))
        torch.cat((head, digest, digest * digest), out=self._tail)

    def _digest(self) -> Tensor:
        """A hash of the parameters' bits as one int64: each word times an odd number of its place,
        so that every bit and every exchange of two words counts; then mixed, so that the bits
        shifted out of it depend on all of them.
        """
        words = self._parameters.values.view(torch.int32)
        return (words * self._multipliers).sum() * _DIGEST_MIXER

    def read_control(self) -> Agreement:
        """The tail after the sum. On a GPU this waits for it."""
        loss, abs_td_error, value, nonfinite, nonfinite_rank, *digest = self._tail.tolist()
        sums, squares = digest[: len(_DIGEST_SHIFTS)], digest[len(_DIGEST_SHIFTS) :]
        ranks = self._world_size
        # All x equal ⇔ N·Σx² = (Σx)² (Cauchy–Schwarz), and every term here is exact.
        equal = all(
            ranks * square == total * total for total, square in zip(sums, squares, strict=True)
        )
        return Agreement(
            loss / ranks,
            abs_td_error / ranks,
            value / ranks,
            int(nonfinite),
            int(nonfinite_rank),
            equal,
        )
