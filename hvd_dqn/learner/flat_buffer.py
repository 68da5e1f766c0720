"""A network as one tensor, and the one buffer that an update sums over ranks."""

from __future__ import annotations

import operator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hvd_dqn.common.structs import FRACTIONS, ReplayShare
from hvd_dqn.networks import TensorPlaces

# Four pieces of six bits from the top of a 64-bit digest: small enough that N·Σx² is exact in
# float32.
_DIGEST_SHIFTS = (58, 52, 46, 40)
_DIGEST_MASK = 63
_DIGEST_MIXER = -7046029254386353131  # 2⁶⁴ / golden ratio, odd, as a signed integer
_PIECES = len(_DIGEST_SHIFTS)
_COLUMNS = 128
_gradient_of = operator.attrgetter("grad")


class FlatParameters:
    """All parameters of a module as views of one contiguous float32 tensor, `values` [P].

    The optimizer, sums over ranks and recorded or compiled programs use that memory, and the memory
    of the module's buffers. `hold` makes sure that the module uses it, too.
    """

    def __init__(self, module: nn.Module) -> None:
        self._parameters = list(module.parameters())
        self.values = torch.cat([parameter.detach().reshape(-1) for parameter in self._parameters])
        for parameter, view in zip(self._parameters, self._views(self.values), strict=True):
            parameter.data = view
        self._places = TensorPlaces(module)
        self._held = [tensor.detach() for tensor in self._places.tensors()]
        self._addresses = self._places.addresses()
        # `.grad` of the first places, which are the parameters', and other views of that memory
        self._gradients: list[Tensor] = []
        self._held_gradients: list[Tensor] = []

    def put_gradients_into(self, gradients: Tensor) -> None:
        """Make the parameters' `.grad` views of `gradients` [P]."""
        tensors = self._places.tensors()
        views = dict(zip(map(id, self._parameters), self._views(gradients), strict=True))
        self._gradients = [views[id(tensor)] for tensor in tensors if id(tensor) in views]
        self._held_gradients = [gradient.detach() for gradient in self._gradients]
        self._put_gradients_back(tensors)

    def hold(self) -> None:
        """If a parameter or buffer was moved or replaced, take its new values and put it back into
        this memory; the same for gradients. Takes a few microseconds for a small network.

        Raises `RuntimeError` if it has another type, shape or device than before, or if a layer of
        the module was replaced.
        """
        tensors = self._places.tensors()
        if list(map(Tensor.data_ptr, tensors)) != self._addresses:
            self._put_tensors_back(tensors)
            self._put_gradients_back(tensors)
        elif any(map(operator.is_not, map(_gradient_of, tensors), self._gradients)):
            self._put_gradients_back(tensors)

    @torch.no_grad()
    def _put_tensors_back(self, tensors: list[Tensor]) -> None:
        for name, tensor, held in zip(self._places.names, tensors, self._held, strict=True):
            now, before = ((t.dtype, tuple(t.shape), t.device) for t in (tensor, held))
            if now != before:
                raise RuntimeError(
                    f"{name} of a network that is being trained is {_described(*now)}, and was "
                    f"{_described(*before)}: do not convert or move the network during a run"
                )
            if tensor.data_ptr() != held.data_ptr():
                held.copy_(tensor)
                tensor.data = held

    def _put_gradients_back(self, tensors: list[Tensor]) -> None:
        for tensor, gradient, held in zip(
            tensors, self._gradients, self._held_gradients, strict=False
        ):
            gradient.data = held  # `module.to` moves gradients together with parameters
            tensor.grad = gradient

    def _views(self, flat: Tensor) -> list[Tensor]:
        sizes = [parameter.numel() for parameter in self._parameters]
        return [
            part.view_as(parameter)
            for part, parameter in zip(torch.split(flat, sizes), self._parameters, strict=True)
        ]


def _described(dtype: torch.dtype, shape: tuple[int, ...], device: torch.device) -> str:
    return f"{str(dtype).removeprefix('torch.')} {list(shape)} on {device}"


