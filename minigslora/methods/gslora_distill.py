"""Masked-teacher distillation: GS-LoRA told, image by image, what a model that never knew would say.

With few images, cross-entropy and class means say too little about what to keep. The pre-trained model
says more: on every image, retained or forgotten,

    D(x) = KL(softmax(z̃(x) / T) ‖ softmax(z(x) / T))                         (6.4)

where z̃ are its logits with every class forgotten *so far* left out and z the edited model's. The bounded
forgetting term (4.2) stays for the current request. It needs no labels on retained images. Its gradient
on them is zero at the start but for the masked columns, where cross-entropy goes on training the classes
it sees: it holds the model in place, which is what classes without images need. Needing no labels, it can do
so on *foreign* images, which show none of the classes, where no retained one is at hand. Beyond the papers;
not in their tables.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from minigslora.config import NonNegative, Positive
from minigslora.lora import as_teacher
from minigslora.methods.base import ParamGroup, Terms, Training
from minigslora.methods.gslora import GSLoRA, GSLoRAConfig, corrected, corrected_training, forgotten_so_far
from minigslora.problems.base import Batch, Problem, Role
from minigslora.prototypes import prototype_distance, without
from minigslora.rng import Streams
from minigslora.tasks import Progress, Task


@dataclass(frozen=True)
class GSLoRADistillConfig(GSLoRAConfig):
    """Settings of masked-teacher distillation, beside those of GS-LoRA.

    Attributes:
        keep: weight of D on retained images, and on foreign ones where the task has some.
        redirect: weight of D on forgotten images.
        temperature: T of (6.4), in units of the logits' spread where ``relative``.
    """

    keep: NonNegative = 4.0
    redirect: NonNegative = 4.0
    temperature: Positive = 0.4


class GSLoRADistill(GSLoRA):
    """GS-LoRA with a masked teacher in place of cross-entropy on retained images."""

    name: ClassVar[str] = "gslora-distill"
    published: ClassVar[str] = ""
    Config: ClassVar[type[Any]] = GSLoRADistillConfig
    config: GSLoRADistillConfig

    def __init__(self, config: GSLoRADistillConfig, training: Training) -> None:
        super().__init__(config, training)
        self.temperature = config.temperature
        self.gone: Tensor = torch.empty(0)
        self.taught: tuple[tuple[Role, str], ...] = ()

    @classmethod
    def presets(cls, recipe: str, setting: str) -> tuple[GSLoRADistillConfig, Training]:
        """Return the one configuration there is; the released code has no such method.

        Where classes are missing GS-LoRA holds the whole head (8.3), which on a whole head is (6.4).
        """
        config = corrected(cls.Config, setting)
        return (replace(config, hold=0.0) if setting == "missing" else config), corrected_training(setting)

    def begin(self, problem: Problem, task: Task, streams: Streams) -> list[ParamGroup]:
        """Mark the classes forgotten so far, then attach fresh adapters."""
        self.gone = forgotten_so_far(problem, task)
        self.taught = (("retain", "keep"), ("forget", "redirect"))
        if task.foreign_images:
            self.taught += (("foreign", "foreign"),)
        groups = super().begin(problem, task, streams)
        self.temperature = self.config.temperature * self.spread
        return groups

    def wants(self, progress: Progress) -> tuple[Role, ...]:
        """Return the roles of a step's images, foreign ones among them."""
        return ("retain", "forget", "foreign")

    def weights(self, progress: Progress) -> dict[str, float]:
        """Return the weight of each loss term; distillation takes cross-entropy's place."""
        own = {"retain": 0.0, "keep": self.config.keep, "redirect": self.config.redirect}
        return {**super().weights(progress), **own, "foreign": self.config.keep}

    def terms(self, problem: Problem, outputs: Any, batch: Batch) -> Terms:
        """Add D on all images of the task, teacher and student seeing the same picture."""
        terms = super().terms(problem, outputs, batch)
        with as_teacher(problem.model):
            teacher = problem.forward(batch)
        for role, name in self.taught:
            said, now = (problem.vectors(o, batch, "logits", role) for o in (teacher, outputs))
            if said is not None and now is not None:
                taught = without(said[0], self.gone)
                terms[name] = prototype_distance(taught, now[0], "kl", self.temperature).mean()
        return terms
