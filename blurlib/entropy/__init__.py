"""The Laplacian-guided entropy model and its range coding."""

from blurlib.entropy.channel_groups import even_groups, uneven_groups
from blurlib.entropy.coder import DecodingError, SymbolDecoder, SymbolEncoder
from blurlib.entropy.context import ContextConfig
from blurlib.entropy.model import (
    EntropyConfig,
    Hyperprior,
    LaplacianEntropyModel,
    Latent,
    PassCoder,
)

__all__ = [
    "ContextConfig", "DecodingError", "EntropyConfig", "Hyperprior", "LaplacianEntropyModel",
    "Latent", "PassCoder", "SymbolDecoder", "SymbolEncoder", "even_groups", "uneven_groups",
]  # fmt: skip
