"""What is learned and how: network, objective, optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hvd_dqn.config.section import Section, fraction, non_negative, positive, ranged

TORSOS = ("auto", "mlp", "minatar", "nature", "impala")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(Section):
    """The shape of the action-value network."""

    prefix = "network."

    torso: str = "auto"
    """`mlp`; the convolutions of Young & Tian 2019 (`minatar`), Mnih et al. 2015 (`nature`) or
    Espeholt et al. 2018 (`impala`); `auto`: by the observation's shape. `module:function` is your
    own: called with this section and the observation's shape, it gives a torch module from
    observations [B, *shape] to features [B, F].
    """
    hidden_sizes: tuple[int, ...] = ranged(
        (256, 256),
        lambda v: bool(v) and all(size > 0 for size in v),
        "one or more widths greater than 0",
    )
    """Widths of the hidden layers, behind the convolutions if there are any."""
    dueling: bool = False
    """Split the head into a state value and advantages of the actions (Wang et al. 2016)."""
    layer_norm: bool = False
    """Normalise each layer's features before its ReLU (Ba et al. 2016)."""
    dropout: float = ranged(0.0, lambda v: 0 <= v < 1, "at least 0 and less than 1")
    """Share of hidden features that an update leaves out; acting and evaluation use all."""
    noisy: bool = False
    """Explore by learned noise in the fully connected layers (Fortunato et al. 2018)."""
    noisy_sigma: float = positive(0.5)
    """σ₀, the noise's first scale, before the division by √fan-in."""
    impala_width: int = positive(1)
    """Channels of the `impala` torso, in multiples of 16, 32, 32."""
    spectral_norm: bool = False
    """Divide the kernels of the `impala` torso's residual blocks by their largest singular value
    (Miyato et al. 2018; Gogianu et al. 2021).
    """
    pool_size: int | None = positive(None)
    """Adaptive max pooling to this many rows and columns behind the `impala` torso; `None`: none.
    """
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic within the layers; parameters, losses, sums and steps are float32 always.
    `bfloat16` is faster for convolutions where the processor has it, and slower for small networks.
    On a GPU torch convolves float32 in TF32, with ten bits of mantissa, unless
    `torch.backends.cudnn.allow_tf32` is False.
    """
    scale_observations: bool = False
    """Map each observation component from the finite bounds that its space declares to −1 … 1. It
    helps where the bounds are tight (MountainCar) and harms where they are loose (LunarLander).
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.torso not in TORSOS and ":" not in self.torso:
            self.refuse(
                "torso", self.torso, f"must be one of {', '.join(TORSOS)}, or module:function"
            )
        if self.torso != "impala":
            for name, silent in (
                ("spectral_norm", False),
                ("pool_size", None),
                ("impala_width", 1),
            ):
                if getattr(self, name) != silent:
                    self.refuse(
                        name,
                        getattr(self, name),
                        f"belongs to network.torso = 'impala', and it is {self.torso!r}",
                    )


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(Section):
    """What an update minimises."""

    prefix = "objective."

    gamma: float = fraction(0.99)
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
    num_atoms: int = ranged(51, lambda v: v >= 2, "2 or greater")
    """`categorical`: M values between v_min and v_max."""
    v_min: float = -10.0
    """`categorical`: the least value."""
    v_max: float = 10.0
    """`categorical`: the greatest value."""
    num_quantiles: int = positive(200)
    """`quantile`: M fixed quantiles."""
    num_taus: int = positive(64)
    """`implicit_quantile`: quantiles drawn of the online network in an update (N)."""
    num_target_taus: int = positive(64)
    """`implicit_quantile`: quantiles drawn of the target network (N′)."""
    num_policy_taus: int = positive(32)
    """`implicit_quantile`: quantiles whose mean is the action's value (K), evenly spread."""
    munchausen: bool = False
    """Add the policy's scaled log-probability of the action taken to the reward, and bootstrap
    softly (Vieillard et al. 2020). With n-step returns the bonus is the first step's alone.
    """
    munchausen_coefficient: float = fraction(0.9)
    """Share of the log-policy that is added (α)."""
    munchausen_temperature: float = positive(0.03)
    """Temperature of the softmax policy (τ)."""
    munchausen_clip: float = ranged(-1.0, lambda v: v <= 0, "0 or less")
    """Least value of temperature times log-policy (l₀)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.v_min >= self.v_max:
            self.refuse("v_min", self.v_min, f"must be less than objective.v_max = {self.v_max}")
        if self.distribution != "expected" and self.loss != "huber":
            self.refuse(
                "loss",
                self.loss,
                f"is of objective.distribution = 'expected'; {self.distribution!r} has its own",
            )
        if self.munchausen and self.distribution == "categorical":
            self.refuse(
                "munchausen",
                True,
                "its soft bootstrap mixes the actions' distributions, each shifted by its own "
                "log-probability, and is published for expected and quantile values; choose "
                "another objective.distribution",
            )
        if self.munchausen and self.double:
            self.refuse(
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
class OptimizerConfig(Section):
    """How an update steps."""

    prefix = "optimizer."

    name: Literal["adam", "adamw", "radam", "rmsprop"] = "adam"
    """Adam (Kingma & Ba 2015), AdamW (Loshchilov & Hutter 2019), RAdam (Liu et al. 2020), centred
    RMSProp (Graves 2013, as Mnih et al. 2015 used it).
    """
    learning_rate: float = positive(1e-3)
    """Step size at one rank, before `world_size_scaling`."""
    weight_decay: float = non_negative(0.0)
    """Decoupled decay of `adamw`: a step takes this times the learning rate off each weight."""
    final_learning_rate_fraction: float = fraction(1.0)
    """The learning rate falls to this share of itself at the end of the run; 1 keeps it."""
    schedule: Literal["linear", "cosine"] = "linear"
    """The curve along which it falls."""
    adam_eps: float = positive(1e-8)
    """The constant in the denominator of Adam and its kin."""
    rmsprop_decay: float = fraction(0.95)
    """`rmsprop`: share of the old averages that each update keeps."""
    rmsprop_eps: float = positive(0.01)
    """`rmsprop`: the constant in its denominator, outside the root."""
    compile: bool = False
    """Compile both passes through the networks to one program, by torch's Inductor, before the
    first update: it takes some seconds to a minute, and a C++ compiler (on a GPU, Triton).
    """
    cuda_graph: bool = False
    """On a GPU, record the kernels of both passes, and those of the step behind the averaging, once
    and launch them together at each update. What came of a step is known one update later: a
    number that is not finite, a rank's wish to stop, or its drift.
    """
    max_grad_norm: float | None = positive(10.0)
    """Clip the gradient of an optimizer step to this L2 norm; `None` does not clip."""
    world_size_scaling: Literal["none", "sqrt", "linear"] = "none"
    """Multiply the learning rate by 1, √world_size or world_size; the run's log states the value
    used.
    """
    warmup_updates: int = non_negative(0)
    """Updates over which the learning rate rises linearly from 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule == "cosine" and self.final_learning_rate_fraction == 1.0:
            self.refuse(
                "schedule", "cosine", "needs a final_learning_rate_fraction below 1 to fall to"
            )
        if self.weight_decay and self.name != "adamw":
            self.refuse("weight_decay", self.weight_decay, 'needs optimizer.name = "adamw"')
