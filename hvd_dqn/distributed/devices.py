"""Which GPU a rank uses."""

from __future__ import annotations

import torch

from hvd_dqn.common.errors import UserError


def select_device(name: str, local_rank: int) -> torch.device:
    """`auto` is this local rank's GPU where there is one; ranks share GPUs where there are fewer.

    Before any other CUDA call. `UserError` where `cuda` is asked for and not there.
    """
    index = gpu_index(local_rank)
    if name == "cuda" and index is None:
        raise UserError(
            "device = 'cuda', but torch sees no GPU", "see hvd-dqn doctor, or choose auto"
        )
    if name == "cpu" or index is None:
        return torch.device("cpu")
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


def describe_device(device: torch.device) -> str:
    """For people: a GPU with its name."""
    if device.type != "cuda":
        return str(device)
    return f"{device} {torch.cuda.get_device_name(device)}"


def gpu_index(local_rank: int) -> int | None:
    """The GPU of a local rank among those that this process sees."""
    return local_rank % torch.cuda.device_count() if torch.cuda.is_available() else None


def gpu_name(local_rank: int) -> str | None:
    """A name of that GPU which no other GPU of any host has."""
    index = gpu_index(local_rank)
    return None if index is None else str(torch.cuda.get_device_properties(index).uuid)
