"""Observations that are not one Box: each is packed into one record of bytes with named fields.

Everything behind the environments sees a Box of bytes: frame stack, replay, checkpoints, batches.
The network's first module unpacks the fields.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import numpy as np

from hvd_dqn.common.errors import UserError
from hvd_dqn.spaces.channels import Channels, given_channels

Text = Literal["drop", "tokens"]
"""What becomes of text: it is left out, or becomes hashed words."""
TOKENS, VOCABULARY = 16, 1024
"""Words of a text that are kept, and the number of different tokens; 0 is no word."""
MASK = "action_mask"
"""The field of the legal actions."""
_MOST_BYTES = 64 << 20
_MOST_CHOICES = 2**20
"""Discrete values of more choices are numbers to the network, not categories."""


class Field(NamedTuple):
    """A part of a record: its name, the space of its values, and its bytes.

    dtype: uint8 or float32 for Boxes; for discrete values, numbered from 0, the smallest unsigned
    type.
    """

    name: str
    space: gym.Space[Any]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def choices(self) -> np.ndarray | None:
        """Return the number of values of each element [*shape], or `None` if these are numbers."""
        if isinstance(self.space, gym.spaces.Discrete):
            return np.array([self.space.n])
        if isinstance(self.space, gym.spaces.MultiDiscrete):
            return self.space.nvec.reshape(self.shape)
        return np.full(TOKENS, VOCABULARY) if isinstance(self.space, gym.spaces.Text) else None

    @property
    def start(self) -> np.ndarray:
        """Return the value of each element [*shape] that is stored as 0."""
        return np.broadcast_to(getattr(self.space, "start", 0), self.shape)

    def encode(self, values: Any, count: int | None = None) -> np.ndarray:
        """Return a value of the space as it is stored, [*shape]; `count` values, [N, *shape]."""
        lead: tuple[int, ...] = () if count is None else (count,)
        if isinstance(self.space, gym.spaces.Text):
            return _tokens(values) if count is None else np.stack([_tokens(v) for v in values])
        array = np.asarray(values).reshape(*lead, *self.shape)
        if isinstance(self.space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
            return array - self.space.start
        return array


class RecordSpace(gym.spaces.Box):
    """The space of records of the observations of `source`, as bytes.

    fields: in the order of the bytes; `layout` is the same as NumPy's structured type. frames:
    number of stacked records. If `num_actions` is given, the last field is the mask of the legal
    actions, [A] of 0 and 1. channels: the axis of the channels of images, "first", "last", or
    "auto" to guess it.
    """

    def __init__(
        self,
        source: gym.Space[Any],
        *,
        num_actions: int | None = None,
        text: Text | None = None,
        channels: str = "auto",
        frames: int = 1,
    ) -> None:
        """Raises `SpaceError` if `source` has a part that is not numbers of a fixed shape, or text
        without `text`.
        """
        self.source = source
        self.num_actions = num_actions
        self.text = text
        self.channels = channels
        self.frames = frames
        leaves = [(name, leaf) for name, leaf, _ in _leaves(source) if not self._is_dropped(leaf)]
        fields = [_field(name, leaf, text) for name, leaf in leaves if name != MASK]
        if num_actions is not None:
            mask = gym.spaces.MultiBinary(num_actions)
            fields.append(Field(MASK, mask, np.dtype(np.uint8), (num_actions,)))
        if len(fields) == (num_actions is not None):
            raise SpaceError(f"{source} has no numbers")
        self.fields = tuple(fields)
        self.layout = _layout(self.fields)
        size = self.layout.itemsize
        if size > _MOST_BYTES:
            raise SpaceError(f"a record of {source} takes {size:,} bytes; {_MOST_BYTES:,} is a lot")
        super().__init__(0, 255, (frames * size,), np.uint8)

    def stacked(self, frames: int) -> RecordSpace:
        """Return the space of stacks of this many records."""
        return RecordSpace(
            self.source,
            num_actions=self.num_actions,
            text=self.text,
            channels=self.channels,
            frames=frames,
        )

    def channels_of(self, field: Field) -> Channels | None:
        """Return the axis of a field's channels; `None` if it is no image, or if its shape does not
        say.
        """
        if not isinstance(field.space, gym.spaces.Box):
            return None
        return given_channels(field.shape, self.channels)

    def pack(self, obs: Any, mask: np.ndarray | None = None) -> np.ndarray:
        """Return the record [bytes] of one observation of `source`, with the `mask` [A] of its
        legal actions.
        """
        record = np.zeros(1, dtype=self.layout)
        values = {name: get(obs) for name, leaf, get in _leaves(self.source)}
        for field in self.fields:
            value = mask if field.name == MASK else field.encode(values[field.name])
            record[field.name][0] = value
        return record.view(np.uint8)

    def pack_all(self, obs: Any, count: int, masks: np.ndarray | None = None) -> np.ndarray:
        """Return the records [N, bytes] of `count` observations with the `masks` [N, A]. Their
        parts are arrays [N, …]. Raises `ValueError` for arrays of other shapes.
        """
        records = np.zeros((count, 1), dtype=self.layout)
        values = {name: get(obs) for name, leaf, get in _leaves(self.source)}
        for field in self.fields:
            value = masks if field.name == MASK else field.encode(values[field.name], count)
            records[field.name][:, 0] = value
        return records.view(np.uint8)

    def legal_actions(self, records: np.ndarray) -> np.ndarray | None:
        """Return the masks [N, A] bool of N stacks of records; `None` if these have none."""
        if self.num_actions is None:
            return None
        newest = np.ascontiguousarray(records[:, -self.layout.itemsize :])
        legal: np.ndarray = newest.view(self.layout)[MASK][:, 0] != 0
        return legal

    def find_problem(self, obs: Any, check: Callable[[np.ndarray, gym.spaces.Box], str]) -> str:
        """Return what is wrong with the values of an observation: `check` looks at the Boxes, and
        the other parts must be in their spaces. Return "" if nothing is.
        """
        for name, leaf, get in _leaves(self.source):
            if name == MASK:
                continue
            try:
                value = get(obs)
            except (KeyError, IndexError, TypeError):
                return f"{obs!r:.80}, which has no part {name!r}"
            if isinstance(leaf, gym.spaces.Box):
                array = np.asarray(value)
                if array.shape != leaf.shape:
                    return f"{name} of shape {array.shape} instead of {leaf.shape}"
                problem = check(array, leaf)
            else:
                # environments count other letters to a text's than Gymnasium does
                is_text = isinstance(leaf, gym.spaces.Text) and isinstance(value, str)
                fits = is_text or leaf.contains(value)
                problem = "" if fits else f"{value!r:.80}, which is not in {leaf}"
            if problem:
                return f"{name}: {problem}" if name else problem
        return ""

    def summary(self) -> str:
        """Return what the network gets, and what it does not."""
        told = [f"{field.name} ({_kind(field, self.channels_of(field))})" for field in self.fields]
        dropped = [name for name, leaf, _ in _leaves(self.source) if self._is_dropped(leaf)]
        left_out = f"; without the text {', '.join(dropped)}: see --env.text" if dropped else ""
        return ", ".join(told) + left_out

    def _is_dropped(self, leaf: gym.Space[Any]) -> bool:
        return isinstance(leaf, gym.spaces.Text) and self.text == "drop"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, RecordSpace)
            and self.source == other.source
            and (self.num_actions, self.text, self.channels, self.frames)
            == (other.num_actions, other.text, other.channels, other.frames)
        )

    def __repr__(self) -> str:
        masked = "" if self.num_actions is None else f", {self.num_actions} actions masked"
        return f"{self.source}{masked}"


class SpaceError(Exception):
    """A space that records cannot hold."""


def needs_record(space: gym.Space[Any]) -> bool:
    """Whether observations of this space must be packed: all but arrays of numbers."""
    return not isinstance(space, gym.spaces.Box) or space.shape == ()


def mask_field(space: gym.Space[Any]) -> gym.Space[Any] | None:
    """Return the field of a Dict space that holds the legal actions (PettingZoo), if any."""
    if isinstance(space, gym.spaces.Dict):
        return space.spaces.get(MASK)
    return None


def record_space(
    env_id: str,
    source: gym.Space[Any],
    num_actions: int | None,
    text: Text | None,
    channels: str,
) -> RecordSpace:
    """Return the space of records. Raises `UserError` if there is none."""
    try:
        return RecordSpace(source, num_actions=num_actions, text=text, channels=channels)
    except SpaceError as error:
        raise UserError(f"env.id {env_id!r}: {error}") from error


def _leaves(
    space: gym.Space[Any], name: str = "", get: Callable[[Any], Any] = lambda obs: obs
) -> Iterator[tuple[str, gym.Space[Any], Callable[[Any], Any]]]:
    """Yield the parts of a space that have no parts: name, space, and the function that takes it
    out of an observation.
    """
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        parts: Any = space.spaces
        for key, part in parts.items() if isinstance(parts, dict) else enumerate(parts):
            inner = f"{name}.{key}" if name else str(key)
            yield from _leaves(part, inner, partial(_part_of, get, key))
    else:
        yield name or "observation", space, get


def _part_of(get: Callable[[Any], Any], key: Any, obs: Any) -> Any:
    return get(obs)[key]


def _field(name: str, space: gym.Space[Any], text: Text | None) -> Field:
    if isinstance(space, gym.spaces.Box):
        dtype = np.dtype(space.dtype)
        if not (np.issubdtype(dtype, np.number) or dtype == np.bool_) or 0 in space.shape:
            raise SpaceError(f"its observations have the part {name!r}, {space}: no numbers")
        if dtype.kind == "c":
            raise SpaceError(
                f"its observations have the part {name!r} of {dtype}: split it into real numbers "
                "with a wrapper"
            )
        return Field(name, space, stored_dtype(dtype), space.shape or (1,))
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        counts = np.atleast_1d(getattr(space, "nvec", getattr(space, "n", 0)))
        if counts.sum() > _MOST_CHOICES:
            return Field(name, _range_of(space, counts), np.dtype(np.float32), counts.shape)
        return Field(name, space, _smallest_type(int(counts.max())), counts.shape)
    if isinstance(space, gym.spaces.MultiBinary):
        return Field(name, space, np.dtype(np.uint8), space.shape)
    if isinstance(space, gym.spaces.Text) and text == "tokens":
        return Field(name, space, _smallest_type(VOCABULARY), (TOKENS,))
    remedy = (
        "--env.text drop leaves it out, --env.text tokens hashes its words"
        if isinstance(space, gym.spaces.Text)
        else "register it with a wrapper that turns this part into an array of a fixed shape, or "
        "leaves it out (gymnasium.wrappers.FilterObservation)"
    )
    raise SpaceError(
        f"its observations have the part {name!r}, a {type(space).__name__}, which is not numbers "
        f"of a fixed shape: {remedy}"
    )


def _range_of(space: gym.Space[Any], counts: np.ndarray) -> gym.spaces.Box:
    """Return the numbers between the smallest and the largest of discrete values."""
    low = np.broadcast_to(np.float32(space.start), counts.shape)  # type: ignore[attr-defined]
    return gym.spaces.Box(low, low + (counts - 1).astype(np.float32), dtype=np.float32)


def stored_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type in which numbers of this type are stored."""
    is_bytes = dtype in (np.dtype(np.uint8), np.dtype(np.bool_))
    return np.dtype(np.uint8 if is_bytes else np.float32)


