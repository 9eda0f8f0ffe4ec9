"""How long decoding, a step of diffusion and a step of training take."""
