"""What a run is: frozen, validated dataclasses. A run is a function that returns a `Config` (see
`presets`).

Units stand in the names. `num_envs`, `batch_size` and `replay.capacity` are per rank; `*_env_steps`
count decisions over all environments of all ranks; an update is one optimizer step.
"""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hvd_dqn.errors import UserError


class ConfigError(UserError):
    """A field holds a value it cannot have."""


def _ranged(default: Any, check: Callable[[Any], bool], text: str) -> Any:
    return field(default=default, metadata={"check": check, "text": text})


def _positive(default: Any) -> Any:
    return _ranged(default, lambda v: v > 0, "greater than 0")


def _non_negative(default: Any) -> Any:
    return _ranged(default, lambda v: v >= 0, "0 or greater")


def _fraction(default: Any) -> Any:
    return _ranged(default, lambda v: 0 <= v <= 1, "between 0 and 1")


def _is_a(value: Any, kind: Any) -> bool:
    """Whether `value` has the annotated type `kind`; an int may stand for a float, a bool never for
    a number.
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return value in args
    if origin is tuple:
        return isinstance(value, tuple) and all(_is_a(v, args[0]) for v in value)
    if args:  # a union such as `float | None`
        return any(_is_a(value, option) for option in args)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _type_name(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    return getattr(kind, "__name__", str(kind)) if not typing.get_args(kind) else str(kind)


class _Section:
    """Checks every field's type and range when the section is made."""

    prefix = ""

    def __post_init__(self) -> None:
        kinds = typing.get_type_hints(type(self))
        for spec in dataclasses.fields(typing.cast(Any, self)):
            value = getattr(self, spec.name)
            if isinstance(value, float) and not math.isfinite(value):
                self._refuse(spec.name, value, "must be finite")
            if not _is_a(value, kinds[spec.name]):
                self._refuse(spec.name, value, f"must be {_type_name(kinds[spec.name])}")
            check = spec.metadata.get("check")
            if check is not None and value is not None and not check(value):
                self._refuse(spec.name, value, f"must be {spec.metadata['text']}")

    def _refuse(self, name: str, value: Any, reason: str) -> typing.NoReturn:
        raise ConfigError(f"{self.prefix}{name} = {value!r}: {reason}")