def _kind(field: Field, channels: Channels | None) -> str:
    """Return what a field holds, in a few words."""
    if field.name == MASK:
        return f"which of {field.shape[0]} are legal"
    if isinstance(field.space, gym.spaces.Text):
        return f"text as {TOKENS} hashed words"
    shape = field.shape
    size = " × ".join(map(str, shape))
    if field.choices is not None:
        if is_grid(field.choices):
            counts = " · ".join(map(str, field.choices[0, 0]))
            return f"grid {shape[0]} × {shape[1]} of {counts} codes"
        most = int(field.choices.max())
        return f"one of {most}" if shape == (1,) else f"{size}, each one of up to {most}"
    if channels is not None:
        return f"image {size}, channels {channels}"
    return f"{size} {'flags' if isinstance(field.space, gym.spaces.MultiBinary) else 'numbers'}"


def is_grid(choices: np.ndarray) -> bool:
    """Whether numbers of values [*shape] are those of a grid of codes, [H, W, C]: the same in each
    cell.
    """
    return choices.ndim == 3 and bool((choices == choices[0, 0]).all())


def _smallest_type(count: int) -> np.dtype[Any]:
    return np.dtype(np.uint8 if count <= 256 else np.int32)


def _layout(fields: tuple[Field, ...]) -> np.dtype[Any]:
    """Return the structured type with wide fields first, of a multiple of four bytes."""
    ordered = sorted(fields, key=lambda field: -field.dtype.itemsize)
    types = [np.dtype((field.dtype, field.shape)) for field in ordered]
    ends = np.cumsum([kind.itemsize for kind in types]).tolist()
    names = [field.name for field in ordered]
    if len(set(names)) < len(names):
        raise SpaceError(f"two parts of its observations have one name: {', '.join(names)}")
    return np.dtype(
        {
            "names": names,
            "formats": types,
            "offsets": [0, *ends[:-1]],
            "itemsize": -(-ends[-1] // 4) * 4,
        }
    )


def _tokens(text: str) -> np.ndarray:
    """Return the hashes of the first words of a text, [TOKENS], from 1 on; 0 follows the last."""
    tokens = np.zeros(TOKENS, dtype=np.int32)
    for place, word in enumerate(re.findall(r"\w+", text.lower())[:TOKENS]):
        tokens[place] = 1 + zlib.crc32(word.encode()) % (VOCABULARY - 1)
    return tokens
