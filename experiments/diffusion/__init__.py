"""Does blur help? Blur against isotropic diffusion and a deterministic decoder."""
