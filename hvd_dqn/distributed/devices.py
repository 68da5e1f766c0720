"""Selection of a rank's GPU."""

from __future__ import annotations

import torch

from hvd_dqn.common.errors import UserError


def select_device(name: str, local_rank: int) -> torch.device:
    """Return the device for `auto`, `cpu` or `cuda`. `auto` is the GPU of this local rank if there
    is one; ranks share GPUs if there are fewer GPUs than ranks.

    Call this before any other CUDA call. Raises `UserError` for `cuda` without a GPU.
    """
    index = gpu_index(local_rank)
    if name == "cuda" and index is None:
        raise UserError(
            "device = 'cuda', but torch finds no GPU", "see hvd-dqn doctor, or choose auto"
        )
    if name == "cpu" or index is None:
        return torch.device("cpu")
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


def describe_device(device: torch.device) -> str:
    """Return the device's name for messages; a GPU's with its model."""
    if device.type != "cuda":
        return str(device)
    return f"{device} {torch.cuda.get_device_name(device)}"


def gpu_index(local_rank: int) -> int | None:
    """Return the index of a local rank's GPU among those visible to this process, if any."""
    return local_rank % torch.cuda.device_count() if torch.cuda.is_available() else None


def gpu_name(local_rank: int) -> str | None:
    """Return the UUID of a local rank's GPU, which is unique over hosts, if there is a GPU."""
    index = gpu_index(local_rank)
    return None if index is None else str(torch.cuda.get_device_properties(index).uuid)
