"""The Laplacian-guided entropy model and its range coding."""

from blurlib.entropy.channel_groups import even_groups, uneven_groups
from blurlib.entropy.coder import BatchDecoder, DecodingError, SymbolDecoder, SymbolEncoder
from blurlib.entropy.context import ContextConfig
from blurlib.entropy.model import (
    CodePass,
    EntropyConfig,
    LaplacianEntropyModel,
    Latent,
    Noise,
    Prior,
    uniform_noise,
)

__all__ = [
    "BatchDecoder",
    "CodePass",
    "ContextConfig",
    "DecodingError",
    "EntropyConfig",
    "LaplacianEntropyModel",
    "Latent",
    "Noise",
    "Prior",
    "SymbolDecoder",
    "SymbolEncoder",
    "even_groups",
    "uneven_groups",
    "uniform_noise",
]