class Agreement(NamedTuple):
    """What all ranks know after a sum; equal on every rank.

    loss, abs_td_error and value are means over ranks; nonfinite_ranks counts the ranks with a
    number that is not finite, and nonfinite_rank_sum adds up their rank numbers; stops counts the
    ranks that were asked to stop; mass and weight_floor are those of one replay with the
    transitions of all ranks (`one_replay`); norm is the L2 norm of the summed payload.
    """

    loss: float
    abs_td_error: float
    value: float
    nonfinite_ranks: int
    nonfinite_rank_sum: int
    stops: int
    parameters_equal: bool
    mass: float
    weight_floor: float
    norm: float


class SumBuffer:
    """A payload [size] followed by control values: one tensor, one sum, one collective.

    It is summed, not averaged, so that the control values stay exact small integers in float32 (up
    to 4,096 ranks). With `shares`, each rank has entries for its `ReplayShare`, to which the others
    add zero, so that they are exact as well. `moments` [M] of observations come last.
    """

    name = "update"

    def __init__(
        self,
        like: Tensor,
        size: int,
        *,
        rank: int,
        world_size: int,
        shares: bool,
        num_moments: int = 0,
    ) -> None:
        self._rank = rank
        self._world_size = world_size
        self._has_shares = shares
        places = (1 + len(FRACTIONS)) * world_size if shares else 0
        sizes = [size, 1 + 5 + 2 * _PIECES, places, num_moments]
        self.tensor = like.new_zeros(sum(sizes))
        self.payload, self._control, self._shares, self.moments = torch.split(self.tensor, sizes)
        self._fractions = like.new_tensor(FRACTIONS).unsqueeze(1)
        self._equal_shares = like.new_tensor((world_size, 1.0))
        self._stop, self._rest = torch.split(self._control, [1, len(self._control) - 1])
        self._own_share = self._shares[rank::world_size]
        # The same memory as arrays, if on the host: NumPy takes half of torch's time here.
        on_host = like.device.type == "cpu"
        self._on_host = self._control.numpy() if on_host else None
        self._own_share_on_host = self._own_share.numpy() if on_host else None

    def write_control(
        self, numbers: Tensor, digest: Tensor, share: ReplayShare, *, stop: bool
    ) -> None:
        """Write this rank's control values before the sum.

        numbers [4]: the means of loss, |TD error| and value, and 1 if anything is not finite, else
        0; digest [8] of the parameters; the share of its replay; stop: whether it was asked to
        stop.
        """
        if self._on_host is not None:
            control = self._on_host
            control[0] = stop
            control[1:5] = numbers.numpy()
            control[5] = self._rank * control[4]
            control[6:] = digest.numpy()
        else:
            torch.cat((numbers, self._rank * numbers[3:], digest), out=self._rest)
            self._stop.fill_(float(stop))
        if self._has_shares:
            self._write_share(share)

    def _write_share(self, share: ReplayShare) -> None:
        self._shares.zero_()
        values = share.mass, *share.floors
        if self._own_share_on_host is not None:
            self._own_share_on_host[:] = values
            return
        for place, value in enumerate(values):
            self._own_share[place] = value  # unlike a copy, a fill does not wait for the GPU

    def _norm(self) -> Tensor:
        """Norm [1] of the payload. Sums over prioritised replays are large: their squares may
        overflow float32.
        """
        wide = torch.float64 if self._has_shares else None
        norm: Tensor = torch.linalg.vector_norm(self.payload, dim=0, keepdim=True, dtype=wide)
        return norm

    def without_stop_requests(self) -> Tensor:
        """Return a copy of the tensor in which no rank was asked to stop."""
        copy = self.tensor.clone()
        copy[len(self.payload)] = 0.0
        return copy

    def restore(self, saved: Tensor, ranks: int) -> None:
        """Restore the tensor after a sum over `ranks`. If this run has another number of them, its
        means are the same. A copy from version 0.1.0 has only the first floor of each rank.
        """
        if ranks == self._world_size:
            self.tensor[: len(saved)] = saved
            self.tensor[len(saved) :] = float("inf")
            return
        theirs = SumBuffer(
            self.payload, len(self.payload), rank=0, world_size=ranks, shares=self._has_shares
        )
        theirs.restore(saved, ranks)
        means = theirs.agreement(theirs.numbers())
        self.tensor.zero_()
        self.payload.copy_(theirs.payload)
        self.payload.mul_(self._world_size * means.weight_floor / means.mass)
        for place, mean in enumerate((means.loss, means.abs_td_error, means.value), start=1):
            self._control[place] = self._world_size * mean
        self._shares.fill_(1.0)

    def numbers(self) -> list[float]:
        """Return the norm of the payload, the control values of all ranks, and mass and floor of
        one replay, after the sum. On a GPU this waits once.
        """
        if self._on_host is not None and not self._has_shares:
            return [self._norm().item(), *self._control.tolist(), self._world_size, 1.0]
        numbers: list[float] = self._all_numbers().tolist()
        return numbers

    def _all_numbers(self) -> Tensor:
        return torch.cat((self._norm(), self._control, self._one_replay()))

    def _one_replay(self) -> Tensor:
        if not self._has_shares:
            return self._equal_shares
        if self._world_size == 1:
            return self._shares[:2]
        masses, *floors = self._shares.view(-1, self._world_size)
        return one_replay(masses, torch.stack(floors), self._fractions)

    def unread_numbers(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return on the device, without waiting: all of `numbers` [K], mass / weight_floor [], and
        nonfinite_ranks [].
        """
        numbers = self._all_numbers()
        return numbers, numbers[-2] / numbers[-1], self._control[4]

    def agreement(self, numbers: list[float]) -> Agreement:
        """Return what these `numbers` say."""
        ranks = self._world_size
        norm, stops, loss, abs_td_error, value, nonfinite, nonfinite_rank, *rest = numbers
        sums, squares, (mass, floor) = rest[:_PIECES], rest[_PIECES:-2], rest[-2:]
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
            int(stops),
            equal,
            mass=mass,
            weight_floor=floor,
            norm=norm,
        )


def one_replay(masses: Tensor, floors: Tensor, fractions: Tensor) -> Tensor:
    """Return the mass and the floor [2] of one replay with the transitions of N ranks, for their
    `ReplayShare`: masses [N] and floors [F, N] of the fractions [F, 1].

    The floor is that of a batch of N·B samples from this replay. In it, a rank with the part s of
    the mass has N·s·B samples, so only such a fraction of its own B samples counts; for equal ranks
    the floor is the smallest of all. If all counted, the low priorities of a rank from which one
    replay would hardly draw would make every weight small. Those samples get their own weight all
    the same, times N·s; no such product exceeds 1.
    """
    masses = masses.double()
    mass = masses.sum()
    drawn = (masses * (len(masses) / mass)).clamp(max=1)
    floor = floors.masked_fill(drawn < fractions / 2, float("inf")).min()
    return torch.stack((mass, torch.minimum(floor, (floors[0] / drawn).min())))


class Digest:
    """A hash of a tensor's bits, in four pieces of six bits.

    The 64-bit words are summed over columns; each column's sum is multiplied by its own odd number,
    added and mixed, so that the upper bits depend on all bits. Every changed bit changes the hash;
    changes cancel each other only within a column. One multiplier per word would cost three times
    as much, since the multipliers would have to be read too.
    """

    size = 2 * _PIECES

    def __init__(self, values: Tensor) -> None:
        words = values.view(torch.int32)
        whole = len(words) // (2 * _COLUMNS) * 2 * _COLUMNS
        self._columns = words[:whole].view(torch.int64).view(-1, _COLUMNS)
        self._rest = words[whole:]
        self._shifts = torch.tensor(_DIGEST_SHIFTS, device=values.device)
        generator = torch.Generator().manual_seed(_COLUMNS)
        places = _COLUMNS + len(self._rest)
        odd = 2 * torch.randint(2**62, (places,), generator=generator) + 1
        self._multipliers = odd.to(values.device)

    def __call__(self) -> Tensor:
        """Return the pieces and their squares for the current values, [8] float32."""
        sums = torch.cat((self._columns.sum(dim=0), self._rest))
        mixed = sums.mul_(self._multipliers).sum() * _DIGEST_MIXER
        pieces = ((mixed >> self._shifts) & _DIGEST_MASK).float()
        return torch.cat((pieces, pieces * pieces))
