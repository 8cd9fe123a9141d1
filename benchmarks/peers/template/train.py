"""Training of the template: everything is instantiated from the configuration."""

from __future__ import annotations

import hydra
import lightning as L
from omegaconf import DictConfig

__all__ = ["main"]


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> None:
    """Train what the configuration describes."""
    L.seed_everything(config.seed, workers=True, verbose=False)
    data = hydra.utils.instantiate(config.data)
    model = hydra.utils.instantiate(config.model)
    callbacks = [hydra.utils.instantiate(each) for each in config.callbacks.values()]
    loggers = [hydra.utils.instantiate(each) for each in config.logger.values()]
    trainer = hydra.utils.instantiate(config.trainer, callbacks=callbacks, logger=loggers)
    trainer.fit(model, datamodule=data)


if __name__ == "__main__":
    main()