@dataclass(frozen=True, kw_only=True)
class EnvConfig(_Section):
    """The environment of every rank."""

    prefix = "env."

    id: str = "CartPole-v1"
    """Gymnasium id, or `module:Name-v0` to import `module` first."""
    num_envs: int = _positive(8)
    """Environments per rank, stepped together."""
    vectorization: Literal["sync", "async"] = "sync"
    """Step the environments in this process, or each in a (spawned) process of its own."""
    kwargs: str = "{}"
    """Keyword arguments for the environment, as a JSON object. A list of whole numbers, such as a
    shape, arrives as a tuple.
    """
    frame_stack: int = _positive(1)
    """Newest frames of an episode that make an observation; before its first there are zeros."""
    reward_clip: float | None = _positive(None)
    """Clip the learner's rewards to ± this; returns stay true. `None` does not clip."""
    atari_protocol: Literal["machado2018", "mnih2015"] | None = None
    """Atari only: sticky actions and whole games (Machado et al. 2018, Dopamine), or up to 30
    no-ops and a lost life as the learner's terminal (Mnih et al. 2015). `None`: machado2018.
    """
    frame_skip: int | None = _positive(None)
    """Atari only: frames for which a decision is held; `None`: 4."""

    @property
    def is_atari(self) -> bool:
        """Whether ALE's own vector environment plays this id."""
        return self.id.removeprefix("ale_py:").startswith("ALE/")

    @property
    def frames_per_env_step(self) -> int:
        """What a decision counts for in reports of frames."""
        if not self.is_atari:
            return 1
        return 4 if self.frame_skip is None else self.frame_skip

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("atari_protocol", "frame_skip"):
            value = getattr(self, name)
            if value is not None and not self.is_atari:
                self._refuse(name, value, f"{self.id!r} is no Atari game (ALE/…); leave it None")
        if self.is_atari and self.vectorization == "async":
            self._refuse(
                "vectorization", "async", "ALE steps Atari games in its own threads; leave it sync"
            )
        try:
            if not isinstance(json.loads(self.kwargs), dict):
                self._refuse(
                    "kwargs", self.kwargs, 'must be a JSON object such as {"continuous": false}'
                )
        except json.JSONDecodeError as error:
            self._refuse(
                "kwargs", self.kwargs, f"is not JSON ({error.msg} at column {error.colno})"
            )


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(_Section):
    """The shape of the action-value network."""

    prefix = "network."

    torso: Literal["auto", "mlp", "minatar", "nature", "impala"] = "auto"
    """`mlp`; the convolutions of Young & Tian 2019 (`minatar`), Mnih et al. 2015 (`nature`) or
    Espeholt et al. 2018 (`impala`). `auto`: by the observation's shape.
    """
    hidden_sizes: tuple[int, ...] = _ranged(
        (256, 256),
        lambda v: bool(v) and all(size > 0 for size in v),
        "one or more widths greater than 0",
    )
    """Widths of the hidden layers, behind the convolutions if there are any."""
    dueling: bool = False
    """Split the head into a state value and advantages of the actions (Wang et al. 2016)."""
    layer_norm: bool = False
    """Normalise each layer's features before its ReLU (Ba et al. 2016)."""
    dropout: float = _ranged(0.0, lambda v: 0 <= v < 1, "at least 0 and less than 1")
    """Share of hidden features that an update leaves out; acting and evaluation use all."""
    noisy: bool = False
    """Explore by learned noise in the fully connected layers (Fortunato et al. 2018)."""
    noisy_sigma: float = _positive(0.5)
    """σ₀, the noise's first scale, before the division by √fan-in."""
    impala_width: int = _positive(1)
    """Channels of the `impala` torso, in multiples of 16, 32, 32."""
    spectral_norm: bool = False
    """Divide the kernels of the `impala` torso's residual blocks by their largest singular value
    (Miyato et al. 2018; Gogianu et al. 2021).
    """
    pool_size: int | None = _positive(None)
    """Adaptive max pooling to this many rows and columns behind the `impala` torso; `None`: none.
    """
    scale_observations: bool = False
    """Map each observation component from the finite bounds that its space declares to −1 … 1. It
    helps where the bounds are tight (MountainCar) and harms where they are loose (LunarLander).
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.torso != "impala":
            for name, silent in (
                ("spectral_norm", False),
                ("pool_size", None),
                ("impala_width", 1),
            ):
                if getattr(self, name) != silent:
                    self._refuse(
                        name,
                        getattr(self, name),
                        f"belongs to network.torso = 'impala', and it is {self.torso!r}",
                    )


@dataclass(frozen=True, kw_only=True)
class ReplayConfig(_Section):
    """Each rank's replay and what is drawn from it."""

    prefix = "replay."

    capacity: int = _positive(50_000)
    """Transitions kept per rank, over all its environments."""
    batch_size: int = _positive(64)
    """Transitions per update and rank; the global batch is this times the number of ranks."""
    n_step: int = _ranged(1, lambda v: 1 <= v <= 255, "between 1 and 255")
    """Rewards summed before the bootstrap."""
    sampling: Literal["uniform", "prioritized"] = "uniform"
    """Every transition alike, or in proportion to its priority (Schaul et al. 2016)."""
    priority_exponent: float = _fraction(0.6)
    """α: 0 is uniform, 1 fully proportional."""
    importance_exponent_initial: float = _fraction(0.4)
    """β at the start: prioritised samples weigh (1 / (size · probability))^β, divided by the
    largest of all ranks' batches.
    """
    importance_exponent_final: float = _fraction(1.0)
    """β at the end of the run, reached linearly."""
    storage: Literal["host", "device"] = "host"
    """Where frames are kept: in the host's memory, or in that of the learner's device."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(_Section):
    """What an update minimises."""

    prefix = "objective."

    gamma: float = _fraction(0.99)
    """Discount per step."""
    double: bool = True
    """Double DQN: the online network chooses the action that the target network values (van Hasselt
    et al. 2016).
    """
    distribution: Literal["expected", "categorical", "quantile", "implicit_quantile"] = "expected"
    """What is learned of the return: its expectation (DQN), or its distribution as probabilities of
    fixed values (C51, Bellemare et al. 2017), as values of fixed quantiles (QR-DQN, Dabney et al.
    2018a) or of drawn ones (IQN, Dabney et al. 2018b).
    """
    loss: Literal["huber", "squared"] = "huber"
    """Per-sample loss on the TD error; `huber` turns linear at an error of 1."""
    num_atoms: int = _ranged(51, lambda v: v >= 2, "2 or greater")
    """`categorical`: M values between v_min and v_max."""
    v_min: float = -10.0
    """`categorical`: the least value."""
    v_max: float = 10.0
    """`categorical`: the greatest value."""
    num_quantiles: int = _positive(200)
    """`quantile`: M fixed quantiles."""
    num_taus: int = _positive(64)
    """`implicit_quantile`: quantiles drawn of the online network in an update (N)."""
    num_target_taus: int = _positive(64)
    """`implicit_quantile`: quantiles drawn of the target network (N′)."""
    num_policy_taus: int = _positive(32)
    """`implicit_quantile`: quantiles whose mean is the action's value (K), evenly spread."""
    munchausen: bool = False
    """Add the policy's scaled log-probability of the action taken to the reward, and bootstrap
    softly (Vieillard et al. 2020). With n-step returns the bonus is the first step's alone.
    """
    munchausen_coefficient: float = _fraction(0.9)
    """Share of the log-policy that is added (α)."""
    munchausen_temperature: float = _positive(0.03)
    """Temperature of the softmax policy (τ)."""
    munchausen_clip: float = _ranged(-1.0, lambda v: v <= 0, "0 or less")
    """Least value of temperature times log-policy (l₀)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.v_min >= self.v_max:
            self._refuse("v_min", self.v_min, f"must be less than objective.v_max = {self.v_max}")
        if self.distribution != "expected" and self.loss != "huber":
            self._refuse(
                "loss",
                self.loss,
                f"is of objective.distribution = 'expected'; {self.distribution!r} has its own",
            )
        if self.munchausen and self.distribution == "categorical":
            self._refuse(
                "munchausen",
                True,
                "its soft bootstrap mixes the actions' distributions, each shifted by its own "
                "log-probability, and is published for expected and quantile values; choose "
                "another objective.distribution",
            )
        if self.munchausen and self.double:
            self._refuse(
                "munchausen",
                True,
                "bootstraps from all actions by a softmax and chooses none: set objective.double "
                "to False",
            )

    @property
    def loss_name(self) -> str:
        """What the loss is called in metrics: by what it computes."""
        return {
            "expected": f"loss/td_{self.loss}",
            "categorical": "loss/cross_entropy",
            "quantile": "loss/quantile_huber",
            "implicit_quantile": "loss/quantile_huber",
        }[self.distribution]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(_Section):
    """How an update steps."""

    prefix = "optimizer."

    name: Literal["adam", "adamw", "radam", "rmsprop"] = "adam"
    """Adam (Kingma & Ba 2015), AdamW (Loshchilov & Hutter 2019), RAdam (Liu et al. 2020), centred
    RMSProp (Graves 2013, as Mnih et al. 2015 used it).
    """
    learning_rate: float = _positive(1e-3)
    """Step size at one rank, before `world_size_scaling`."""
    weight_decay: float = _non_negative(0.0)
    """Decoupled decay of `adamw`: a step takes this times the learning rate off each weight."""
    final_learning_rate_fraction: float = _fraction(1.0)
    """The learning rate falls to this share of itself at the end of the run; 1 keeps it."""
    schedule: Literal["linear", "cosine"] = "linear"
    """The curve along which it falls."""
    adam_eps: float = _positive(1e-8)
    """The constant in the denominator of Adam and its kin."""
    rmsprop_decay: float = _fraction(0.95)
    """`rmsprop`: share of the old averages that each update keeps."""
    rmsprop_eps: float = _positive(0.01)
    """`rmsprop`: the constant in its denominator, outside the root."""
    max_grad_norm: float | None = _positive(10.0)
    """Clip the gradient of an optimizer step to this L2 norm; `None` does not clip."""
    world_size_scaling: Literal["none", "sqrt", "linear"] = "none"
    """Multiply the learning rate by 1, √world_size or world_size; the run's log states the value
    used.
    """
    warmup_updates: int = _non_negative(0)
    """Updates over which the learning rate rises linearly from 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule == "cosine" and self.final_learning_rate_fraction == 1.0:
            self._refuse(
                "schedule", "cosine", "needs a final_learning_rate_fraction below 1 to fall to"
            )
        if self.weight_decay and self.name != "adamw":
            self._refuse("weight_decay", self.weight_decay, 'needs optimizer.name = "adamw"')


