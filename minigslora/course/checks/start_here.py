"""Self-checks of notebook 00, start here."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from minigslora import lora
from minigslora.course.checks.common import Demands, close
from minigslora.erasure import Erasure
from minigslora.models.checkpoint import load_shipped


def exercise_00_1(h_untouched: float, h_destroyed: float) -> Demands:
    """Check H of a model that nobody edited and of one that always answers the same."""
    yield h_untouched == 0, "How far did the forgotten class fall in the untouched model?"
    expected = 1 / ((1 / 1.0 + 1 / 92.0) / 2)  # Acc_r 1 and Drop 92, as the mean of reciprocals
    hint = f"{h_destroyed:.3g} for the destroyed model: its Acc_r is 1, and what is its Drop?"
    yield abs(h_destroyed - expected) < 0.02, hint


def exercise_00_2(mean_true_probability: Callable[[Tensor, Tensor], float]) -> Demands:
    """Check the mean probability of the true class on scores whose probabilities are known."""
    known = torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]])
    labels = torch.tensor([0, 2])
    hint = "Take the softmax over people, pick each photograph's own person, then the mean."
    yield close(mean_true_probability(known.log(), labels), 0.6, hint)


def exercise_00_3(taken_for: Callable[[Tensor, Tensor, int], Mapping[int, int]]) -> Demands:
    """Check whom a person's photographs are taken for, on made-up scores."""
    labels = torch.tensor([1, 1, 1, 0, 1])
    logits = torch.eye(4)[[2, 2, 1, 3, 0]]
    found = {int(k): int(v) for k, v in taken_for(logits, labels, 1).items()}
    yield sum(found.values()) == 4, "Person 1 has 4 photographs here; count theirs only."
    yield 3 not in found, "Person 3 was the answer to somebody else's photograph."
    yield found == {2: 2, 1: 1, 0: 1}, "The answer is the class with the highest score."


def exercise_00_4(erasure: Erasure) -> Demands:
    """Check that two requests were served in order, and that revoking both gives the shipped model."""
    reports, model = erasure.reports, erasure.model
    yield len(reports) == 2, f"{len(reports)} request was served; a list holds one list for each."
    names = [[erasure.problem.data.classes[c] for c in report.forget] for report in reports]
    yield names == [["person-007"], ["person-011"]], f"The requests were {names}, in this order."
    attached = lora.adapter_names(model)
    hint = f"Each request has corrections of its own, but the model carries {attached or 'none'}."
    yield attached == ["task1", "task2"], hint
    copied = copy.deepcopy(model)
    lora.remove(copied)
    shipped = load_shipped("mini-faces")[0].state_dict()
    same = all(torch.equal(v.cpu(), shipped[k]) for k, v in copied.state_dict().items())
    yield same, "Below the corrections is another model than the shipped one; load a fresh one."
