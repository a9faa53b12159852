"""Retraining on all retained images: what every claim of forgetting is measured against.

    L = CE_r over the whole training split of the retained classes

A model that never saw a forgotten image, and saw every other one: also those of retained classes that
have none at hand. It is trained as models are pre-trained here (notebook 01), not in the number of
updates of the other methods, and is in no published table.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from minigslora.methods.base import Training
from minigslora.methods.retrain import Retrain, RetrainConfig
from minigslora.problems.base import Problem, Role
from minigslora.tasks import Task


class RetrainOracle(Retrain):
    """Training from random weights on all images of the retained classes."""

    name: ClassVar[str] = "retrain-oracle"
    published: ClassVar[str] = ""
    needs: ClassVar[tuple[Role, ...]] = ()

    @classmethod
    def presets(cls, recipe: str, setting: str) -> tuple[RetrainConfig, Training]:
        """Return the one configuration there is, whatever the setting: that of pre-training."""
        config, training = super().presets(recipe, setting)
        return config, replace(
            training,
            epochs=40,
            batch_retain=96,
            lr=1e-3,
            weight_decay=0.05,
            warmup_epochs=3,
            clip=1.0,
            dropout=True,
        )

    def images(self, problem: Problem, task: Task) -> Task:
        """Take every training image of the retained classes, and no other."""
        return replace(task, retain_images=problem.training_images(task.retain), forget_images=())
