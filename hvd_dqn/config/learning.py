"""Settings of learning: network, objective, optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hvd_dqn.config.section import Section, fraction, non_negative, positive, ranged


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(Section):
    """Architecture of the action-value network."""

    prefix = "network."

    torso: str = "auto"
    """`mlp`; the convolutions of Young & Tian 2019 (`minatar`), Mnih et al. 2013 (`mnih2013`) and
    2015 (`nature`) or Espeholt et al. 2018 (`impala`); `auto`: `nature` for images of at least 36
    rows and columns, `minatar` for those of at least 3, otherwise `mlp`. `module:function` names
    your own: called with this section and the observation's shape, it returns a torch module from
    observations [B, *shape] to features [B, F].
    """
    hidden_sizes: tuple[int, ...] = ranged(
        (256, 256),
        lambda v: bool(v) and all(size > 0 for size in v),
        "one or more widths greater than 0",
    )
    """Widths of the hidden layers, which follow the convolutions if there are any."""
    dueling: bool = False
    """Split the head into a state value and advantages of the actions (Wang et al. 2016)."""
    layer_norm: bool = False
    """Normalise each layer's features before its ReLU (Ba et al. 2016)."""
    dropout: float = ranged(0.0, lambda v: 0 <= v < 1, "at least 0 and less than 1")
    """Dropout probability of hidden features in updates; acting and evaluation use all of them."""
    noisy: bool = False
    """Use noisy fully connected layers, which explore by learned noise (Fortunato et al. 2018)."""
    noisy_sigma: float = positive(0.5)
    """Initial scale of the noise, σ₀, before the division by √fan-in."""
    impala_width: int = positive(1)
    """`impala`: multiple of the channels 16, 32, 32."""
    spectral_norm: bool = False
    """`impala`: divide the kernels of residual blocks by their largest singular value (Miyato et
    al. 2018; Gogianu et al. 2021).
    """
    pool_size: int | None = positive(None)
    """`impala`: rows and columns after a final adaptive max pooling; `None` does not pool."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic within the layers; parameters, losses, sums and optimizer steps are always
    float32. `bfloat16` is faster for convolutions if the processor supports it, and slower for
    small networks. On a GPU, torch convolves float32 in TF32, with ten bits of mantissa, unless
    `torch.backends.cudnn.allow_tf32` is False.
    """
    scale_observations: bool = False
    """Map each component of an observation from the finite bounds of its space to −1 … 1. This
    helps if the bounds are tight (MountainCar) and harms if they are loose (LunarLander).
    """
    normalize_observations: bool = False
    """Subtract from each number of an observation its mean in the sampled batches of all ranks,
    divide it by its standard deviation there, and clip the result to ± 10. Images, bytes and
    discrete values are not changed. The statistics are part of the network: policies and exported
    files contain them.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normalize_observations and self.scale_observations:
            self.refuse(
                "normalize_observations",
                True,
                "replaces network.scale_observations; set that to False",
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
                        f"requires network.torso = 'impala', and it is {self.torso!r}",
                    )


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(Section):
    """The loss that an update minimises."""

    prefix = "objective."

    gamma: float = fraction(0.99)
    """Discount per step."""
    double: bool = True
    """Double DQN: the online network chooses the next action and the target network values it (van
    Hasselt et al. 2016).
    """
    distribution: str = "expected"
    """What the network learns of the return: `expected`, its expectation (DQN); `categorical`,
    probabilities of fixed values (C51, Bellemare et al. 2017); `quantile`, values at fixed
    quantiles (QR-DQN, Dabney et al. 2018a); `implicit_quantile`, values at drawn quantiles (IQN,
    Dabney et al. 2018b). `module:function` names your own: called with this section, it returns a
    `hvd_dqn.methods.method.Method`.
    """
    loss: Literal["huber", "squared"] = "huber"
    """`expected`: loss of the TD error; `huber` is linear beyond an error of 1."""
    num_atoms: int = ranged(51, lambda v: v >= 2, "2 or greater")
    """`categorical`: number of values between v_min and v_max (M)."""
    v_min: float = -10.0
    """`categorical`: smallest value."""
    v_max: float = 10.0
    """`categorical`: largest value."""
    num_quantiles: int = positive(200)
    """`quantile`: number of fixed quantiles (M)."""
    num_taus: int = positive(64)
    """`implicit_quantile`: quantiles drawn for the online network in an update (N)."""
    num_target_taus: int = positive(64)
    """`implicit_quantile`: quantiles drawn for the target network in an update (N′)."""
    num_policy_taus: int = positive(32)
    """`implicit_quantile`: evenly spaced quantiles whose mean is an action's value (K)."""
    munchausen: bool = False
    """Add the scaled log-probability of the action taken to the reward, and use a soft bootstrap
    (Vieillard et al. 2020). With n-step returns only the first step gets the bonus.
    """
    munchausen_coefficient: float = fraction(0.9)
    """Fraction of the log-policy that is added (α)."""
    munchausen_temperature: float = positive(0.03)
    """Temperature of the softmax policy (τ)."""
    munchausen_clip: float = ranged(-1.0, lambda v: v <= 0, "0 or less")
    """Lower bound of temperature times log-policy (l₀)."""
    normalize_rewards: bool = False
    """Divide rewards by a running estimate of the standard deviation of returns over the sampled
    batches of all ranks, √(E[R²] / (1 − γ²ⁿ)) for n-step rewards R. Reported returns are not
    scaled; losses and action values are.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.v_min >= self.v_max:
            self.refuse("v_min", self.v_min, f"must be less than objective.v_max = {self.v_max}")
        if self.munchausen and self.double:
            self.refuse(
                "munchausen",
                True,
                "bootstraps from a softmax over all actions instead of one chosen action: set "
                "objective.double to False",
            )


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Section):
    """The optimizer and its learning rate."""

    prefix = "optimizer."

    name: Literal["adam", "adamw", "radam", "rmsprop"] = "adam"
    """Adam (Kingma & Ba 2015), AdamW (Loshchilov & Hutter 2019), RAdam (Liu et al. 2020), centred
    RMSProp (Graves 2013, as Mnih et al. 2015 used it).
    """
    learning_rate: float = positive(1e-3)
    """Learning rate of one rank, before `world_size_scaling`."""
    weight_decay: float = non_negative(0.0)
    """`adamw`: decoupled weight decay; a step subtracts this times the learning rate times each
    weight.
    """
    final_learning_rate_fraction: float = fraction(1.0)
    """Final learning rate, as a fraction of `learning_rate`; 1 keeps it constant."""
    schedule: Literal["linear", "cosine"] = "linear"
    """Shape of the decay."""
    adam_eps: float = positive(1e-8)
    """Epsilon of `adam`, `adamw` and `radam`, in the denominator."""
    rmsprop_decay: float = fraction(0.95)
    """`rmsprop`: decay of the moving averages."""
    rmsprop_eps: float = positive(0.01)
    """`rmsprop`: smallest denominator, ε. A step divides by √(variance + ε²), so dqn_zoo's `eps` is
    its square.
    """
    compile: bool = False
    """Compile the forward and backward pass to one program with torch's Inductor before the first
    update. This takes a few seconds to a minute and needs a C++ compiler (on a GPU, Triton).
    """
    cuda_graph: bool = False
    """On a GPU, record the kernels of the forward and backward pass as one CUDA graph, and those of
    the optimizer step as another, and replay them at each update. The result of a step (a
    non-finite number, a stop request of a rank, drift) is then known one update later.
    """
    max_grad_norm: float | None = positive(10.0)
    """Clip the gradient of an optimizer step to this L2 norm; `None` does not clip."""
    world_size_scaling: Literal["none", "sqrt", "linear"] = "none"
    """Multiply the learning rate by 1, √world_size or world_size; the run's log states the result.
    """
    warmup_updates: int = non_negative(0)
    """Updates over which the learning rate rises linearly from 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule == "cosine" and self.final_learning_rate_fraction == 1.0:
            self.refuse("schedule", "cosine", "requires a final_learning_rate_fraction below 1")
        if self.weight_decay and self.name != "adamw":
            self.refuse("weight_decay", self.weight_decay, 'requires optimizer.name = "adamw"')
