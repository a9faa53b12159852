"""Self-checks of notebook 08, image classification."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from minigslora.course.checks.common import Demands, close


def exercise_08_1(
    slice_rows: Callable[[Tensor, Tensor, list[str], list[str]], tuple[Tensor, Tensor]],
) -> Demands:
    """Check that a sliced head gives the whole head's logits of the wanted classes, in their order."""
    stream = torch.Generator().manual_seed(81)
    weight, bias = torch.randn(7, 5, generator=stream), torch.randn(7, generator=stream)
    embedding, classes, wanted = torch.randn(3, 5, generator=stream), list("abcdefg"), ["f", "a", "d"]
    rows, values = slice_rows(weight, bias, classes, wanted)
    yield tuple(rows.shape) == (3, 5), f"The weight is {tuple(rows.shape)}; one row a wanted class."
    yield tuple(values.shape) == (3,), f"The bias is {tuple(values.shape)}; one value a wanted class."
    whole = embedding @ weight.T + bias
    expected = torch.stack([whole[:, classes.index(name)] for name in wanted], dim=1)
    hint = "The logits are not those of the whole head; are the rows in the order of the wanted names?"
    yield close(embedding @ rows.T + values, expected, hint)


def exercise_08_2(change_of: Callable[[Tensor, Tensor], tuple[float, float]]) -> Demands:
    """Check the change of an accuracy and its standard error, picture by picture."""
    before = torch.tensor([True] * 70 + [False] * 30)
    after = torch.tensor([True] * 61 + [False] * 9 + [True] * 4 + [False] * 26)
    kept = before.clone()
    change, error = change_of(before, after)
    yield torch.equal(before, kept), "Your function changes the tensors it is given."
    yield math.isclose(change, -5.0, rel_tol=1e-6), "9 pictures were lost and 4 won, of 100."
    steps = 100 * (after.double() - before.double())
    expected = float(steps.std(correction=0)) / len(steps) ** 0.5
    hint = "It is the spread of each picture's own change (−100, 0 or +100), over √n."
    yield math.isclose(error, expected, rel_tol=1e-6), hint


def exercise_08_3(leaving: Callable[[Tensor, tuple[int, ...]], float]) -> Demands:
    """Check the share of answers outside the task, on made-up logits."""
    logits = torch.eye(6)[[0, 5, 2, 3, 3, 1, 4, 4]]
    for rows, expected in (((0, 2, 4), 50.0), ((5,), 87.5), (tuple(range(6)), 0.0)):
        given = leaving(logits, rows)
        hint = (
            f"With the task's rows {rows} it gave {given}; count answers that are none of them, in percent."
        )
        yield math.isclose(given, expected, abs_tol=1e-4), hint


def exercise_08_4(prototypes: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Demands:
    """Check prototypes of classes with and without images."""
    stream = torch.Generator().manual_seed(84)
    weight, bias = torch.randn(4, 6, generator=stream), torch.randn(4, generator=stream)
    outputs, labels = torch.randn(5, 4, generator=stream), torch.tensor([2, 0, 2, 2, 0])
    given = prototypes(outputs, labels, weight, bias)
    yield tuple(given.shape) == (4, 4), f"The shape is {tuple(given.shape)}; a row a class, in logits."
    means = torch.stack([outputs[[1, 4]].mean(0), outputs[[0, 2, 3]].mean(0)])
    hint = "A class with images has the mean of their outputs."
    yield torch.allclose(given[[0, 2]], means, atol=1e-5), hint
    head = nn.Linear(6, 4)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
        expected = head(weight)[[1, 3]]
    yield close(given[[1, 3]], expected, "For a class without images, feed its own row to the head.", 1e-4)
