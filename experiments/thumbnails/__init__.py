"""Blur against isotropic diffusion in an experiment that could favour blur: whole thumbnails from
noise, given ŷ."""