@dataclass(frozen=True, kw_only=True)
class ExplorationConfig(_Section):
    """How often an action is random."""

    prefix = "exploration."

    kind: Literal["annealed", "ladder"] = "annealed"
    """One ε that falls over the run, or a ladder: a constant ε for each environment of all ranks,
    0.4^(1 + 7·i/(N − 1)) for the i-th of N (Horgan et al. 2018).
    """
    epsilon_initial: float = _fraction(1.0)
    """Share of random actions at the start."""
    epsilon_final: float = _fraction(0.05)
    """Share of random actions after the decay."""
    epsilon_decay_env_steps: int = _non_negative(10_000)
    """Global env steps of the linear decay."""
    zeta_exponent: float | None = _ranged(None, lambda v: v > 1, "greater than 1")
    """εz-greedy: a random action lasts k steps with probability ∝ k to minus this (2 in Dabney et
    al. 2021); `None` draws a new one every step.
    """


@dataclass(frozen=True, kw_only=True)
class DistributedConfig(_Section):
    """How ranks meet and share their host."""

    prefix = "distributed."

    backend: Literal["auto", "local", "horovod", "mpi"] = "auto"
    """`auto`: Horovod under an MPI launcher, else one process. `mpi` needs mpi4py alone."""
    threads_per_rank: int | None = _positive(None)
    """Compute threads of a rank; `None`: its share of its host's cores, as far as the network has
    work for them.
    """
    average: Literal["gradients", "parameters"] = "gradients"
    """What ranks average: every update's gradients, so that N ranks do what one rank does on N
    times the batch; or, after every `average_period_updates` updates of its own on each rank, the
    parameters (local SGD, Stich 2019).
    """
    average_period_updates: int = _positive(10)
    """`parameters`: updates between averages (H)."""
    average_optimizer_state: Literal["average", "keep", "reset"] = "average"
    """`parameters`: what becomes of the optimizer's moments at an average: averaged with the
    parameters, kept by each rank, or set to zero.
    """


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(_Section):
    """When and how the greedy policy is judged, and what is kept."""

    prefix = "evaluation."

    period_env_steps: int = _positive(5_000)
    """Global env steps between greedy evaluations; each one saves a checkpoint."""
    episodes: int = _positive(20)
    """Episodes of a periodic evaluation, over all ranks."""
    final_episodes: int = _positive(100)
    """Episodes of the closing evaluation, over all ranks."""
    max_episode_steps: int = _positive(27_000)
    """Steps after which an episode of an evaluation ends; an environment's own limit stays (Atari:
    108,000 frames).
    """
    keep_checkpoints: int = _positive(2)
    """Newest checkpoints kept besides the best one."""


