"""The weights that come with the package, each beside its card, and those meant when no other is
named."""

CODEC = "msssim-small"
PERCEPTUAL = "msssim-first"  # the codec of the denoisers
DENOISER = "isotropic-small"
