"""Which parameters belong to which depth, and the rate of each depth. Importing this needs no torch."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bertft_core.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from torch import nn

EMBEDDING_RATES = ("layerwise", "paper_code")


@dataclass(frozen=True, kw_only=True)
class LayerMap:
    """Parameter names of an encoder classifier: every parameter sits in exactly one place.

    ``layers`` is counted from the embeddings (0 .. L-1). ``embedding_modules`` and ``layer_modules`` name the
    modules that own them, for switching to eval mode.
    """

    embeddings: tuple[str, ...]
    layers: tuple[tuple[str, ...], ...]
    head: tuple[str, ...]
    embedding_modules: tuple[str, ...]
    layer_modules: tuple[str, ...]

    def __str__(self) -> str:
        return f"{len(self.layers)} layers, {len(self.head)} head and {len(self.embeddings)} embedding tensors"

    def by_level(self) -> list[tuple[str, tuple[str, ...]]]:
        """(name, parameter names) from the head (level 0) over the top layer (1) to the embeddings (L+1)."""
        names = level_names(len(self.layers))
        return list(zip(names, [self.head, *reversed(self.layers), self.embeddings], strict=True))

    def modules_by_level(self) -> list[tuple[str, ...]]:
        """Module names that a frozen level switches to eval mode; the head (level 0) is never frozen."""
        return [(), *((name,) for name in reversed(self.layer_modules)), self.embedding_modules]


@dataclass(frozen=True, kw_only=True)
class LayerRates:
    """Peak rate of the head, of each layer (0 .. L-1) and of the embeddings; from layer 0 up it never falls."""

    head: float
    layers: tuple[float, ...]
    embeddings: float

    def __post_init__(self) -> None:
        ladder = [*self.layers, self.head]
        assert all(low <= high for low, high in itertools.pairwise(ladder)), ladder

    def by_level(self) -> tuple[float, ...]:
        """Rates from the head (level 0) over the top layer (1) down to the embeddings (L+1)."""
        return (self.head, *reversed(self.layers), self.embeddings)


def level_names(n_layers: int) -> list[str]:
    """Names of the levels, counted from the head: head, layer L-1, ..., layer 0, embeddings."""
    return ["head", *(f"layer {i}" for i in reversed(range(n_layers))), "embeddings"]


def layer_rates(
    n_layers: int, lr: float, alpha: float, *, embedding_rate: str = "layerwise", head_multiplier: float = 1.0
) -> LayerRates:
    """Layer-wise rates: pooler and top layer take ``lr``, each layer below ``alpha`` of the one above.

    Layer i gets lr * alpha**(L-1-i) (Sun et al. 2019 §5.4.3, arXiv 1905.05583, where alpha is xi), the head
    lr * ``head_multiplier``. The embeddings continue the row, lr * alpha**L (``layerwise``), or take ``lr`` as in
    the paper's released code (``paper_code``).

    Raises: ConfigError unless lr > 0, 0 < alpha <= 1, head_multiplier >= 1 and embedding_rate is one of the two.

    >>> layer_rates(2, 1.0, 0.5)
    LayerRates(head=1.0, layers=(0.5, 1.0), embeddings=0.25)
    """
    if not 0 < alpha <= 1:
        raise ConfigError(f"training.alpha must lie in (0, 1], was {alpha}")
    if not lr > 0:
        raise ConfigError(f"training.lr must be above 0, was {lr}")
    if not head_multiplier >= 1:
        raise ConfigError(f"training.head_multiplier must be 1 or more, was {head_multiplier}")
    if embedding_rate not in EMBEDDING_RATES:
        raise ConfigError(f"training.embedding_rate must be one of {EMBEDDING_RATES}, was {embedding_rate!r}")
    layers = tuple(lr * alpha ** (n_layers - 1 - i) for i in range(n_layers))
    embeddings = lr * alpha**n_layers if embedding_rate == "layerwise" else lr
    return LayerRates(head=lr * head_multiplier, layers=layers, embeddings=embeddings)


def layer_table(model: nn.Module) -> LayerMap:
    """Sort every parameter of an encoder classifier into embeddings, layers or head by the module tree.

    The layers are the longest ModuleList of equal modules; embeddings are what lies in a module whose name
    contains "embeddings"; everything else (pooler, final norm, classifier) is head.

    Raises: ModelError if there is no such list, if layers share weights, or if there are no embeddings.
    """
    stack = _find_stack(model)
    count = len(model.get_submodule(stack))  # type: ignore[arg-type]
    embedding_modules = _find_embeddings(model, stack)
    names = [name for name, _ in model.named_parameters()]
    layers = tuple(tuple(n for n in names if n.startswith(f"{stack}.{i}.")) for i in range(count))
    inside = {n for layer in layers for n in layer}
    embeddings = tuple(n for n in names if n not in inside and any(n.startswith(f"{m}.") for m in embedding_modules))
    head = tuple(n for n in names if n not in inside and n not in set(embeddings))
    if not embeddings or not head or not all(layers):
        raise ModelError(
            f"{type(model).__name__}: need embeddings, layers, head; found {len(embeddings)}, {len(inside)} "
            f"and {len(head)} tensors in them; use a BERT-style encoder"
        )
    return LayerMap(
        embeddings=embeddings,
        layers=layers,
        head=head,
        embedding_modules=embedding_modules,
        layer_modules=tuple(f"{stack}.{i}" for i in range(count)),
    )


def set_depth(model: nn.Module, layers: LayerMap, depth: int) -> None:
    """Let levels 0..depth train; the others get no gradient and go to eval mode (no dropout)."""
    parameters = dict(model.named_parameters())
    model.train()
    owners = layers.modules_by_level()
    for level, ((_, names), modules) in enumerate(zip(layers.by_level(), owners, strict=True)):
        for name in names:
            parameters[name].requires_grad_(level <= depth)
        for module in modules if level > depth else ():
            model.get_submodule(module).eval()


def _find_stack(model: nn.Module) -> str:
    from torch import nn

    stacks = [
        (len(module), name)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) and len({type(m) for m in module}) == 1
    ]
    if not stacks:
        raise ModelError(f"{type(model).__name__} has no list of layers: use a BERT-style encoder")
    stack: str
    count, stack = max(stacks, key=lambda found: found[0])
    expected = getattr(getattr(model, "config", None), "num_hidden_layers", count)
    if expected != count:
        raise ModelError(
            f"{type(model).__name__} says {expected} layers but holds {count} in {stack}: encoders whose "
            "layers share weights (such as ALBERT) have no rate per layer; use a BERT-style encoder"
        )
    return stack


def _find_embeddings(model: nn.Module, stack: str) -> tuple[str, ...]:
    found: list[str] = []
    for name, _ in model.named_modules():
        is_nested = any(name.startswith(f"{outer}.") for outer in found)
        if "embeddings" in name.rpartition(".")[2] and not is_nested and not name.startswith(f"{stack}."):
            found.append(name)
    if not found:
        raise ModelError(f"{type(model).__name__} has no embeddings module: use a BERT-style encoder")
    return tuple(found)
