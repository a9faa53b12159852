"""Masked-teacher distillation: GS-LoRA told, image by image, what a model that never knew would say.

With few images, cross-entropy and class means say too little about what to keep. The pre-trained model
says more, on every image. Its gradient on retained ones is zero at the start but for the masked columns,
where cross-entropy goes on training the classes it sees: it holds the model in place, which is what classes
without images need. Needing no labels, it can do so on *foreign* images, which show none of the classes,
where no retained one is at hand. Beyond the papers; not in their tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from minigslora.config import NonNegative, Positive
from minigslora.methods.base import ParamGroup, Step, Terms, state
from minigslora.methods.gslora import GSLoRA
from minigslora.methods.original import forgotten_so_far
from minigslora.problems.base import Problem, Role
from minigslora.prototypes import softened_kl, without
from minigslora.rng import Streams
from minigslora.tasks import Progress, Task


@dataclass(kw_only=True)
class GSLoRADistill(GSLoRA):
    """L = GS-LoRA's without CE_r + keep · D_r + redirect · D_f (+ keep · D of foreign images).

        D(x) = KL(softmax(z̃(x) / T) ‖ softmax(z(x) / T))                     (6.4)

    where z̃ are the pre-trained model's logits with every class forgotten *so far* left out and z the edited
    model's. The bounded forgetting term (4.2) stays for the current request.

    Attributes:
        keep: weight of D on retained images, and on foreign ones where the task has some.
        redirect: weight of D on forgotten images.
        temperature: T of (6.4), in units of the logits' spread where ``relative``.
        gone: which classes are forgotten so far, (C,).
    """

    name: ClassVar[str] = "gslora-distill"
    published: ClassVar[str] = ""
    taught: ClassVar[tuple[Role, ...]] = ("retain", "forget", "foreign")
    by_labels: ClassVar[bool] = False

    keep: NonNegative = 4.0
    redirect: NonNegative = 4.0
    temperature: Positive = 0.4
    gone: Tensor = state()
    strangers: bool = state()

    def data_terms(self, step: Step) -> Terms:
        """Return the bounded term, and D on all images of the task, both models seeing the same picture."""
        terms = super().data_terms(step)
        terms.pop("retain", None)  # distillation takes its place
        weights: dict[Role, float] = {"retain": self.keep, "forget": self.redirect}
        if self.strangers:
            weights["foreign"] = self.keep
        names = {"retain": "keep", "forget": "redirect", "foreign": "foreign"}
        for role, weight in weights.items():
            if (now := step.objects(role)) is not None:
                distance = softened_kl(self.told(step, role), now[0], self.temperature * self.spread)
                terms[names[role]] = weight * distance.mean()
        return terms

    def told(self, step: Step, role: Role) -> Tensor:
        """Return z̃, what the pre-trained model says of a role's images without the forgotten classes."""
        return without(step.teacher(role), self.gone)

    def begin(self, problem: Problem, task: Task, streams: Streams) -> list[ParamGroup]:
        """Mark the classes forgotten so far, then attach fresh adapters."""
        self.gone = forgotten_so_far(problem, task)
        self.strangers = bool(task.foreign_images)
        return super().begin(problem, task, streams)

    def wants(self, progress: Progress) -> tuple[Role, ...]:
        """Return the roles of a step's images, foreign ones among them."""
        return ("retain", "forget", "foreign")
