"""The bundled task `denoise`, as one would write it with Lightning and Hydra after the usual template of the two."""
