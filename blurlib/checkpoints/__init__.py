"""The weights that come with the package, each beside its card, and those meant when no other is
named."""

CODEC = "msssim-small"
DENOISER = "isotropic-small"
