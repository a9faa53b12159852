"""Classes that no model ever saw, in the place of the forgotten: what attacks get where nothing was learnt.

The audit of the audits asks it of strangers whose images say which class they show. As many of their classes
as were forgotten take the forgotten ones' numbers. Half of the images of each, at most as many as the
attacker has, are the attacker's; the rest are tested. Their rows of the classifier are zero, untrained.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from minigslora.audit.prototype import JUDGED
from minigslora.audit.subject import Case, Reading, Subject
from minigslora.models.head_slicing import Head
from minigslora.prototypes import NEVER

ASKED = "strangers' classes in the place of the forgotten; half of their images, at most, are the attacker's"


def why_not(case: Case) -> str:
    """Say why the strangers cannot take the place of the forgotten; "" where they can."""
    if case.strangers is None:
        return "there are no strangers"
    if case.stranger_labels is None:
        return "the strangers' images do not say which class they show"
    enough = int((case.stranger_labels.unique(return_counts=True)[1] >= 2 * JUDGED).sum())
    if enough < len(case.gone):
        return (
            f"{enough} classes of strangers have {2 * JUDGED} images or more, fewer than the "
            f"{len(case.gone)} that are forgotten"
        )
    return ""


@dataclass(eq=False)
class Unseen(Subject):
    """A twin's forgotten classes give way to strangers, where :func:`why_not` has no objection."""

    @cached_property
    def head(self) -> Head:
        """The twin's classifier, the rows of the strangers' classes zero."""
        head: Head = copy.deepcopy(self._twin.head)
        head.weight[list(self.case.gone)] = 0.0
        if isinstance(bias := getattr(head, "bias", None), Tensor):
            bias[list(self.case.gone)] = NEVER
        return head

    def _from(self, reading: Reading) -> Reading:
        """Put the strangers in: the attacker's images where training images are read, else the rest."""
        gone, strangers = torch.tensor(self.case.gone), self._twin.strangers
        stays = ~torch.isin(reading.labels, gone)
        mine = self._rows(reading is self._twin.train)
        rows = torch.cat(mine)
        named = gone.repeat_interleave(torch.tensor([len(part) for part in mine]))
        features = torch.cat([reading.features[stays], strangers.features[rows]])
        labels = torch.cat([reading.labels[stays], named])
        return replace(reading, features=features, logits=self.head(features), labels=labels, tokens={})

    def _rows(self, attackers: bool) -> list[Tensor]:
        """Return the attacker's images of each class of strangers, or the rest, by index."""
        labels, found = torch.as_tensor(self.case.stranger_labels).cpu(), list[Tensor]()
        for c in labels.unique().tolist():
            rows = (labels == c).nonzero().flatten()
            if len(rows) >= 2 * JUDGED and len(found) < len(self.case.gone):
                half = min(self.case.images, len(rows) // 2)
                found.append(rows[:half] if attackers else rows[half:])
        return found

    @property
    def _twin(self) -> Subject:
        return cast(Subject, self.twin)