@dataclass(frozen=True, kw_only=True)
class LoggingConfig(_Section):
    """What is written down, and how often."""

    prefix = "logging."

    period_env_steps: int = _positive(1_000)
    """Global env steps between lines of `metrics.jsonl`."""
    tensorboard: bool = True
    """Write TensorBoard events as well."""


@dataclass(frozen=True, kw_only=True)
class Config(_Section):
    """One run. Every field is a command line option of the same name."""

    preset: str = "cartpole"
    """The preset this run started from; a label only."""
    seed: int = _non_negative(0)
    """Root of every random stream of the run."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: the GPU of this local rank where there is one."""
    total_env_steps: int = _positive(50_000)
    """Decisions over all environments and all ranks; the run's budget."""
    learning_starts_env_steps: int = _non_negative(1_000)
    """Global env steps before the first update."""
    vector_steps_per_iteration: int = _positive(1)
    """Steps of the vector environment between updates."""
    updates_per_iteration: int = _positive(1)
    """Updates after each collection."""
    target_period_updates: int = _positive(100)
    """Updates between changes of the target network, synchronised over ranks."""
    target_step: float = _ranged(1.0, lambda v: 0 < v <= 1, "greater than 0 and at most 1")
    """Share of the way from the target to the online network that a change goes: 1 copies it
    (Mnih et al. 2015), less moves it softly (Lillicrap et al. 2016).
    """
    env: EnvConfig = field(default_factory=EnvConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        rows = self.replay.capacity // self.env.num_envs
        needed = self.replay.n_step + self.env.frame_stack
        if rows <= needed:
            raise ConfigError(
                f"replay.capacity = {self.replay.capacity} gives {rows} rows to each of "
                f"env.num_envs = {self.env.num_envs}: n-step windows of {self.replay.n_step} on "
                f"stacks of {self.env.frame_stack} need more than {needed}; raise the capacity"
            )
        if self.distributed.average == "parameters" and self.optimizer.world_size_scaling != "none":
            raise ConfigError(
                f"optimizer.world_size_scaling = {self.optimizer.world_size_scaling!r}: with "
                "distributed.average = 'parameters' each rank steps on a batch of its own; set it "
                "to none"
            )
        averaging = self.distributed.average_period_updates
        if self.distributed.average == "parameters" and self.target_period_updates % averaging:
            raise ConfigError(
                f"target_period_updates = {self.target_period_updates} is no multiple of "
                f"distributed.average_period_updates = {averaging}: the target network would be "
                "one rank's own; make it a multiple"
            )
        if self.learning_starts_env_steps >= self.total_env_steps:
            raise ConfigError(
                f"learning_starts_env_steps = {self.learning_starts_env_steps} is not below "
                f"total_env_steps = {self.total_env_steps}: no update would run; raise the total"
            )

    def env_steps_per_iteration(self, world_size: int) -> int:
        """Global env steps of one collection."""
        return self.env.num_envs * self.vector_steps_per_iteration * world_size

    def updates_start_env_steps(self, world_size: int) -> int:
        """Global env steps after which every rank surely holds a complete n-step window."""
        first_windows = self.replay.n_step * self.env.num_envs * world_size
        return max(self.learning_starts_env_steps, first_windows)

    def planned_updates(self, world_size: int) -> int:
        """Optimizer steps of the whole run: those of every iteration that ends at or after the
        start of updates.
        """
        step = self.env_steps_per_iteration(world_size)
        iterations = -(-self.total_env_steps // step)
        without_update = -(-self.updates_start_env_steps(world_size) // step) - 1
        return max(iterations - without_update, 0) * self.updates_per_iteration

    def changed(self, fields: Mapping[str, Any]) -> Config:
        """This run with other values of some fields, by option name (`section.field`)."""
        sections: dict[str, dict[str, Any]] = {}
        own: dict[str, Any] = {}
        for name, value in fields.items():
            section, _, field_name = name.rpartition(".")
            (sections.setdefault(section, {}) if section else own)[field_name] = value
        for section, values in sections.items():
            own[section] = dataclasses.replace(getattr(self, section), **values)
        return dataclasses.replace(self, **own)

    def flat(self) -> dict[str, Any]:
        """Every field by its option name, `section.field`."""
        fields: dict[str, Any] = {}
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, dict):
                fields |= {f"{name}.{key}": inner for key, inner in value.items()}
            else:
                fields[name] = value
        return fields

    def to_json(self) -> str:
        """The text of `config.json`."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"
